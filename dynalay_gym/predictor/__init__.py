"""A network and a policy as one classifier that skips.

Reading order: predictor, inference, policies; saving; parts, export; hub.

May import: errors, storage, utils, data, fixed_point, networks, sessions, envs.
"""
