"""Sudoku puzzles: their rules, an exact solver, generated splits.

Reading order: rules, solver, grids, puzzles.
"""
