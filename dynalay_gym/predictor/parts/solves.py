"""Solves in programs: one iteration of a recurrence, and as many as may be needed.

Axes: n inputs.
"""

import torch
from torch import Tensor, nn

from dynalay_gym.fixed_point.bellman import BellmanLayer
from dynalay_gym.fixed_point.layers import FixedPointLayer
from dynalay_gym.fixed_point.progress import (
    SolveResult,
    SolverStatus,
    relative_residual,
)
from dynalay_gym.fixed_point.solve import SolverConfig


class Iteration(nn.Module):
    """One step of a solve: the map applied once, and its relative residual [n].

    Args:
        layer: The recurrent map, frozen.
    """

    def __init__(self, layer: FixedPointLayer | BellmanLayer) -> None:
        super().__init__()
        self.map, self.state_shape = layer.map(), layer.state_shape

    def forward(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the map to iterates z under the injected input x, both [n, ...]."""
        new = self.map(z, x)
        return new, relative_residual(new, z)

    def start(self, x: Tensor) -> Tensor:
        """Return the first iterate [n, ...], one application from zero."""
        return self.map(x.new_zeros(x.shape[0], *self.state_shape), x)


class StaticSolve(nn.Module):
    """Stands where a layer has its recurrence, and takes the same steps for all.

    A sample stays as it is once it has converged: the same values as in a solve,
    without the time that stopping early saves.

    Args:
        layer: The recurrent map, frozen.
        max_steps: Steps of every solve; with 0 it returns what a solve starts from.
    """

    def __init__(self, layer: FixedPointLayer | BellmanLayer, max_steps: int) -> None:
        super().__init__()
        self.iteration, self.max_steps = Iteration(layer), max_steps

    def solve(
        self, x: Tensor, z0: Tensor | None = None, solver: SolverConfig | None = None
    ) -> SolveResult:
        """Iterate from z0 with the injected input x, both [n, C, H, W]."""
        assert solver is not None, "a network gives its own"
        z = self.iteration.start(x) if z0 is None else z0
        residual = torch.ones_like(x[:, 0, 0, 0])
        steps = torch.zeros_like(residual, dtype=torch.int64)
        goes_on = torch.ones_like(residual, dtype=torch.bool)
        for _ in range(self.max_steps):
            new, found = self.iteration(z, x)
            z = torch.where(goes_on[:, None, None, None], new, z)
            residual = torch.where(goes_on, found, residual)
            steps = steps + goes_on
            goes_on = goes_on & (residual >= solver.rtol)
        status = goes_on * int(SolverStatus.MAX_STEPS)
        return SolveResult(z, residual, steps, status)
