"""Data sets as tensors, cut into fixed splits.

Reading order: registry, splits, images, maze, chains.

May import: errors, storage, utils.
"""
