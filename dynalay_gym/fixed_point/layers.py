"""Fixed-point layers, usable alone in anybody's network.

``z* = relu(x + W z*)`` with ``||W|| <= kappa < 1``: a contraction, so the solution
exists, is unique, and plain iteration finds it (DynaLay, Theorem 1).
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point import batch_invariant
from dynalay_gym.fixed_point.caching import Freezable
from dynalay_gym.fixed_point.contraction import contract, conv_symbol, gram_bound
from dynalay_gym.fixed_point.gradients import relu_map, relu_solve
from dynalay_gym.fixed_point.iteration import fixed_point_iteration
from dynalay_gym.fixed_point.progress import SolveResult
from dynalay_gym.fixed_point.solve import GradientRule, SolverConfig, solve


class FixedPointLayer(Freezable, ABC):
    """The solution ``z_star`` of ``z = f(z, x) = relu(x + W z)``.

    The weight is stored freely and scaled on use, so that a certified upper bound of
    its operator norm is at most ``kappa`` at every step of training.

    Args:
        weight: Initial free weight.
        kappa: Bound of the operator norm, in (0, 1).
        solver: Tolerances and gradient rule.

    Raises:
        ConfigError: if kappa lies outside (0, 1).
    """

    def __init__(self, weight: Tensor, kappa: float, solver: SolverConfig) -> None:
        super().__init__()
        if not 0 < kappa < 1:
            raise ConfigError(f"kappa must lie in (0, 1), not {kappa}")
        self.free_weight = nn.Parameter(weight)
        self.kappa = kappa
        self.solver = solver

    @abstractmethod
    def norm_bound(self) -> Tensor:
        """Certified upper bound of the free weight's operator norm (scalar)."""

    @abstractmethod
    def recur(self, z: Tensor, weight: Tensor) -> Tensor:
        """Apply the linear map: ``W z``, in new memory."""

    def recur_transposed(self, a: Tensor, weight: Tensor) -> Tensor:
        """Apply the transpose: ``W^T a``, in new memory."""
        return self._vector_jacobian(a, weight, torch.zeros_like(a))[0]

    def weight_gradient(self, z: Tensor, a: Tensor, weight: Tensor) -> Tensor:
        """Gradient of ``sum(a * W z)`` with respect to the weight, in its type."""
        return self._vector_jacobian(a, weight, z)[1]

    def _vector_jacobian(
        self, a: Tensor, weight: Tensor, z: Tensor
    ) -> tuple[Tensor, Tensor]:
        """For a map of which only ``recur`` is known; its own formulas are faster."""
        z, weight = z.detach().requires_grad_(), weight.detach().requires_grad_()
        with torch.enable_grad():
            image = self.recur(z, weight)
        dz, dw = torch.autograd.grad(image, (z, weight), a.to(image.dtype))
        return dz, dw

    @property
    @abstractmethod
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one sample's state."""

    def weight(self) -> Tensor:
        """The contraction ``W``; bounded once here, not once per iteration."""
        if self._kept is not None:
            frozen: Tensor = self._kept["weight"]
            return frozen
        return self._contraction()

    def _contraction(self) -> Tensor:
        with torch.autocast(self.free_weight.device.type, enabled=False):
            return contract(self.free_weight, self.norm_bound(), self.kappa)

    def freeze(self) -> Self:
        """Compute ``W`` once for many solves; ``train()`` undoes it."""
        weight = self._contraction().detach()
        if weight.dim() == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        self._kept = {"weight": weight}
        return self

    def solve(
        self, x: Tensor, z0: Tensor | None = None, solver: SolverConfig | None = None
    ) -> SolveResult:
        """Iterate to the fixed point.

        Args:
            x: Injected input, of the state's shape [n, ...].
            z0: Initial iterate [n, ...]; one application from zero, relu(x), if None.
            solver: Options in place of the layer's own.

        Returns:
            SolveResult; ``num_steps`` counts applications of ``W``.
        """
        config = solver or self.solver
        weight = self.weight()
        unrolled = config.rule is GradientRule.UNROLL and torch.is_grad_enabled()
        if not unrolled and config.max_steps > 0:
            return relu_solve(self, weight, z0, x, config)

        def f(z: Tensor, x: Tensor) -> Tensor:
            return torch.relu(x + self.recur(z, weight))

        start = torch.relu(x) if z0 is None else z0
        return solve(f, start, x, replace(config, warm_precision=None))

    def check(self, x: Tensor, z: Tensor, solver: SolverConfig) -> SolveResult:
        """Apply the map once at z [n, ...], whatever the steps of the solver."""
        f = relu_map(self, self.weight())
        return fixed_point_iteration(f, z, x, rtol=solver.rtol, max_steps=1)

    def residual_curve(self, x: Tensor, solver: SolverConfig) -> list[float]:
        """Relative residual after each iteration of one sample's solve, x [1, ...]."""
        z, curve = torch.relu(x), list[float]()
        while len(curve) < solver.max_steps:
            result = self.check(x, z, solver)
            z = result.value
            curve.append(float(result.residual))
            if not curve[-1] >= solver.rtol:
                break
        return curve

    def forward(self, x: Tensor) -> Tensor:
        """Return ``z_star`` [n, ...] for the injected input x [n, ...]."""
        return self.solve(x).value


