"""The two forms of a main network's selectable layer.

``StateLayer`` is the paper's form: the activations themselves are iterated.
``WideStreamLayer`` keeps a thin plain pass and iterates a wide hidden stream beside it.
A layer takes the activations of the layer below and the pattern of iterated layers
below, and returns a new state; it holds no state of its own.

Axes: n samples; y [n, C, H, W] visible activations; h [n, Ch, Hh, Wh] hidden stream.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.fixed_point.batch_invariant import conv2d, conv2d_macs, conv2d_size
from dynalay_gym.fixed_point.layers import ConvFixedPointLayer
from dynalay_gym.fixed_point.progress import SolveResult
from dynalay_gym.fixed_point.rows import select_rows
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.norm import Pattern, PatternNorm


class LayerState(NamedTuple):
    """One layer's activations for n samples.

    Attributes:
        y: Visible activations; what the next layer's plain application reads.
        u: Pre-activation of the plain application; of a plainly applied layer only.
        h: Hidden stream; of an iterated layer (and of the stem) only.
        x: Input injected into the iteration; of an iterated layer only.
    """

    y: Tensor
    u: Tensor
    h: Tensor | None = None
    x: Tensor | None = None

    def at(self, rows: Tensor) -> "LayerState":
        """Return some of the rows, int64 [m]."""
        parts = (part if part is None else select_rows(part, rows) for part in self)
        return LayerState(*parts)  # type: ignore[arg-type]  # y and u are there


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


class MainLayer(nn.Module, ABC):
    """A selectable layer: ``u = Norm(U y_below)``, plainly applied ``y = relu(u)``.

    A subclass says what is injected into its recurrence and how the solution is read.

    Args:
        below: Channels and side in pixels (C, size) of the layer below.
        channels: Channels C of this layer.
        stride: Stride of U.
        num_patterns: Patterns of iterated layers below, 2^(l-1).
    """

    recurrence: ConvFixedPointLayer

    def __init__(
        self, below: tuple[int, int], channels: int, stride: int, num_patterns: int
    ) -> None:
        super().__init__()
        self.stride, self.size = stride, conv2d_size(below[1], stride)
        self.weight_in = conv_weight(channels, below[0])
        self.norm = PatternNorm(channels, num_patterns)

    def plain(self, below: LayerState, pattern: Pattern) -> LayerState:
        """Apply the layer once, from zero; a hidden stream is not touched.

        Args:
            below: State of the layer below.
            pattern: Which layers below are iterated.
        """
        u = conv2d(below.y, self.weight_in, stride=self.stride, padding=1)
        u = self.norm(u, pattern)
        return LayerState(torch.relu(u), u)

    def iterate(
        self,
        below: LayerState,
        state: LayerState,
        pattern: Pattern,
        solver: SolverConfig,
    ) -> tuple[LayerState, SolveResult]:
        """Bring a plainly applied layer to its fixed point.

        Args:
            below: State of the layer below.
            state: This layer's, as `plain` returned it.
            pattern: Which layers below are iterated.
            solver: Options of the solve.

        Returns:
            The new state, and the solve.
        """
        x = self._inject(below, state, pattern)
        result = self.recurrence.solve(x, solver=solver)
        return self._read(state, x, result.value, pattern), result

    @abstractmethod
    def _inject(self, below: LayerState, state: LayerState, pattern: Pattern) -> Tensor:
        """Return the input of the iteration."""

    @abstractmethod
    def _read(
        self, state: LayerState, x: Tensor, z_star: Tensor, pattern: Pattern
    ) -> LayerState:
        """Return the state that belongs to the solution."""

    def check(self, state: LayerState, solver: SolverConfig) -> SolveResult:
        """Apply the recurrent map once at the fixed point of an iterated layer."""
        assert state.x is not None, "an iterated layer"
        z_star = state.y if state.h is None else state.h
        return self.recurrence.check(state.x, z_star, solver)

    def residual_curve(self, state: LayerState, solver: SolverConfig) -> list[float]:
        """Return the residuals along the solve of one iterated sample."""
        assert state.x is not None, "an iterated layer"
        return self.recurrence.residual_curve(state.x, solver)

    def pool(self, state: LayerState) -> Tensor:
        """Return the global averages of the activations, float [n, F]."""
        return state.y.mean((2, 3))

    def macs(self) -> LayerMacs:
        """Return the cost in closed form."""
        plain = conv2d_macs(self.weight_in.shape, self.size, self.size)
        return LayerMacs(plain, (0, 0), self.recurrence.macs_per_iteration)


class StateLayer(MainLayer):
    """The paper's form: ``z = relu(u + W z)`` with ``u = Norm(U y_below)``.

    The plain application is one step from zero, ``relu(u)``; with W = 0 the layer is an
    ordinary convolution, so both share their weights.

    Args:
        below, channels, stride, num_patterns: See `MainLayer`.
        kappa: Bound of ||W||, in (0, 1).

    References:
        Mathur & Plis (2023), DynaLay, section 3.
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
        sides = self.size, self.size
        self.recurrence = ConvFixedPointLayer(channels, *sides, kappa=kappa)

    def _inject(self, below: LayerState, state: LayerState, pattern: Pattern) -> Tensor:
        return state.u

    def _read(
        self, state: LayerState, x: Tensor, z_star: Tensor, pattern: Pattern
    ) -> LayerState:
        return LayerState(z_star, x, x=x)


