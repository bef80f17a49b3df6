"""Backward induction over a decision tree: pure functions.

Axes: m samples, K nodes in levels of equal depth, A actions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def action_values(
    rewards: Tensor, children: Tensor, levels: Sequence[slice], policy: Tensor
) -> Tensor:
    """Return what every choice earns in the end under a policy, [m, K, A].

    Q(k, a) = r(k, a) + V(child(k, a)) with V(k) = sum_a p(a | k) Q(k, a)

    Args:
        rewards: Float [m, K, A].
        children: Node that a choice leads to, int64 [K, A]; -1 ends the episode.
        levels: Ranges of nodes of equal depth, the start's first.
        policy: Probability of every action, float [m, K, A].
    """
    values = rewards.new_zeros(len(rewards), rewards.shape[1] + 1)  # [-1]: the end
    found = rewards.clone()
    for level in reversed(levels):
        found[:, level] += values[:, children[level]]
        values[:, level] = (policy[:, level] * found[:, level]).sum(-1)
    return found


def visits(policy: Tensor, children: Tensor, levels: Sequence[slice]) -> Tensor:
    """Return the probability that a policy gets to every node, [m, K].

    Args:
        policy: Probability of every action, float [m, K, A].
        children: Node that a choice leads to, int64 [K, A]; -1 ends the episode.
        levels: Ranges of nodes of equal depth, the start's first.
    """
    reached = policy.new_zeros(len(policy), policy.shape[1] + 1)
    reached[:, 0] = 1.0
    for level in levels:
        passed = reached[:, level, None] * policy[:, level]
        reached.index_add_(
            1, children[level].flatten() % reached.shape[1], passed.flatten(1)
        )
    return reached[:, :-1]


def soft_policy(scores: Tensor, allowed: Tensor, temperature: float) -> Tensor:
    """Return the probabilities softmax(scores / temperature) over allowed actions.

    Args:
        scores: Float [m, K, A].
        allowed: Bool [K, A], or [m, K, A].
        temperature: Above 0; towards 0 the best action takes all.
    """
    return (scores / temperature).masked_fill(~allowed, -torch.inf).softmax(-1)


def advantage_loss(
    scores: Tensor, values: Tensor, allowed: Tensor, weights: Tensor
) -> Tensor:
    """Return the weighted squared error of the scores' differences between actions.

    What all actions of a node have in common is left out: it decides nothing.

    Args:
        scores: Float [m, K, A].
        values: What they should be up to a constant per node, [m, K, A]; no gradient
            passes.
        allowed: Bool [K, A], or [m, K, A].
        weights: Weight of every node, float [m, K].
    """
    errors = (scores - values.detach()) * allowed
    mean = errors.sum(-1, keepdim=True) / allowed.sum(-1, keepdim=True)
    squares = ((errors - mean) * allowed).square().sum(-1)
    return (weights * squares).mean()