class ConvFixedPointLayer(FixedPointLayer):
    """Fixed-point layer whose ``W`` is a zero-padded convolution.

    Args:
        channels: Channels C of state and input.
        height: Height in pixels of the maps it is certified for.
        width: Width in pixels of the maps it is certified for.
        kernel_size: Odd side of the kernel.
        kappa: Bound of the operator norm, in (0, 1).
        solver: Tolerances and gradient rule.
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
    ) -> None:
        kernel = torch.empty(channels, channels, kernel_size, kernel_size)
        nn.init.kaiming_normal_(kernel, nonlinearity="relu")
        super().__init__(kernel, kappa, solver or SolverConfig())
        self.height, self.width = height, width

    def norm_bound(self) -> Tensor:
        """Bound by Gram iteration on the kernel's symbol on the padded torus."""
        # One memory format, so that the bound's last bit does not depend on it.
        weight = self.free_weight.contiguous()
        return gram_bound(conv_symbol(weight, self.height, self.width))

    def recur(self, z: Tensor, weight: Tensor) -> Tensor:
        """Convolve [n, C, H, W]; H and W at most those certified."""
        return batch_invariant.conv2d(z, weight, padding=weight.shape[-1] // 2)

    def recur_transposed(self, a: Tensor, weight: Tensor) -> Tensor:
        """Correlate [n, C, H, W]: a convolution with the kernel turned round."""
        turned = weight.flip(2, 3).transpose(0, 1)
        return batch_invariant.conv2d(a, turned, padding=weight.shape[-1] // 2)

    def weight_gradient(self, z: Tensor, a: Tensor, weight: Tensor) -> Tensor:
        """Gradient of ``sum(a * W z)`` with respect to the kernel."""
        # The library's kernels take one type for all three.
        precision = _working_type(weight)
        _, gradient, _ = torch.ops.aten.convolution_backward(
            a.to(precision),
            z.to(precision),
            weight.to(precision),
            bias_sizes=None,
            stride=[1, 1],
            padding=[weight.shape[-1] // 2] * 2,
            dilation=[1, 1],
            transposed=False,
            output_padding=[0, 0],
            groups=1,
            output_mask=[False, True, False],
        )
        kernel: Tensor = gradient.to(weight.dtype)
        return kernel

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
        super().__init__(weight, kappa, solver or SolverConfig())

    def norm_bound(self) -> Tensor:
        """Bound by Gram iteration on the matrix."""
        return gram_bound(self.free_weight[None])

    def recur(self, z: Tensor, weight: Tensor) -> Tensor:
        """Multiply rows [n, D] by ``W``."""
        return batch_invariant.linear(z, weight)

    def recur_transposed(self, a: Tensor, weight: Tensor) -> Tensor:
        """Multiply rows [n, D] by the transpose of ``W``."""
        return batch_invariant.linear(a, weight.T)

    def weight_gradient(self, z: Tensor, a: Tensor, weight: Tensor) -> Tensor:
        """Gradient of ``sum(a * W z)`` with respect to the matrix."""
        return (a.T @ z.to(a.dtype)).to(weight.dtype)

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one sample's state."""
        return (self.free_weight.shape[0],)

    @property
    def macs_per_iteration(self) -> int:
        """Multiply-adds of one application of ``W`` to one sample."""
        return self.free_weight.numel()


def _working_type(weight: Tensor) -> torch.dtype:
    """Type in which autocast, or else the weight, has a product computed."""
    device = weight.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weight.dtype
