"""Comparing policies, whoever made them: evaluation, reference policies, tables.

Reading order: evaluate, reference_policies, walk, comparison; frontier, diagnostics,
study; intervals, tables, figures, animation.

May import: errors, storage, utils, data, networks, envs.
"""
