"""The decision process as Gymnasium environments.

Reading order: process, observation, reward, episodes, vector_env, single_env; config,
checks; table, oracle, render; skipping.

May import: errors, storage, utils, data, networks, sessions.
"""
