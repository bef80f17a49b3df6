"""The text form of a main network's layer: an LSTM that reads a text again and again.

A plain application reads it once. An iteration reads it once more, knowing what the
reading before made of the whole text: its last state and its mean go, through a bounded
gate, into every word. That is what one causal pass lacks: what stands further right.

Activations are kept as maps [n, C, T, 1] in [0, 1], as in the other forms: LSTM states
h are stored as (1 + h) / 2. A last channel says which positions hold a word; padding
stands behind the text, and its other channels are 0.

Axes: n texts, T positions, C channels, H hidden units.

References:
    Mathur & Plis (2023), DynaLay, section D.2 and eq. 14: stacked LSTM layers that are
    iterated. What is fed back is not said there; this is our choice.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.data.vocabulary import PADDING
from dynalay_gym.fixed_point.batch_invariant import linear
from dynalay_gym.fixed_point.progress import Map, SolveResult
from dynalay_gym.fixed_point.solve import (
    SolverConfig,
    fixed_point_iteration,
    residual_curve,
    solve,
)
from dynalay_gym.networks.layers.base import LayerMacs, LayerState, MainLayer
from dynalay_gym.networks.layers.norm import Pattern

# An LSTM as PyTorch begins it hands on less than half of what it reads; stacked ones
# learn late. With this factor what it hands on is about as large.
_GAIN = 2.5
LOUDEST = 4.0  # with a gate up to 1 alone, networks learn much later what it is for


class TokenStem(nn.Module):
    """Embeds words; neighbouring ones together, if asked, as the mean of their vectors.

    Args:
        vocabulary: Tokens V; token 0 is padding.
        width: Channels C of an embedding.
        stride: Words W that share a position of what the layers read.
        std: Standard deviation of the vectors before training, as they are read. It
            should be small where words are rare, or what is left of it is noise.
        scale: By what stored vectors are multiplied when they are read. Above 1 they
            are stored smaller, and an optimiser's step moves them further.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        stride: int = 1,
        std: float = 1.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.stride, self.scale = stride, scale
        self.embedding = nn.EmbeddingBag(
            vocabulary, width, mode="mean", padding_idx=PADDING
        )
        nn.init.normal_(self.embedding.weight, std=std / scale)
        self.embedding.weight.data[PADDING] = 0

    def forward(self, tokens: Tensor) -> Tensor:
        """Return maps [n, C + 1, ceil(T / W), 1] of tokens, int64 [n, T]."""
        filled = F.pad(tokens, (0, -tokens.shape[1] % self.stride), value=PADDING)
        groups = filled.reshape(-1, self.stride)
        embedded = torch.tanh(self.scale * self.embedding(groups))
        is_word = tokens[:, :: self.stride] != PADDING
        embedded = embedded.view(*is_word.shape, embedded.shape[1])
        return _to_maps(embedded.movedim(2, 1), is_word[:, None])

    @property
    def vectors(self) -> Tensor:
        """The vectors of all words as they are stored, [V, C]."""
        return self.embedding.weight

    def padding(self, tokens: Tensor) -> Tensor:
        """Return how many of a text's positions hold no word, int64 [n]."""
        return (tokens[:, :: self.stride] == PADDING).sum(1)


class Rereading(nn.Module):
    """One reading of a text: ``z' = LSTM([x, x * 4 tanh(W s(z) + b)])``.

    s(z) is the last state and the mean of the reading before. Its gate lies in (-4, 4)
    whatever W is. That this is a contraction is not certified: iterations are bounded,
    and a solve's status says whether it has converged.

    Args:
        in_channels: Channels C of the sequence that is read.
        hidden: Hidden units H.
    """

    def __init__(self, in_channels: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2 * in_channels, hidden, batch_first=True)
        self.lstm.get_parameter("weight_ih_l0").data.mul_(_GAIN)
        self.feedback = nn.Linear(2 * hidden, in_channels)

    def read(self, x: Tensor, z: Tensor | None) -> Tensor:
        """Return a reading [n, H + 1, T, 1] of x [n, C + 1, T, 1].

        Args:
            x: What is read.
            z: The reading before [n, H + 1, T, 1]; None for the first one.
        """
        is_word, length = x[:, -1, :, 0], x.shape[2]
        longest = int(is_word.sum(1).amax()) if len(x) > 0 else 0
        used = max(longest, 1)  # padding behind the longest text is not read
        words = (2 * x[:, :-1, :used, 0] - 1).movedim(1, 2)
        if z is None:
            gated = torch.zeros_like(words)
        else:
            gated = words * self.gate(z)[:, :used]
        # Autocast is off: few processors have an LSTM in bf16.
        with torch.autocast("cpu", enabled=False):
            states, _ = self.lstm(torch.cat([words, gated], 2))
        states = F.pad(states.movedim(2, 1), (0, length - used))
        return _to_maps(states, is_word[:, None])

    def gate(self, z: Tensor) -> Tensor:
        """Return by what each word is multiplied, [n, 1 or T, C], after a reading z."""
        weight, bias = self.feedback.weight, self.feedback.bias
        scores = linear(2 * summary(z) - 1, weight) + bias
        return LOUDEST * torch.tanh(scores)[:, None]

    def solve(
        self, x: Tensor, z0: Tensor | None = None, solver: SolverConfig | None = None
    ) -> SolveResult:
        """Read until nothing changes; differentiable when gradients are on.

        Args:
            x: What is read [n, C + 1, T, 1].
            z0: The first reading [n, H + 1, T, 1]; made if None.
            solver: Tolerances, steps and gradient rule; `SolverConfig()` if None.

        Returns:
            SolveResult; ``num_steps`` counts the readings after the first.
        """
        start = self.read(x, None) if z0 is None else z0
        return solve(self._map(), start, x, solver or SolverConfig())

    def check(self, x: Tensor, z: Tensor, solver: SolverConfig) -> SolveResult:
        """Read once more, whatever the steps of the solver."""
        return fixed_point_iteration(self._map(), z, x, rtol=solver.rtol, max_steps=1)

    def residual_curve(
        self, x: Tensor, solver: SolverConfig, z0: Tensor | None = None
    ) -> list[float]:
        """Return the relative residual after each reading of one text."""
        start = self.read(x, None) if z0 is None else z0
        return residual_curve(self._map(), start, x, solver)

    def _map(self) -> Map:
        return lambda z, x: self.read(x, z)


