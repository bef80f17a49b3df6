"""Adapters to reinforcement-learning libraries.

Reading order: sb3.

May import: errors, utils, networks, envs, evaluation.
"""
