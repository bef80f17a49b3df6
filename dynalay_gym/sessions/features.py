"""What an observer sees of a network, as numbers in [0, 1].

Axes: m rows, K classes.
"""

import math

import torch
from torch import Tensor

# Names and widths of what `softmax_summary` returns, for a session's layout.
SOFTMAX_LAYOUT = {"max_prob": 1, "entropy": 1, "margin": 1}


def squash(x: Tensor) -> Tensor:
    """Map numbers of [0, inf] to [0, 1]: ``x / (1 + x)``; what overflowed becomes 1."""
    return (x / (1 + x)).nan_to_num(nan=1.0)


def softmax_summary(logits: Tensor) -> Tensor:
    """Return how sure an answer is, float32 [m, 3].

    Args:
        logits: Float [m, K], K at least 2.

    Returns:
        Largest probability, entropy over log K, and margin between the two largest
        probabilities; all 1 where a logit is not finite.
    """
    log_probs = logits.log_softmax(1)
    probs = log_probs.exp()
    top = probs.topk(2, dim=1).values
    entropy = (probs * log_probs).sum(1) / -math.log(logits.shape[1])
    summary = torch.stack([top[:, 0], entropy, top[:, 0] - top[:, 1]], 1)
    return summary.nan_to_num(nan=1.0).clamp(0.0, 1.0)


def network_features(
    pooled: Tensor, logits: Tensor, residual: Tensor, iterated: Tensor
) -> Tensor:
    """Return the features of a main network's rows, float32 [m, F].

    Args:
        pooled: Pooled activations of all layers side by side, float [m, D], >= 0.
        logits: Answers, float [m, K].
        residual: Relative residual of each layer's last solve, float [m, L]; 1 for a
            layer that was only applied plainly.
        iterated: Whether each layer sits on its fixed point, bool [m, L].
    """
    parts = squash(pooled), softmax_summary(logits)
    return torch.cat(
        [*parts, residual.nan_to_num(nan=1.0).clamp(max=1.0), iterated.float()], 1
    )
