"""What every selectable layer of a main network is.

A layer takes the activations of the layer below and the pattern of iterated layers
below, and returns a new state; it holds no state of its own.

Axes: n samples; y [n, C, H, W] visible activations; h [n, Ch, Hh, Wh] hidden stream.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from dynalay_gym.fixed_point.progress import SolveResult
from dynalay_gym.fixed_point.rows import select_rows
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.layers.norm import Pattern


class LayerState(NamedTuple):
    """One layer's activations for n samples.

    Attributes:
        y: Visible activations; what the next layer's plain application reads.
        u: Pre-activation of the plain application.
        h: Hidden stream; of an iterated layer (and of the stem) only.
        x: Input injected into the iteration; of an iterated layer only.
    """

    y: Tensor
    u: Tensor
    h: Tensor | None = None
    x: Tensor | None = None

    @property
    def z(self) -> Tensor:
        """What an iterated layer iterates: the hidden stream if there is one, or y."""
        return self.y if self.h is None else self.h

    def at(self, rows: Tensor) -> "LayerState":
        """Return some of the rows, int64 [m]."""
        parts = (part if part is None else select_rows(part, rows) for part in self)
        return LayerState(*parts)  # type: ignore[arg-type]  # y and u are there


@dataclass(frozen=True)
class LayerMacs:
    """Multiply-adds of one layer for one sample, a text without padding.

    Attributes:
        plain: One plain application.
        setup: What a solve costs beside its iterations, if the layer below is
            (plain, iterated).
        iteration: One application of the recurrent map.
        padding: What each position of padding saves in either of these.
    """

    plain: int
    setup: tuple[int, int]
    iteration: int
    padding: int = 0


class Recurrence(Protocol):
    """What a layer iterates; `ConvFixedPointLayer` is one."""

    def solve(
        self, x: Tensor, z0: Tensor | None = None, solver: SolverConfig | None = None
    ) -> SolveResult:
        """Iterate from z0 with the injected input x [n, ...]."""

    def check(self, x: Tensor, z: Tensor, solver: SolverConfig) -> SolveResult:
        """Apply the map once at z [n, ...]."""

    def residual_curve(
        self, x: Tensor, solver: SolverConfig, z0: Tensor | None = None
    ) -> list[float]:
        """Return the relative residual after each iteration of one sample's solve."""


class MainLayer(nn.Module, ABC):
    """A selectable layer: it is applied plainly, or iterated, in one go or in portions.

    A subclass says what its plain application is, what is injected into its recurrence
    and how an iterate is read.
    """

    recurrence: Recurrence

    @property
    @abstractmethod
    def num_features(self) -> int:
        """Numbers F that `pool` returns for a sample."""

    @abstractmethod
    def plain(self, below: LayerState, pattern: Pattern) -> LayerState:
        """Apply the layer once, from zero; a hidden stream is not touched.

        Args:
            below: State of the layer below.
            pattern: Which layers below are iterated.
        """

    def iterate(
        self,
        below: LayerState,
        state: LayerState,
        pattern: Pattern,
        solver: SolverConfig,
    ) -> tuple[LayerState, SolveResult]:
        """Iterate the layer from where it stands, towards its fixed point.

        Portions of iterations end where one long solve of as many iterations ends, to
        the bit.

        Args:
            below: State of the layer below; read if this layer was applied plainly.
            state: This layer's, as `plain` or `iterate` returned it.
            pattern: Which layers below are iterated.
            solver: Options of the solve.

        Returns:
            The new state, and the solve.
        """
        if state.x is None:
            x = self._inject(below, state, pattern)
            z0 = self._start(state, x)
        else:
            x, z0 = state.x, state.z
        result = self.recurrence.solve(x, z0, solver)
        return self._read(state, x, result.value, pattern), result

    @abstractmethod
    def _inject(self, below: LayerState, state: LayerState, pattern: Pattern) -> Tensor:
        """Return the input of the iteration."""

    def _start(self, state: LayerState, x: Tensor) -> Tensor | None:
        """Return the first iterate; None leaves it to the recurrence."""
        return None

    @abstractmethod
    def _read(
        self, state: LayerState, x: Tensor, z: Tensor, pattern: Pattern
    ) -> LayerState:
        """Return the state that belongs to an iterate z."""

    def check(self, state: LayerState, solver: SolverConfig) -> SolveResult:
        """Apply the recurrent map once to an iterated layer; it stays as it is."""
        assert state.x is not None, "an iterated layer"
        return self.recurrence.check(state.x, state.z, solver)

    def residual_curve(self, state: LayerState, solver: SolverConfig) -> list[float]:
        """Return the residuals along the solve of one iterated sample, from its start.

        Args:
            state: This layer's, of one sample.
            solver: Tolerance, and the most iterations to show.
        """
        assert state.x is not None, "an iterated layer"
        start = self._start(state, state.x)
        return self.recurrence.residual_curve(state.x, solver, start)

    @abstractmethod
    def pool(self, state: LayerState) -> Tensor:
        """Return what observers and the head see of the layer, float [n, F], >= 0."""

    def picture(self, state: LayerState) -> Tensor:
        """Return what pictures show of the layer, float [n, C, H, W], >= 0."""
        return state.y

    @abstractmethod
    def macs(self) -> LayerMacs:
        """Return the cost in closed form."""
