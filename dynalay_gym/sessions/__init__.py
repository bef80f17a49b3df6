"""A network run as a state machine: the protocol and its implementations.

May import: errors, utils, data, fixed_point, networks.
"""
