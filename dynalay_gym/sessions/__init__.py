"""A network run as a state machine: the protocol and its implementations.

Reading order: protocol, states, torch_session, main_state, features, checks; fastest,
accel, skip; calibration, measure, transition_table, table_cache.

May import: errors, storage, utils, data, fixed_point, networks.
"""
