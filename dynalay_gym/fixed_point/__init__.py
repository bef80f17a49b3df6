"""Fixed-point layers and their gradients, usable alone in any network."""
