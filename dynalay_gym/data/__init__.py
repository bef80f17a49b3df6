"""Data sets as tensors, cut into fixed splits.

Reading order: registry, splits, images, maze.

May import: errors, storage, utils.
"""
