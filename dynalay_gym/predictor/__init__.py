"""A network and a policy as one classifier that skips.

May import: errors, utils, data, fixed_point, networks, sessions, envs.
"""
