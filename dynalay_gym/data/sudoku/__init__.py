"""Sudoku puzzles: their rules, an exact solver, generated splits.

Reading order: grids, solver, puzzles.
"""
