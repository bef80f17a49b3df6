"""Solves of a main network's convolutional layers by torchdeq (the extra ``deq``)."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks.paper.experiment import Setting
from dynalay_gym.cotraining.new_training import network_config
from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.layers import ConvFixedPointLayer
from dynalay_gym.fixed_point.progress import SolveResult, SolverStatus
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.main_network import MainNetwork


def check_solvable(setting: Setting) -> None:
    """Raise ConfigError if torchdeq is missing, or layers are no convolutions."""
    if find_spec("torchdeq") is None:
        raise ConfigError(
            'solvers are those of torchdeq: pip install "dynalay-gym[deq]"'
        )
    config: Any = network_config(setting.dataset, setting.preset)
    if config.form not in ("state", "wide"):
        raise ConfigError(
            f"torchdeq solves convolutional layers, {setting.dataset} has other ones; "
            "choose digits, fashion-mnist, cifar10 or cifar100"
        )


def solve_by(network: MainNetwork, method: str) -> None:
    """Let torchdeq solve all layers of a network, in training.

    Args:
        network: A network of convolutional layers; its weights stay what they are.
        method: ``anderson`` or ``broyden``, for solves and their gradients.
    """
    from torchdeq import get_deq

    for layer in network.main_layers:
        recurrence = layer.recurrence
        assert isinstance(recurrence, ConvFixedPointLayer), "see `check_solvable`"
        solver: Any = _Solver(recurrence, method, get_deq)
        recurrence.solve = solver  # type: ignore[method-assign]


class _Solver:
    """What is called as a layer's ``solve``."""

    def __init__(self, layer: ConvFixedPointLayer, method: str, get_deq: Any) -> None:
        self._layer, self._method, self._get_deq = layer, method, get_deq

    def __call__(
        self, x: Tensor, z0: Tensor | None = None, solver: SolverConfig | None = None
    ) -> SolveResult:
        """Solve; see `FixedPointLayer.solve`."""
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
        # What training reads of a solve is its value; of the rest torchdeq says little.
        steps, residual = (
            torch.as_tensor(info[name]).flatten().expand(len(x))
            for name in ("nstep", "rel_lowest")
        )
        status = torch.full_like(steps, SolverStatus.MAX_STEPS, dtype=torch.int64)
        status[residual <= options.rtol] = SolverStatus.CONVERGED
        return SolveResult(found[-1].view_as(x), residual, steps.long(), status)
