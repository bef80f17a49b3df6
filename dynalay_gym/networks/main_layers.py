"""The two forms of a main network's selectable layer.

``StateLayer`` is the paper's form: the activations themselves are iterated.
``WideStreamLayer`` keeps a thin plain pass and iterates a wide hidden stream beside it.

Axes: n samples; y [n, C, H, W] visible activations; h [n, Ch, Hh, Wh] hidden stream.
A layer takes the activations of the layer below and the pattern of iterated layers
below (bit i = layer i + 1) and gives a new state; it holds no state of its own.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.fixed_point import batch_invariant
from dynalay_gym.fixed_point.caching import Freezable
from dynalay_gym.fixed_point.layers import ConvFixedPointLayer
from dynalay_gym.fixed_point.progress import SolveResult
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.norm import Pattern, PatternNorm


class Activations(Protocol):
    """One layer's activations for n samples, as the layers read them.

    Attributes:
        y: Visible activations; what the next layer's plain application reads.
        u: Pre-activation of the plain application; of a plainly applied layer only.
        h: Hidden stream; of an iterated layer (and of the stem) only.
        x: Input injected into the iteration; of an iterated layer only.
    """

    @property
    def y(self) -> Tensor: ...  # noqa: D102 - see the attributes
    @property
    def u(self) -> Tensor: ...  # noqa: D102
    @property
    def h(self) -> Tensor | None: ...  # noqa: D102
    @property
    def x(self) -> Tensor | None: ...  # noqa: D102

    def at(self, rows: Tensor) -> "Activations":
        """Some of the rows, int64 [m]."""


class LayerState(NamedTuple):
    """Activations as a layer leaves them; see ``Activations``."""

    y: Tensor
    u: Tensor
    h: Tensor | None = None
    x: Tensor | None = None

    def at(self, rows: Tensor) -> "LayerState":
        """Some of the rows, int64 [m]."""
        h, x = (None if part is None else part[rows] for part in (self.h, self.x))
        return LayerState(self.y[rows], self.u[rows], h, x)


@dataclass(frozen=True)
class LayerMacs:
    """Multiply-adds of one layer for one sample.

    Attributes:
        plain: One plain application.
        setup: What a solve costs beside its iterations, if the layer below is
            (plain, iterated).
        iteration: One application of the recurrent map.
    """

    plain: int
    setup: tuple[int, int]
    iteration: int


class MainLayer(Protocol):
    """What a main network needs of a layer."""

    def plain(self, below: Activations, pattern: Pattern) -> LayerState:
        """Apply the layer once, from zero."""

    def iterate(
        self,
        below: Activations,
        state: Activations,
        pattern: Pattern,
        solver: SolverConfig,
    ) -> tuple[LayerState, SolveResult]:
        """Bring a plainly applied layer to its fixed point."""

    def check(self, state: Activations, solver: SolverConfig) -> SolveResult:
        """Apply the map once at the fixed point; the state stays as it is."""

    def residual_curve(self, state: Activations, solver: SolverConfig) -> list[float]:
        """Residuals along the solve of one iterated sample, for pictures."""

    def pool(self, state: LayerState) -> Tensor:
        """Global average of the activations [n, F]; 0 for a stream not iterated."""

    def macs(self) -> LayerMacs:
        """Closed-form cost."""


def conv_weight(out_channels: int, in_channels: int, kernel: int = 3) -> nn.Parameter:
    """He-initialised convolution kernel [C_out, C_in, k, k]."""
    weight = torch.empty(out_channels, in_channels, kernel, kernel)
    nn.init.kaiming_normal_(weight, nonlinearity="relu")
    return nn.Parameter(weight)


class _PlainPart(Freezable):
    """What both forms share: ``u = Norm(U y_below)``, plainly applied ``relu(u)``.

    Args:
        below: Channels and side (C, size) of the layer below.
        channels: Channels C of this layer.
        stride: Stride of U.
        num_patterns: Patterns of iterated layers below, 2^(l-1).
    """

    def __init__(
        self, below: tuple[int, int], channels: int, stride: int, num_patterns: int
    ) -> None:
        super().__init__()
        self.stride, self.size = stride, batch_invariant.conv2d_size(below[1], stride)
        self.weight_in = conv_weight(channels, below[0])
        self.norm = PatternNorm(channels, num_patterns)

    def plain(self, below: Activations, pattern: Pattern) -> LayerState:
        """Apply once from zero: ``relu(u)``; a hidden stream is not touched."""
        u = self.norm.convolve(
            below.y, self.weight_in, pattern, stride=self.stride, padding=1
        )
        return LayerState(torch.relu(u), u)

    @property
    def plain_macs(self) -> int:
        """Multiply-adds of one plain application to one sample."""
        return batch_invariant.conv2d_macs(self.weight_in.shape, self.size, self.size)


class StateLayer(_PlainPart):
    """The paper's form: ``z = relu(u + W z)`` with ``u = Norm(U y_below)``.

    The plain application is one step from zero, ``relu(u)``; with W = 0 the layer is an
    ordinary convolution, so both share their weights.

    Args:
        below: Channels and side (C, size) of the layer below.
        channels: Channels C of this layer.
        stride: Stride of U.
        num_patterns: Patterns of iterated layers below, 2^(l-1).
        kappa: Bound of ||W||.
    """

    def __init__(
        self,
        below: tuple[int, int],
        channels: int,
        stride: int,
        *,
        num_patterns: int,
        kappa: float,
    ) -> None:
        super().__init__(below, channels, stride, num_patterns)
        self.recurrence = ConvFixedPointLayer(
            channels, self.size, self.size, kappa=kappa
        )

    def iterate(
        self,
        below: Activations,
        state: Activations,
        pattern: Pattern,
        solver: SolverConfig,
    ) -> tuple[LayerState, SolveResult]:
        """Iterate z from the plain value to the fixed point."""
        u = state.u
        result = self.recurrence.solve(u, solver=solver)
        return LayerState(result.value, u, x=u), result

    def check(self, state: Activations, solver: SolverConfig) -> SolveResult:
        """Apply the map once at z."""
        assert state.x is not None, "only an iterated layer is checked"
        return self.recurrence.check(state.x, state.y, solver)

    def residual_curve(self, state: Activations, solver: SolverConfig) -> list[float]:
        """Residuals along the solve of one iterated sample, for pictures."""
        assert state.x is not None, "only an iterated layer has a curve"
        return self.recurrence.residual_curve(state.x, solver)

    def pool(self, state: LayerState) -> Tensor:
        """Global average of the activations [n, C]."""
        return state.y.mean((2, 3))

    def macs(self) -> LayerMacs:
        """Cost of U once, of W per iteration."""
        return LayerMacs(self.plain_macs, (0, 0), self.recurrence.macs_per_iteration)


class WideStreamLayer(_PlainPart):
    """Thin plain pass with a wide hidden stream that only iterating touches.

    ``u = Norm(U y_below)``; plain: ``y = relu(u)``, h = 0. Iterating:
    ``x = Norm(B pool(relu(u)) + D h_below)``, ``h = relu(x + A h)`` to its fixed point,
    ``y = relu(u + upsample(Norm(C h)))``. The joint map of (y, h) is block triangular,
    so ``||A|| <= kappa < 1`` makes it a contraction in h; B, C and D stay free.

    Args:
        below: Channels and side (C, size) of the layer below.
        below_hidden: Channels and side of the hidden stream below.
        channels: Channels C of y.
        stride: Stride of U.
        hidden: Channels Ch of h.
        pool: Ratio of the sides of y and h.
        num_patterns: Patterns of iterated layers below, 2^(l-1).
        kappa: Bound of ||A||.
    """

    def __init__(
        self,
        below: tuple[int, int],
        below_hidden: tuple[int, int],
        channels: int,
        stride: int,
        hidden: int,
        pool: int,
        *,
        num_patterns: int,
        kappa: float,
    ) -> None:
        super().__init__(below, channels, stride, num_patterns)
        self.ratio, self.hidden_size = (
            pool,
            batch_invariant.conv2d_size(self.size, pool),
        )
        self.hidden_stride = batch_invariant.conv2d_size(
            below_hidden[1], self.hidden_size
        )
        self.is_first = num_patterns == 1
        self.visible_to_hidden = conv_weight(hidden, channels)
        self.hidden_to_hidden = conv_weight(hidden, below_hidden[0])
        self.norm_hidden = PatternNorm(hidden, num_patterns)
        self.recurrence = ConvFixedPointLayer(
            hidden, self.hidden_size, self.hidden_size, kappa=kappa
        )
        self.readout = conv_weight(channels, hidden, kernel=1)
        self.norm_readout = PatternNorm(channels, num_patterns)

    def iterate(
        self,
        below: Activations,
        state: Activations,
        pattern: Pattern,
        solver: SolverConfig,
    ) -> tuple[LayerState, SolveResult]:
        """Iterate the hidden stream to its fixed point and read it out."""
        x = self._inject(below, state, pattern)
        result = self.recurrence.solve(x, solver=solver)
        read = self.norm_readout.convolve(result.value, self.readout, pattern)
        if self.ratio > 1:
            read = F.interpolate(read, size=(self.size, self.size))
        u = state.u
        y = read.add_(u).relu_() if self.is_running else torch.relu(u + read)
        return LayerState(y, u, result.value, x), result

    def _inject(
        self, below: Activations, state: Activations, pattern: Pattern
    ) -> Tensor:
        visible = state.y
        if self.ratio > 1:
            visible = F.avg_pool2d(visible, self.ratio, ceil_mode=True)
        x = batch_invariant.conv2d(visible, self.visible_to_hidden, padding=1)
        rows = self._rows_with_hidden(pattern)
        if rows is None:
            own = self._from_below(below)
            x = x.add_(own) if self.is_running else x + own
        elif rows.numel() > 0:
            new = self._from_below(below.at(rows))
            if x.requires_grad or new.requires_grad:
                x = x.index_add(0, rows, new.to(x.dtype))
            else:
                batch_invariant.add_rows(x, rows, new)
        return self.norm_hidden.normalise_own(x, pattern)

    def _from_below(self, below: Activations) -> Tensor:
        h = below.h
        assert h is not None, "the pattern says that the layer below was iterated"
        return batch_invariant.conv2d(
            h, self.hidden_to_hidden, stride=self.hidden_stride, padding=1
        )

    def _rows_with_hidden(self, pattern: Pattern) -> Tensor | None:
        """Rows whose hidden stream below is not zero; None means all of them."""
        if self.is_first:
            return None
        top_bit = self.norm.weight.shape[0] // 2
        if isinstance(pattern, int):
            none = torch.empty(0, dtype=torch.int64, device=self.readout.device)
            return None if pattern & top_bit else none
        return (pattern & top_bit).nonzero().flatten()

    def check(self, state: Activations, solver: SolverConfig) -> SolveResult:
        """Apply the recurrent map once at h."""
        assert state.x is not None, "only an iterated layer is checked"
        assert state.h is not None, "the fixed point of an iterated layer"
        return self.recurrence.check(state.x, state.h, solver)

    def residual_curve(self, state: Activations, solver: SolverConfig) -> list[float]:
        """Residuals along the solve of one iterated sample, for pictures."""
        assert state.x is not None, "only an iterated layer has a curve"
        return self.recurrence.residual_curve(state.x, solver)

    def pool(self, state: LayerState) -> Tensor:
        """Global average of both streams [n, C + Ch]; 0 for a hidden one not run."""
        pooled = state.y.mean((2, 3))
        if state.h is None:
            return F.pad(pooled, (0, self.readout.shape[1]))
        return torch.cat([pooled, state.h.mean((2, 3))], 1)

    def macs(self) -> LayerMacs:
        """Cost of U; of B, D and C per solve; of A per iteration."""
        side = self.hidden_size
        base = batch_invariant.conv2d_macs(self.visible_to_hidden.shape, side, side)
        base += batch_invariant.conv2d_macs(self.readout.shape, side, side)
        from_below = batch_invariant.conv2d_macs(
            self.hidden_to_hidden.shape, side, side
        )
        without = base + from_below if self.is_first else base
        setup = (without, base + from_below)
        return LayerMacs(self.plain_macs, setup, self.recurrence.macs_per_iteration)
