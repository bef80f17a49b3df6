"""A main network that learns beside an agent.

Reading order: env_wrapper, trainer, collect; config, new_training, main_training.

May import: errors, storage, utils, data, fixed_point, networks, sessions, envs.
"""