class ReadingLayer(MainLayer):
    """An LSTM layer that reads once, or until its reading no longer changes.

    Args:
        in_channels: Channels C of the layer below.
        hidden: Hidden units H.
        length: Positions T.
    """

    recurrence: Rereading

    def __init__(self, in_channels: int, hidden: int, length: int) -> None:
        super().__init__()
        self.in_channels, self.hidden, self.length = in_channels, hidden, length
        self.recurrence = Rereading(in_channels, hidden)

    @property
    def num_features(self) -> int:
        """Last state and mean."""
        return 2 * self.hidden

    def plain(self, below: LayerState, pattern: Pattern) -> LayerState:
        """Read once; see `MainLayer.plain`."""
        y = self.recurrence.read(below.y, None)
        return LayerState(y, y)

    def _inject(self, below: LayerState, state: LayerState, pattern: Pattern) -> Tensor:
        return below.y

    def _start(self, state: LayerState, x: Tensor) -> Tensor:
        return state.u  # the first reading

    def _read(
        self, state: LayerState, x: Tensor, z: Tensor, pattern: Pattern
    ) -> LayerState:
        return LayerState(z, state.u, None, x)

    def residual_curve(self, state: LayerState, solver: SolverConfig) -> list[float]:
        """Return the residuals along a solve; see `MainLayer.residual_curve`."""
        assert state.x is not None, "an iterated layer"
        return self.recurrence.residual_curve(state.x, solver)  # from a first reading

    def pool(self, state: LayerState) -> Tensor:
        """Return last state and mean, float [n, 2H] in [0, 1]."""
        return summary(state.y)

    def macs(self) -> LayerMacs:
        """Return the cost of a reading of all positions, and what padding saves."""
        position = 4 * self.hidden * (2 * self.in_channels + self.hidden)
        feedback = self.recurrence.feedback.weight.numel()
        reading = self.length * position
        return LayerMacs(reading, (0, 0), reading + feedback, position)


def summary(z: Tensor) -> Tensor:
    """Return the last word's state and the mean over words of a reading, [n, 2H].

    Args:
        z: Reading [n, H + 1, T, 1]; of a text without words all is 0.
    """
    states, is_word = z[:, :-1, :, 0], z[:, -1, :, 0]
    num_words = is_word.sum(1).clamp(min=1)
    last = (num_words.long() - 1)[:, None, None].expand(-1, states.shape[1], 1)
    return torch.cat(
        [states.gather(2, last)[:, :, 0], states.sum(2) / num_words[:, None]], 1
    )


def summaries(z: Tensor) -> Tensor:
    """Return what `summary` would be after every word of full texts, [n, T, 2H].

    Args:
        z: Reading [n, H + 1, T, 1] without padding.
    """
    states = z[:, :-1, :, 0].movedim(1, 2)
    count = torch.arange(1, states.shape[1] + 1, device=z.device)[:, None]
    return torch.cat([states, states.cumsum(1) / count], 2)


def _to_maps(states: Tensor, is_word: Tensor) -> Tensor:
    """Return maps [n, C + 1, T, 1] of states [n, C, T] and of words [n, 1, T]."""
    kept = (1 + states) / 2 * is_word
    return torch.cat([kept, is_word.to(kept)], 1)[..., None]
