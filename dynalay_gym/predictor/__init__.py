"""A network and a policy as one classifier that skips.

Reading order: predictor, inference, policies; saving; parts, solve_parts,
main_parts, plan_parts, skip_parts, export; hub.

May import: errors, storage, utils, data, fixed_point, networks, sessions, envs.
"""
