"""The decision process as Gymnasium environments.

May import: errors, utils, data, networks, sessions.
"""
