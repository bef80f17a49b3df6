"""Data sets as tensors, cut into fixed splits.

May import: errors, utils.
"""
