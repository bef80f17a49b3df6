"""Adapters to reinforcement-learning libraries.

Reading order: sb3.

May import: errors, storage, utils, networks, envs, evaluation.
"""
