"""Residual networks as sessions: run or skip the next block.

Reading order: decisions, state, session, gated.
"""
