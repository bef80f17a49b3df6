"""Main networks, the agent's network, and their checkpoints.

May import: errors, utils, data, fixed_point.
"""
