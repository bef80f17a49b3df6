"""Data sets as tensors, cut into fixed splits.

Reading order: registry, splits, images.

May import: errors, utils.
"""
