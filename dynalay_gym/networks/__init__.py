"""Main networks, the agent's network, and their checkpoints.

Reading order: layers, main_network, presets, costs; training, checkpoint, selective;
policy, agent_net.

May import: errors, utils, data, fixed_point.
"""
