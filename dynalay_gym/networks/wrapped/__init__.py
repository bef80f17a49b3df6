"""Anybody's network, run block by block.

Reading order: config, macs, tracing, chain, network, training.
"""
