"""Main networks, the agent's network, and their checkpoints.

Reading order: layers, main_network, presets, costs; residual, lcnet, wrapped;
state_losses, overflow, trainer, training, checkpoint, selective; policy, agent_net.

May import: errors, storage, utils, data, fixed_point.
"""
