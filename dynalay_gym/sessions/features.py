"""What an observer sees of a network, as numbers in [0, 1].

Axes: m rows, K classes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Names and widths of what `softmax_summary` returns, for a session's layout.
SOFTMAX_LAYOUT = {"max_prob": 1, "entropy": 1, "margin": 1}


def squash(x: Tensor) -> Tensor:
    """Map numbers of [0, inf] to [0, 1]: ``x / (1 + x)``; what overflowed becomes 1."""
    return (x / (1 + x)).nan_to_num(nan=1.0)


def squash_signed(x: Tensor) -> Tensor:
    """Map any numbers to [0, 1]: ``(1 + x / (1 + |x|)) / 2``; no number becomes 1."""
    return ((1 + x / (1 + x.abs())) / 2).nan_to_num(nan=1.0)


def softmax_summary(logits: Tensor) -> Tensor:
    """Return how sure an answer is, float32 [m, 3].

    Args:
        logits: Float [m, K], K at least 2.

    Returns:
        Largest probability, entropy over log K, and margin between the two largest
        probabilities; all 1 where a logit is not finite.
    """
    return _to_unit(_softmax_parts(logits))


def network_layout(widths: Sequence[int]) -> dict[str, int]:
    """Return name and width of each part of `network_features`, in order.

    Args:
        widths: Pooled activations of each layer.
    """
    layout = {f"activations/{i}": width for i, width in enumerate(widths)}
    of_solves = dict.fromkeys(("residual", "iterated"), len(widths))
    return layout | SOFTMAX_LAYOUT | of_solves


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
    squashed = pooled / (1 + pooled)
    parts = squashed, _softmax_parts(logits), residual, iterated
    return _to_unit(torch.cat(parts, 1))


def skip_features(
    pooled: Tensor, logits: Tensor, next_block: Tensor, ran: Tensor
) -> Tensor:
    """Return the features of a residual network's rows, float32 [m, F].

    Args:
        pooled: Pooled activations of what enters the next block, float [m, W].
        logits: Answers, float [m, K].
        next_block: Which block is decided on next, bool [m, B].
        ran: Which blocks have run, bool [m, B].
    """
    parts = squash_signed(pooled), softmax_summary(logits), next_block, ran
    return torch.cat([part.float() for part in parts], 1)


def _softmax_parts(logits: Tensor) -> Tensor:
    probs = logits.softmax(1)
    top = probs.topk(2, dim=1).values
    entropy = torch.special.entr(probs).sum(1, keepdim=True) / math.log(probs.shape[1])
    return torch.cat([top[:, :1], entropy, top[:, :1] - top[:, 1:]], 1)


def _to_unit(features: Tensor) -> Tensor:
    """Bring features into [0, 1], in place; what is no number, or too large, is 1."""
    return features.nan_to_num_(nan=1.0).clamp_(0.0, 1.0)