class WideStreamLayer(MainLayer):
    """Thin plain pass with a wide hidden stream that only iterating touches.

    ``u = Norm(U y_below)``; plain: ``y = relu(u)``, h = 0. Iterating:
    ``x = Norm(B pool(relu(u)) + D h_below)``, ``h = relu(x + A h)`` to its fixed point,
    ``y = relu(u + upsample(Norm(C h)))``. The joint map of (y, h) is block triangular,
    so ``||A|| <= kappa < 1`` makes it a contraction in h; B, C and D stay free.

    Args:
        below, channels, stride, num_patterns: See `MainLayer`.
        below_hidden: Channels and side in pixels of the hidden stream below.
        hidden: Channels Ch of h.
        pool: Ratio of the sides of y and h.
        kappa: Bound of ||A||, in (0, 1).
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
        self.ratio, self.hidden_size = pool, conv2d_size(self.size, pool)
        self.hidden_stride = conv2d_size(below_hidden[1], self.hidden_size)
        self.is_first = num_patterns == 1
        self.visible_to_hidden = conv_weight(hidden, channels)
        self.hidden_to_hidden = conv_weight(hidden, below_hidden[0])
        self.norm_hidden = PatternNorm(hidden, num_patterns)
        self.recurrence = ConvFixedPointLayer(
            hidden, self.hidden_size, self.hidden_size, kappa=kappa
        )
        self.readout = conv_weight(channels, hidden, kernel=1)
        self.norm_readout = PatternNorm(channels, num_patterns)

    def _inject(self, below: LayerState, state: LayerState, pattern: Pattern) -> Tensor:
        visible = state.y
        if self.ratio > 1:
            visible = F.avg_pool2d(visible, self.ratio, ceil_mode=True)
        x = conv2d(visible, self.visible_to_hidden, padding=1)
        # Whether the hidden stream below is not zero: of all rows, or bool [n].
        has_hidden = self.is_first or (pattern & len(self.norm.weight) // 2) != 0
        if isinstance(has_hidden, Tensor):
            rows = has_hidden.nonzero()[:, 0]
            if len(rows) > 0:
                own = self._from_below(below.at(rows))
                x = x.index_add(0, rows, own.to(x.dtype))
        elif has_hidden:
            x = x + self._from_below(below)
        normed: Tensor = self.norm_hidden(x, pattern)
        return normed

    def _from_below(self, below: LayerState) -> Tensor:
        assert below.h is not None, "the pattern says that the layer below was iterated"
        stride = self.hidden_stride
        return conv2d(below.h, self.hidden_to_hidden, stride=stride, padding=1)

    def _read(
        self, state: LayerState, x: Tensor, z_star: Tensor, pattern: Pattern
    ) -> LayerState:
        read = self.norm_readout(conv2d(z_star, self.readout), pattern)
        if self.ratio > 1:
            read = F.interpolate(read, size=(self.size, self.size))
        return LayerState(torch.relu(state.u + read), state.u, z_star, x)

    def pool(self, state: LayerState) -> Tensor:
        """Return the global averages of both streams, float [n, C + Ch].

        Those of a hidden stream that was not iterated are 0.
        """
        pooled = super().pool(state)
        if state.h is None:
            return F.pad(pooled, (0, self.readout.shape[1]))
        return torch.cat([pooled, state.h.mean((2, 3))], 1)

    def macs(self) -> LayerMacs:
        """Return the cost of U; of B, D and C per solve; of A per iteration."""
        side, base = self.hidden_size, super().macs()
        weights = self.visible_to_hidden, self.readout, self.hidden_to_hidden
        macs = [conv2d_macs(weight.shape, side, side) for weight in weights]
        setup = sum(macs) if self.is_first else sum(macs[:2]), sum(macs)
        return LayerMacs(base.plain, setup, base.iteration)


def conv_weight(out_channels: int, in_channels: int, kernel: int = 3) -> nn.Parameter:
    """Return a He-initialised convolution kernel [C_out, C_in, k, k]."""
    weight = torch.empty(out_channels, in_channels, kernel, kernel)
    nn.init.kaiming_normal_(weight, nonlinearity="relu")
    return nn.Parameter(weight)
