"""A main network that learns beside an agent.

May import: errors, utils, data, fixed_point, networks, sessions, envs.
"""
