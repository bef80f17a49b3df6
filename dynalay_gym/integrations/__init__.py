"""Adapters to reinforcement-learning libraries.

May import: errors, utils, networks, envs, evaluation.
"""
