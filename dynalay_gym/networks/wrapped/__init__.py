"""Anybody's network, run block by block.

Reading order: config, pieces, tracing, cuts, checks, macs, network, contraction,
training.
"""
