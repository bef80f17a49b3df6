"""What was made elsewhere: adapters to libraries, and policies of one's own.

Reading order: policies, compare, sb3.

May import: errors, storage, utils, data, networks, envs, evaluation.
"""
