"""The paper's agent, trained by policy gradient.

Reading order: agent, rollout, returns, losses.
"""
