"""Gates that choose, input by input, which blocks and inner channels run.

Reading order: config, gates, network, policy, losses, reinforce, optimizer, training,
diagnostics.
"""
