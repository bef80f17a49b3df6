"""Fixed-point layers and their gradients, usable alone in any network.

Reading order: layers, bellman, relu_solve, solve, progress; contraction, anderson,
gradients; caching, rows, batch_invariant.

May import: errors, storage, utils.
"""
