"""A value-iteration layer: a contraction in the sup norm, where a maximum is free.

``v = max(r, gamma p max_a (K_a v))``: planning on a map, one neighbourhood per
iteration. Each kernel K_a is a convex combination of what it covers, so it never widens
the largest difference of two maps, and neither does a maximum; what is left is the
factor ``gamma p``. A ReLU layer that is bounded in the Euclidean norm cannot spread
news over a map: joining directions grows that norm, but not this one.

Axes: n samples; maps [n, C, H, W]; A actions.

References:
    Tamar et al. (2016), Value Iteration Networks.
"""

from typing import Self

import torch
from torch import Tensor, nn

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point import batch_invariant
from dynalay_gym.fixed_point.caching import Freezable
from dynalay_gym.fixed_point.progress import Map, SolveResult
from dynalay_gym.fixed_point.solve import (
    SolverConfig,
    fixed_point_iteration,
    residual_curve,
    solve,
)

# Head start of an initial kernel's neighbour: about 3/4 of its weight with 2 channels.
_LEAN = 4.0


class BellmanLayer(Freezable):
    """The solution ``v*`` of ``v = max(r, gamma p max_a Conv_a(v))``.

    The free kernels go through a softmax over (channel, row, column), so that each
    output pixel is a weighted mean of the 3x3 pixels about it, with zeros outside of
    the map. With r in [0, 1] and p in (0, 1) every iterate from [0, 1] stays there.

    Args:
        channels: Channels C of the values.
        height: Height H of the maps in pixels.
        width: Width W of the maps in pixels.
        num_actions: Actions A per channel.
        gamma: Discount, the bound of the contraction's modulus, in (0, 1).
        solver: Tolerances and gradient rule; `SolverConfig()` if None.

    Raises:
        ConfigError: gamma lies outside (0, 1), or a size is below 1.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        *,
        num_actions: int = 4,
        gamma: float = 0.97,
        solver: SolverConfig | None = None,
    ) -> None:
        super().__init__()
        if not 0 < gamma < 1:
            raise ConfigError(f"gamma must lie in (0, 1), not {gamma}")
        if min(channels, height, width, num_actions) < 1:
            raise ConfigError("channels, height, width and num_actions start at 1")
        self.free_weight = nn.Parameter(_initial_kernels(channels, num_actions))
        self.channels, self.height, self.width = channels, height, width
        self.num_actions, self.gamma = num_actions, gamma
        self.solver = solver or SolverConfig()

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one sample's values."""
        return self.channels, self.height, self.width

    @property
    def macs_per_iteration(self) -> int:
        """Multiply-adds of one application of the kernels to one sample."""
        return self.free_weight.numel() * self.height * self.width

    def modulus(self, x: Tensor) -> Tensor:
        """Return a Lipschitz constant of the map in the sup norm, per sample.

        ``|f(v) - f(w)| <= gamma max(p) |v - w|`` for any maps v and w, at most
        `gamma`. No smaller constant holds for all kernels, since a kernel may put all
        its weight on one pixel; for given ones it is reached where a mean covers the
        map alone, v and w differ by a constant and r does not bind.

        Args:
            x: Injected input [n, 2C, H, W], as `solve` takes it.

        Returns:
            Float [n].
        """
        _, p = x.chunk(2, dim=1)
        modulus: Tensor = self.gamma * p.flatten(1).amax(1)
        return modulus

    def weight(self) -> Tensor:
        """Return the kernels [A C, C, 3, 3], each non-negative with sum 1."""
        if self._frozen is not None:
            frozen: Tensor = self._frozen
            return frozen
        kernels: Tensor = self.free_weight.softmax(1)
        return kernels.view(-1, self.channels, 3, 3)

    def freeze(self) -> Self:
        """Compute the kernels once for many solves; ``train()`` undoes it."""
        self._frozen = None
        self._frozen = self.weight().detach()
        return self

    def solve(
        self, x: Tensor, z0: Tensor | None = None, solver: SolverConfig | None = None
    ) -> SolveResult:
        """Iterate to the fixed point; differentiable when gradients are on.

        Args:
            x: Injected input: rewards r, then passabilities p, [n, 2C, H, W].
            z0: Initial values [n, C, H, W]; r, one application from zero, if None.
            solver: Options in place of the layer's own.

        Returns:
            SolveResult; ``num_steps`` counts applications of the kernels.
        """
        return solve(self.map(), self._start(x, z0), x, solver or self.solver)

    def check(self, x: Tensor, z: Tensor, solver: SolverConfig) -> SolveResult:
        """Apply the map once at z [n, C, H, W], whatever the steps of the solver."""
        return fixed_point_iteration(self.map(), z, x, rtol=solver.rtol, max_steps=1)

    def residual_curve(
        self, x: Tensor, solver: SolverConfig, z0: Tensor | None = None
    ) -> list[float]:
        """Return the relative residual after each iteration of one sample's solve.

        Args:
            x: Its injected input [1, 2C, H, W].
            solver: Tolerance and most steps; the iteration is the plain one.
            z0: Initial values [1, C, H, W]; r if None.
        """
        return residual_curve(self.map(), self._start(x, z0), x, solver)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``v*`` [n, C, H, W] for the injected input x [n, 2C, H, W]."""
        return self.solve(x).value

    def _start(self, x: Tensor, z0: Tensor | None) -> Tensor:
        return x[:, : self.channels].contiguous() if z0 is None else z0

    def map(self) -> Map:
        """Return the map (v, x) -> v; its kernels are computed here, once."""
        weight, gamma = self.weight(), self.gamma

        def f(v: Tensor, x: Tensor) -> Tensor:
            r, p = x.chunk(2, dim=1)
            q = batch_invariant.conv2d(v, weight, padding=1)
            best = q.unflatten(1, (self.num_actions, self.channels)).amax(1)
            return torch.maximum(r, gamma * p * best)

        return f


def _initial_kernels(channels: int, num_actions: int) -> Tensor:
    """Return free kernels [A C, 9 C]: action a leans to one of the four neighbours.

    Kernels that start as flat means lose half of a value with every step, so that news
    of a goal dies before anything can be learned from it.
    """
    kernels = 0.1 * torch.randn(num_actions, channels, channels, 9)
    neighbours = (1, 5, 7, 3)  # up, right, down, left in a 3x3 kernel
    for action in range(num_actions):
        own = kernels[action].diagonal()  # of each channel to itself, [9, C]
        own[neighbours[action % len(neighbours)]] += _LEAN
    return kernels.view(num_actions * channels, channels * 9)
