"""Comparing policies, whoever made them: evaluation, reference policies, tables.

Reading order: evaluate, reference_policies, comparison; intervals, tables, figures.

May import: errors, utils, networks, envs.
"""
