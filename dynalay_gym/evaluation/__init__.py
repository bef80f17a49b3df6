"""Comparing policies: evaluation, reference policies, tables and figures.

May import: errors, utils, networks, envs.
"""
