"""Solves of a main network's convolutional layers by torchdeq (the extra ``deq``)."""

from typing import Any

import torch
from torch import Tensor

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.layers import ConvFixedPointLayer
from dynalay_gym.fixed_point.progress import SolveResult, SolverStatus
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.main_network import MainNetwork


def solve_by(network: MainNetwork, method: str) -> None:
    """Let torchdeq solve all layers of a network, in training.

    Args:
        network: A network of convolutional layers; its weights stay what they are.
        method: ``anderson`` or ``broyden``, for solves and their gradients.

    Raises:
        ConfigError: torchdeq is missing, or a layer is no convolutional one.
    """
    try:
        from torchdeq import get_deq
    except ImportError:
        raise ConfigError(
            'solvers are those of torchdeq: pip install "dynalay-gym[deq]"'
        ) from None
    for layer in network.main_layers:
        recurrence = layer.recurrence
        if not isinstance(recurrence, ConvFixedPointLayer):
            raise ConfigError("torchdeq solves convolutional layers; choose such data")
        solver: Any = _Solver(recurrence, method, get_deq)
        recurrence.solve = solver  # type: ignore[method-assign]


class _Solver:
    """Stands where a layer's own ``solve`` stood."""

    def __init__(self, layer: ConvFixedPointLayer, method: str, get_deq: Any) -> None:
        self._layer, self._method, self._get_deq = layer, method, get_deq

    def __call__(
        self, x: Tensor, z0: Tensor | None = None, solver: SolverConfig | None = None
    ) -> SolveResult:
        """Solve; see `FixedPointLayer.solve`. Residuals are not told."""
        layer, options = self._layer, solver or self._layer.solver
        weight = layer.weight()
        deq = self._get_deq(
            ift=True,
            f_solver=self._method,
            b_solver=self._method,
            f_stop_mode="rel",
            b_stop_mode="rel",
            f_tol=options.rtol,
            b_tol=options.adjoint_rtol,
            f_max_iter=options.max_steps,
            b_max_iter=max(options.adjoint_max_steps, 1),
        )
        deq.train(torch.is_grad_enabled())
        start = torch.relu(x) if z0 is None else z0
        found, info = deq(
            lambda z: torch.relu(x + layer.recur(z, weight)), start.detach()
        )
        steps = torch.as_tensor(info["nstep"]).flatten().to(torch.int64)
        none = torch.full((len(x),), torch.nan)
        ended = torch.full((len(x),), int(SolverStatus.CONVERGED))
        return SolveResult(found[-1].view_as(x), none, steps, ended)
