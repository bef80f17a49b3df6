"""A predictor taken apart into programs that need nothing of this package.

Reading order: part, decisions; solves, held, layers, plan; blocks.
"""
