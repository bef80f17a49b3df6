"""Fixed-point layers and their gradients, usable alone in any network.

May import: errors, utils.
"""
