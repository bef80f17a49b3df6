"""Residual networks, whose blocks can be skipped.

Reading order: config, blocks, network, skipping, training.
"""
