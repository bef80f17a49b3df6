"""Data sets as tensors, cut into fixed splits.

Reading order: registry, splits, images, maze; vocabulary, chains, reviews.

May import: errors, storage, utils.
"""
