"""Gates: numbers from a block's input that say what of the block runs.

Axes: n samples, C channels, G gates.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.fixed_point.batch_invariant import linear

_MOST_SLICES = 8
_LEAK = 0.1  # a gate that is shut or fully open for all would not learn otherwise


@dataclass(frozen=True)
class Gate:
    """The gates of one block.

    Attributes:
        layer: Factor of the branch [n]; 0 skips it.
        channels: Factors of the inner channels [n, C_inner]; None is all 1.
        log_prob: Log-probability of those that mattered [n], with the gradient of their
            scores; None if gates have a gradient of their own.
    """

    layer: Tensor
    channels: Tensor | None
    log_prob: Tensor | None = None


class GateScores(nn.Module):
    """One linear score per gate of the mean activations; above 0 the gate is open.

    Means are standardised, so that a weight is worth as much as the bias: without that
    the bias alone learns, and gates end up the same for every input. At the start all
    scores are the bias.

    Args:
        in_channels: Channels of the block's input.
        num_gates: Gates G.
        bias: First score of every input.
    """

    def __init__(self, in_channels: int, num_gates: int, bias: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(in_channels, affine=False)
        self.weight = nn.Parameter(torch.zeros(num_gates, in_channels))
        self.bias = nn.Parameter(torch.full((num_gates,), bias))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores [n, G] of maps [n, C, H, W]."""
        # Channels last, so that the gradient is in the memory format of trainings.
        means = x.flatten(2).movedim(1, 2).mean(1)
        return linear(self.norm(means), self.weight) + self.bias

    @property
    def macs(self) -> int:
        """Multiply-adds for one sample."""
        return self.weight.numel()


class FixedScores(nn.Module):
    """One score per gate, learned, the same for every input.

    Args:
        in_channels: Not used; as `GateScores` has it.
        num_gates: Gates G.
        bias: First score.
    """

    macs = 0

    def __init__(self, in_channels: int, num_gates: int, bias: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.full((num_gates,), bias))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores [n, G] for maps [n, C, H, W]."""
        return self.bias.expand(x.shape[0], -1)


class ScaleGate(nn.Module):
    """ReLU-1, ``min(max(score, 0), 1)``: the gate scales what it lets through.

    In training its gradient leaks on both sides; its values do not, so that training
    sees what evaluation will.

    References:
        LC-Net (2020), arXiv 2007.15151.
    """

    first_score = 1.0

    def forward(self, scores: Tensor, lead: Tensor | float = 0.0) -> Tensor:
        """Return the gates of ``scores + lead``, in [0, 1]."""
        scores = scores + lead
        clamped = scores.clamp(0, 1)
        if not self.training:
            return clamped
        leak = _LEAK * (scores - clamped)
        return clamped + (leak - leak.detach())


class BinaryGate(nn.Module):
    """0 or 1, with logistic noise on the score in training.

    So a gate is 1 with probability ``sigmoid(score / noise)``. A trainer lowers the
    noise to 0: what is chosen in evaluation is then what was trained.

    Attributes:
        noise: Scale of the noise, >= 0.
        has_gradient: Whether gates in training have the gradient of a sigmoid
            (straight-through). Otherwise they have none, but a log-probability that
            does.

    References:
        Veit & Belongie (2018), ConvNet-AIG: Gumbel noise on two scores is logistic
        noise on their difference.
    """

    first_score = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.noise = 1.0
        self.has_gradient = True

    def forward(self, scores: Tensor, lead: Tensor | float = 0.0) -> Tensor:
        """Return the gates of ``scores + lead``, each 0 or 1; noise is per score."""
        if not self.training:
            return (scores + lead > 0).to(scores)
        uniform = torch.rand_like(scores).clamp(1e-6, 1 - 1e-6)
        soft = torch.sigmoid(scores + self.noise * uniform.logit() + lead)
        hard = (soft > 0.5).to(soft)
        return soft + (hard - soft).detach() if self.has_gradient else hard

    def log_prob(self, gates: Tensor, scores: Tensor) -> Tensor:
        """Return the log-probability in training of gates, each 0 or 1, by scores."""
        if self.noise == 0:  # nothing is left to chance
            return torch.zeros_like(scores)
        return F.logsigmoid((2 * gates - 1) * scores / self.noise)


def slice_gates(score: Tensor, gating: nn.Module, num_channels: int) -> Tensor:
    """Return gates of channels that shut slice by slice, from the last one on.

    A slice leads the one behind it by 1: as the score falls from 1 to 1 - S, a
    `ScaleGate` shuts all S slices in turn. There is no score per slice, since every
    slice would hang on the first one's.

    Args:
        score: One score for all channels [n, 1].
        gating: Makes gates of scores.
        num_channels: Channels C, in at most 8 slices of about equal size.

    Returns:
        Gates [n, C]; none is more open than one before it.
    """
    num = min(num_channels, _MOST_SLICES)
    lead = torch.arange(num - 1, -1, -1, device=score.device)
    of_channel = torch.arange(num_channels, device=score.device) * num // num_channels
    gates: Tensor = gating(score, lead)
    return gates.index_select(1, of_channel)


def find_gate(
    x: Tensor,
    gating: nn.Module,
    layer_scores: nn.Module | None,
    channel_scores: nn.Module | None,
    sliced_channels: int | None = None,
) -> Gate:
    """Return the gates of a block.

    Args:
        x: What enters the block [n, C_in, H, W].
        gating: Makes gates of scores.
        layer_scores: Score of the branch; without, it is all open.
        channel_scores: Scores of the inner channels, or one for all slices of them;
            without, they have no gates.
        sliced_channels: Inner channels, if they are shut in slices.
    """
    if isinstance(gating, BinaryGate) and gating.training and not gating.has_gradient:
        assert sliced_channels is None
        return _draw_gate(x.detach(), gating, layer_scores, channel_scores)
    layer, channels = x.new_ones(x.shape[0]), None
    if layer_scores is not None:
        layer = gating(layer_scores(x))[:, 0]
    if channel_scores is not None:
        scores = channel_scores(x)
        if sliced_channels is None:
            channels = gating(scores)
        else:
            channels = slice_gates(scores, gating, sliced_channels)
    return Gate(layer, channels)


def _draw_gate(
    x: Tensor,
    gating: BinaryGate,
    layer_scores: nn.Module | None,
    channel_scores: nn.Module | None,
) -> Gate:
    """Return gates without a gradient and their log-probability; see `find_gate`.

    Gates of channels do not matter where the branch does not run: without them the
    policy gradient has the same mean and less noise.
    """
    layer, channels, log_prob = x.new_ones(x.shape[0]), None, x.new_zeros(x.shape[0])
    if layer_scores is not None:
        scores = layer_scores(x)
        drawn = gating(scores)
        layer, log_prob = drawn[:, 0], gating.log_prob(drawn, scores)[:, 0]
    if channel_scores is not None:
        scores = channel_scores(x)
        channels = gating(scores)
        log_prob = log_prob + layer * gating.log_prob(channels, scores).sum(1)
    return Gate(layer, channels, log_prob)
