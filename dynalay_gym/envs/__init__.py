"""The decision process as Gymnasium environments.

Reading order: process, observation, reward, episodes, vector_env, single_env; config,
checks; table, oracle, render.

May import: errors, storage, utils, data, networks, sessions.
"""
