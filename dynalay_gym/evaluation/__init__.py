"""Comparing policies, whoever made them.

Reading order: evaluate, reference_policies, comparison; intervals, tables, figures.

May import: errors, utils, networks, envs.
"""
