"""Fixed-point layers, usable alone in anybody's network.

``z* = relu(x + W z*)`` with ``||W|| <= kappa < 1``: a contraction, so the solution
exists, is unique, and plain iteration finds it (DynaLay, Theorem 1).

Axes: n samples; a state is a vector [n, D] or maps [n, C, H, W].
"""

from abc import abstractmethod
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point import batch_invariant
from dynalay_gym.fixed_point.caching import Freezable
from dynalay_gym.fixed_point.contraction import (
    contract,
    conv_symbol,
    depthwise_bound,
    gram_bound,
)
from dynalay_gym.fixed_point.progress import Map, SolveResult
from dynalay_gym.fixed_point.relu_solve import relu_map, relu_solve
from dynalay_gym.fixed_point.solve import (
    GradientRule,
    SolverConfig,
    fixed_point_iteration,
    residual_curve,
    solve,
)


class FixedPointLayer(Freezable):
    """The solution ``z_star`` of ``z = relu(x + W z)``.

    The weight is stored freely and scaled on use, so that a certified upper bound of
    its operator norm is at most ``kappa`` at every step of training. A subclass gives
    `norm_bound`, `recur` and `state_shape`; formulas of its own for `recur_transposed`
    and `weight_gradient` make its gradients faster.

    Args:
        weight: Initial free weight.
        kappa: Bound of the operator norm, in (0, 1).
        solver: Tolerances and gradient rule; `SolverConfig()` if None.

    Raises:
        ConfigError: kappa lies outside (0, 1).
    """

    def __init__(
        self, weight: Tensor, kappa: float, solver: SolverConfig | None = None
    ) -> None:
        super().__init__()
        if not 0 < kappa < 1:
            raise ConfigError(f"kappa must lie in (0, 1), not {kappa}")
        self.free_weight = nn.Parameter(weight)
        self.kappa = kappa
        self.solver = solver or SolverConfig()

    @property
    @abstractmethod
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one sample's state."""

    @abstractmethod
    def norm_bound(self) -> Tensor:
        """Return a certified upper bound of the free weight's norm; see `contract`."""

    @abstractmethod
    def recur(self, z: Tensor, weight: Tensor) -> Tensor:
        """Return ``W z`` [n, ...], in new memory."""

    def recur_transposed(self, a: Tensor, weight: Tensor) -> Tensor:
        """Return ``W^T a`` [n, ...], in new memory."""
        return self._vector_jacobian(a, weight, torch.zeros_like(a))[0]

    def weight_gradient(self, z: Tensor, a: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient of ``sum(a * W z)`` for the weight, in its type."""
        return self._vector_jacobian(a, weight, z)[1]

    def _vector_jacobian(
        self, a: Tensor, weight: Tensor, z: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Differentiate ``sum(a * W z)`` for z and the weight."""
        image, transposed = torch.func.vjp(self.recur, z, weight)[:2]
        dz, dw = transposed(a.to(image.dtype))
        return dz, dw

    def weight(self) -> Tensor:
        """Return the contraction ``W``; it is bounded once here, not per iteration."""
        if self._frozen is not None:
            frozen: Tensor = self._frozen
            return frozen
        with torch.autocast(self.free_weight.device.type, enabled=False):
            return contract(self.free_weight, self.norm_bound(), self.kappa)

    def freeze(self) -> Self:
        """Compute ``W`` once for many solves; ``train()`` undoes it."""
        self._frozen = None
        weight = self.weight().detach()
        if weight.dim() == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        self._frozen = weight
        return self

    def solve(
        self, x: Tensor, z0: Tensor | None = None, solver: SolverConfig | None = None
    ) -> SolveResult:
        """Iterate to the fixed point; differentiable when gradients are on.

        Args:
            x: Injected input [n, ...].
            z0: Initial iterate [n, ...]; relu(x), one application from zero, if None.
            solver: Options in place of the layer's own.

        Returns:
            SolveResult; ``num_steps`` counts applications of ``W``.
        """
        config, weight = solver or self.solver, self.weight()
        unrolls = config.rule is GradientRule.UNROLL and torch.is_grad_enabled()
        if not unrolls and config.max_steps > 0:
            return relu_solve(self, weight, z0, x, config)

        def f(z: Tensor, x: Tensor) -> Tensor:
            return torch.relu(x + self.recur(z, weight))

        return solve(f, torch.relu(x) if z0 is None else z0, x, config)

    def check(self, x: Tensor, z: Tensor, solver: SolverConfig) -> SolveResult:
        """Apply the map once at z [n, ...], whatever the steps of the solver."""
        return fixed_point_iteration(self.map(), z, x, rtol=solver.rtol, max_steps=1)

    def residual_curve(
        self, x: Tensor, solver: SolverConfig, z0: Tensor | None = None
    ) -> list[float]:
        """Return the relative residual after each iteration of one sample's solve.

        Args:
            x: Its injected input [1, ...].
            solver: Tolerance and most steps; the iteration is the plain one.
            z0: Initial iterate [1, ...]; relu(x) if None.
        """
        start = torch.relu(x) if z0 is None else z0
        return residual_curve(self.map(), start, x, solver)

    def map(self) -> Map:
        """Return the map (z, x) -> z, without gradients; W is computed here, once."""
        return relu_map(self, self.weight())

    def forward(self, x: Tensor) -> Tensor:
        """Return ``z_star`` [n, ...] for the injected input x [n, ...]."""
        return self.solve(x).value


class ConvFixedPointLayer(FixedPointLayer):
    """Fixed-point layer whose ``W`` is a zero-padded convolution.

    A *depthwise* one convolves every channel by itself, and bounds the norm of each, so
    that a channel has the same solution whatever others there are. It starts at W = 0.

    Args:
        channels: Channels C of state and input.
        height: Height in pixels of the maps it is certified for.
        width: Width in pixels of the maps it is certified for.
        kernel_size: Odd side of the kernel.
        kappa: Bound of the operator norm, in (0, 1).
        solver: Tolerances and gradient rule.
        depthwise: Whether every channel is convolved by itself.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        *,
        kernel_size: int = 3,
        kappa: float = 0.9,
        solver: SolverConfig | None = None,
        depthwise: bool = False,
    ) -> None:
        inputs = 1 if depthwise else channels
        kernel = torch.zeros(channels, inputs, kernel_size, kernel_size)
        if not depthwise:
            nn.init.kaiming_normal_(kernel, nonlinearity="relu")
        super().__init__(kernel, kappa, solver)
        self.height, self.width, self.depthwise = height, width, depthwise

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one sample's state, at the size that it is certified for."""
        return self.free_weight.shape[0], self.height, self.width

    @property
    def macs_per_iteration(self) -> int:
        """Multiply-adds of one application of ``W`` to one sample."""
        return batch_invariant.conv2d_macs(
            self.free_weight.shape, self.height, self.width
        )

    def norm_bound(self) -> Tensor:
        """Return the bound by the kernel's symbol on the torus.

        Of a depthwise kernel, one per channel; else by Gram iteration.
        """
        # One memory format, so that the bound's last bit does not depend on it.
        weight = self.free_weight.contiguous()
        if self.depthwise:
            return depthwise_bound(weight, self.height, self.width)
        return gram_bound(conv_symbol(weight, self.height, self.width))

    def recur(self, z: Tensor, weight: Tensor) -> Tensor:
        """Convolve [n, C, H, W]; H and W at most those certified.

        Depthwise, z may have some of the channels, if the weight [C, 1, k, k] has the
        same.
        """
        return self._convolve(z, weight)

    def recur_transposed(self, a: Tensor, weight: Tensor) -> Tensor:
        """Correlate [n, C, H, W]: convolve with the kernel turned round."""
        turned = weight.flip(2, 3)
        if not self.depthwise:
            turned = turned.transpose(0, 1)
        return self._convolve(a, turned)

    def weight_gradient(self, z: Tensor, a: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient of ``sum(a * W z)`` for the kernel, in its type."""
        dtype = _working_type(weight)  # the library takes one type for both
        gradient: Tensor = conv2d_weight(
            z.to(dtype),
            weight.shape,
            a.to(dtype),
            padding=weight.shape[-1] // 2,
            groups=self._groups(weight),
        )
        return gradient.to(weight.dtype)

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        padding, groups = weight.shape[-1] // 2, self._groups(weight)
        return batch_invariant.conv2d(x, weight, padding=padding, groups=groups)

    def _groups(self, weight: Tensor) -> int:
        return len(weight) if self.depthwise else 1


class DenseFixedPointLayer(FixedPointLayer):
    """Fixed-point layer whose ``W`` is a square matrix.

    Args:
        features: Size D of state and input.
        kappa: Bound of the operator norm, in (0, 1).
        solver: Tolerances and gradient rule.
    """

    def __init__(
        self,
        features: int,
        *,
        kappa: float = 0.9,
        solver: SolverConfig | None = None,
    ) -> None:
        weight = torch.empty(features, features)
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
        super().__init__(weight, kappa, solver)

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one sample's state."""
        return (self.free_weight.shape[0],)

    @property
    def macs_per_iteration(self) -> int:
        """Multiply-adds of one application of ``W`` to one sample."""
        return self.free_weight.numel()

    def norm_bound(self) -> Tensor:
        """Return the bound by Gram iteration on the matrix."""
        return gram_bound(self.free_weight[None])

    def recur(self, z: Tensor, weight: Tensor) -> Tensor:
        """Multiply rows [n, D] by ``W``."""
        return batch_invariant.linear(z, weight)

    def recur_transposed(self, a: Tensor, weight: Tensor) -> Tensor:
        """Multiply rows [n, D] by the transpose of ``W``."""
        return batch_invariant.linear(a, weight.T)

    def weight_gradient(self, z: Tensor, a: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient of ``sum(a * W z)`` for the matrix, in its type."""
        return (a.T @ z.to(a.dtype)).to(weight.dtype)


def _working_type(weight: Tensor) -> torch.dtype:
    """Return the type in which autocast, or else the weight, has a product computed."""
    device = weight.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weight.dtype
