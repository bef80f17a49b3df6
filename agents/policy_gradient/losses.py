"""Losses of the policy gradient: pure functions, all to be minimised.

Axes: M decisions (a rollout, flattened), A actions.
"""

import torch
from torch import Tensor


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """Return -mean(A_i * log p(a_i)), whose gradient is REINFORCE's.

    Args:
        log_probs: Log-probability [M] of the action that was taken.
        advantages: What it earned above the baseline [M]; no gradient passes.

    References:
        Williams (1992), Simple statistical gradient-following algorithms.
    """
    return -(advantages.detach() * log_probs).mean()


def value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """Return half the mean squared error of the values [M] against returns [M]."""
    return 0.5 * (values - returns.detach()).square().mean()


def entropy(log_probs: Tensor) -> Tensor:
    """Return the entropy [M] in nats of log-probabilities [M, A].

    Actions of probability 0 (log-probability minus infinity) add nothing.
    """
    finite = torch.where(log_probs.isneginf(), 0.0, log_probs)
    return -(finite.exp() * finite).sum(dim=-1)
