"""Data sets as tensors, cut into fixed splits."""
