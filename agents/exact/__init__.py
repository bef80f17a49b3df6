"""Exact learning: the same network, trained on the whole transition table."""
