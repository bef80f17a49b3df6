"""Environments over networks whose blocks are skipped.

Reading order: one_shot, make.
"""
