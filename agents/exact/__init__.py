"""Exact learning: the same network, trained on the whole transition table.

Reading order: agent, values, config.
"""
