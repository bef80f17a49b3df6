"""A policy walks samples of the main split: which state it leaves each of them in.

Axes: n samples, D observation features, A actions, S = 2^L states.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from dynalay_gym.data.splits import Split
from dynalay_gym.envs.dynamics import DecisionProblem, LayerDynamics
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.sessions.accel.session import fastest_session


class Chooser(Protocol):
    """A policy, as a walk uses it; every agent's ``policy`` is one."""

    def act(self, observations: Tensor, infos: Any) -> Tensor:
        """Choose int64 actions [n] for observations [n, D] and infos."""


@dataclass(frozen=True, kw_only=True)
class Walk:
    """What a walk came to, on the device.

    Attributes:
        index: Samples, int64 [n].
        states: State of each when its answer was given, int64 [n].
        returns: Rewards of each, float32 [n].
        macs: Multiply-adds of each, plain pass included, int64 [n].
    """

    index: Tensor
    states: Tensor
    returns: Tensor
    macs: Tensor


def problem_over(
    problem: DecisionProblem, model: MainNetwork, split: Split
) -> DecisionProblem:
    """The same decision problem over another split, with a network of its own.

    Cost unit, penalties and reward stay those of the given problem.
    """
    solver = problem.session.solver
    return replace(
        problem,
        session=fastest_session(model, solver.rtol, solver.max_steps),
        inputs=split.inputs,
        labels=split.labels,
        split=split.name,
        table=None,
    )


@torch.no_grad()
def walk(
    problem: DecisionProblem,
    policy: Chooser,
    index: Tensor,
    epsilon: float,
    generator: torch.Generator,
) -> Walk:
    """Let a policy decide on samples until each has its answer.

    Args:
        problem: Samples and network.
        policy: Chooses the actions; no gradient reaches it.
        index: Samples to walk, int64 [n], on the device.
        epsilon: Share of decisions that are drawn from the useful actions instead.
        generator: Source of those and of the penalties, on the device.
    """
    dynamics = LayerDynamics(problem, len(index))
    rows = torch.arange(len(index), device=index.device)
    low, high = problem.penalty_range
    drawn = torch.rand(len(index), generator=generator, device=index.device)
    dynamics.start(rows, problem.inputs[index], index, low + (high - low) * drawn)
    returns, macs = torch.zeros_like(drawn), dynamics.macs.clone()
    while rows.numel() > 0:
        infos = {k: torch.as_tensor(v) for k, v in dynamics.infos().items()}
        actions = policy.act(torch.as_tensor(dynamics.observe()), infos)
        actions = _explore(actions, infos, epsilon, generator)
        rewards, stop = dynamics.step(rows, actions[rows])
        returns[rows] += rewards
        macs[rows] += dynamics.macs[rows]
        rows = rows[~stop]
    return Walk(index=index, states=dynamics.states(), returns=returns, macs=macs)


def _explore(
    actions: Tensor, infos: Mapping[str, Any], epsilon: float, source: torch.Generator
) -> Tensor:
    """Replace a share of the actions by useful ones drawn evenly."""
    useful = infos["action_mask"].float()
    drawn = torch.multinomial(useful, 1, generator=source)[:, 0]
    chance = torch.rand(len(actions), generator=source, device=actions.device)
    return torch.where(chance < epsilon, drawn, actions)
