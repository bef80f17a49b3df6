"""Adapters to reinforcement-learning libraries."""
