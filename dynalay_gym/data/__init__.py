"""Data sets as tensors, cut into fixed splits.

Reading order: registry, splits, images, maze; vocabulary, hub, chains, reviews,
wikitext; sudoku.

May import: errors, storage, utils.
"""
