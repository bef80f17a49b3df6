"""The policies that a predictor can save: networks, plans and two rules.

Each is also a `Policy` for environments.

Axes: m rows, D observation features, A actions.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn

from dynalay_gym.errors import CheckpointError, ConfigError
from dynalay_gym.networks.agent_net import AgentNet
from dynalay_gym.networks.lcnet.policy import GatesPolicy
from dynalay_gym.networks.policy import (
    NOP,
    Array,
    GreedyNetPolicy,
    Infos,
    PlanPolicy,
    Policy,
    as_numpy,
    like,
)
from dynalay_gym.storage.saved_folder import restore
from dynalay_gym.storage.schema import read_as

Options = dict[str, Any]  # JSON-able
Tensors = Mapping[str, Tensor]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


class NetworkPolicy(GreedyNetPolicy):
    """Greedy choice of a trained network; masked actions are never taken.

    The network is copied, so training on does not change the policy. It is computed in
    double precision and its scores are compared in single, so that a row's choice does
    not depend on the rows beside it.

    Args:
        net: An `AgentNet` (kind ``agent-net``), or a perceptron (kind ``mlp``): an
            ``nn.Sequential`` of ``nn.Linear`` with tanh or ReLU between them, whose
            outputs score the actions.

    Attributes:
        net: The copy: float32 [m, D] to scores [m, A].
        options: What `net` is made of.
        sizes: (D, A).

    Raises:
        ConfigError: The network is anything else.
    """

    def __init__(self, net: nn.Module) -> None:
        if isinstance(net, AgentNet):
            kind, self.sizes = "agent-net", (net.observation_size, net.num_actions)
            names = ("observation_size", "num_actions", "hidden")
            self.options: Options = {name: getattr(net, name) for name in names}
        else:
            linears, activation = _perceptron_parts(net)
            widths = [linears[0].in_features, *(part.out_features for part in linears)]
            kind, self.sizes = "mlp", (widths[0], widths[-1])
            self.options = {"widths": widths, "activation": activation}
        super().__init__(copy.deepcopy(net).eval().requires_grad_(False), name=kind)
        self._precise = copy.deepcopy(self.net).cpu().double()

    def act(self, observations: Array, infos: Infos) -> Array:
        """Choose the best allowed action; see `Policy.act`."""
        # The last bits of a sum depend on the batch: here those that are rounded off.
        with torch.no_grad():
            scores = self._precise(torch.as_tensor(observations, device="cpu").double())
        mask = torch.as_tensor(infos["action_mask"], device="cpu")
        allowed = scores.float().masked_fill(mask == 0, -torch.inf)
        return like(allowed.argmax(1), observations)


class MaxProbPolicy(PlanPolicy):
    """One decision at the start: stop if the network is sure enough, else a plan.

    How sure is enough depends on the penalty: thresholds are interpolated linearly
    between given penalties, constant beyond them, and never rise with the penalty, so
    a higher one never iterates more.

    Args:
        column: Where the observation has ``max_prob`` (``observation_layout``).
        plan: The actions in order if it does not stop.
        thresholds: Stop where max_prob is at least this; one per penalty. Infinity
            never stops, minus infinity always does.
        penalties: Ascending penalties that they belong to.

    Raises:
        ConfigError: Not one threshold per penalty, penalties that do not rise,
            thresholds that do, NaN, or an infinite penalty.
    """

    reads_observations = True

    def __init__(
        self,
        column: int,
        plan: Sequence[int],
        thresholds: Sequence[float],
        penalties: Sequence[float] = (0.0,),
    ) -> None:
        super().__init__(plan, name="max-prob")
        self.column = int(column)
        # Finite, because JSON and interpolation need it; max_prob is at most 1.
        self.thresholds: list[float] = np.clip(thresholds, 0.0, 2.0).tolist()
        self.penalties = [float(x) for x in penalties]
        fits = len(self.thresholds) == len(self.penalties) > 0
        rising = fits and bool(np.all(np.diff(self.penalties) > 0))
        finite = bool(np.isfinite([*self.penalties, *self.thresholds]).all())
        if not (rising and finite and bool(np.all(np.diff(self.thresholds) <= 0))):
            raise ConfigError(
                "a max-prob policy needs one threshold per penalty, all finite, "
                "penalties rising and thresholds not, got "
                f"{self.penalties} and {self.thresholds}"
            )

    def act(self, observations: Array, infos: Infos) -> Array:
        """Stop the sure rows, let the others follow the plan; see `Policy.act`."""
        stop = self._is_sure(observations, infos) & (as_numpy(infos["decisions"]) == 0)
        plan = as_numpy(super().act(observations, infos))
        return like(np.where(stop, NOP, plan), observations)

    def plans(self, observations: Array, infos: Infos) -> Array:
        """Return NOP for the sure rows, the plan for the others, int64 [m, P]."""
        stop = self._is_sure(observations, infos)[:, None]
        plans = as_numpy(super().plans(observations, infos))
        return like(np.where(stop, NOP, plans), observations)

    def _is_sure(self, observations: Any, infos: Infos) -> NDArray[np.bool_]:
        """Return which rows reach the threshold of their penalty, bool [m]."""
        penalty = as_numpy(infos["penalty"])
        threshold = np.interp(penalty, self.penalties, self.thresholds)
        sure: NDArray[np.bool_] = as_numpy(observations[:, self.column]) >= threshold
        return sure


def check_fit(policy: Policy, layout: Mapping[str, slice], num_actions: int) -> None:
    """Check that a policy fits a network; of an unknown class, it is taken as it is.

    Args:
        policy: The policy.
        layout: Where each part of an observation lies.
        num_actions: A.

    Raises:
        ConfigError: It was made for other sizes, or reads gates where there are none.
    """
    fits, observation_size = True, max(part.stop for part in layout.values())
    if isinstance(policy, NetworkPolicy):
        fits = policy.sizes == (observation_size, num_actions)
    if isinstance(policy, PlanPolicy):
        fits = 0 <= policy.actions.min() and policy.actions.max() < num_actions
    if isinstance(policy, MaxProbPolicy):
        fits = fits and 0 <= policy.column < observation_size
    if isinstance(policy, GatesPolicy):
        fits = layout.get("gate") == slice(policy.column, policy.column + 1)
    if not fits:
        raise ConfigError(
            f"the policy {policy.name!r} does not fit a network of {observation_size} "
            f"features and {num_actions} actions; give one that was made for it"
        )


def policy_to_saved(policy: Policy) -> tuple[str, Options, Tensors]:
    """Return kind, options and weights, of which `restore_policy` makes a policy.

    Raises:
        ConfigError: The policy is of none of the kinds that can be saved.
    """
    if isinstance(policy, NetworkPolicy):
        return policy.name, policy.options, policy.net.state_dict()
    if isinstance(policy, PlanPolicy):
        plans = policy.actions[:, :-1].tolist()
        options: Options = {"plan": plans if policy.per_sample else plans[0]}
        if isinstance(policy, MaxProbPolicy):
            names = ("column", "thresholds", "penalties")
            options |= {name: getattr(policy, name) for name in names}
            return "max-prob", options, {}
        return "plan", options, {}
    if isinstance(policy, GatesPolicy):
        return policy.name, {"column": policy.column}, {}
    raise ConfigError(
        f"{type(policy).__name__} cannot be saved; only these policies can: "
        f"{', '.join(_SAVED)}"
    )


Width = Annotated[int, Meta(ge=1)]
_LONGEST = 10_000  # a policy may take as many decisions
_Plan = Annotated[tuple[int, ...], Meta(max_length=_LONGEST)]


@dataclass(frozen=True, kw_only=True)
class _SavedAgentNet:
    observation_size: Width
    num_actions: Annotated[int, Meta(ge=2)]
    hidden: Annotated[tuple[Width, ...], Meta(min_length=1, max_length=64)]

    def restore(self, tensors: Tensors) -> Policy:
        net = restore(lambda: AgentNet(**vars(self)), tensors, _WHERE)
        return NetworkPolicy(net)


@dataclass(frozen=True, kw_only=True)
class _SavedPerceptron:
    widths: Annotated[tuple[Width, ...], Meta(min_length=2, max_length=64)]
    activation: Literal["tanh", "relu"]

    def restore(self, tensors: Tensors) -> Policy:
        return NetworkPolicy(restore(lambda: self._make(tensors), tensors, _WHERE))

    def _make(self, tensors: Tensors) -> nn.Sequential:
        parts: list[nn.Module] = []
        for width_in, width_out in pairwise(self.widths):
            has_bias = f"{len(parts)}.bias" in tensors
            linear = nn.Linear(width_in, width_out, bias=has_bias)
            parts += [linear, _ACTIVATIONS[self.activation]()]
        return nn.Sequential(*parts[:-1])


@dataclass(frozen=True, kw_only=True)
class _SavedPlan:
    plan: tuple[int | _Plan, ...]

    def __post_init__(self) -> None:
        """Refuse one plan, not one per sample, that is too long."""
        if len(self.plan) > _LONGEST and isinstance(self.plan[0], int):
            raise ValueError(f"a plan has at most {_LONGEST} actions")

    def restore(self, _: Tensors) -> Policy:
        return PlanPolicy(self.plan)


@dataclass(frozen=True, kw_only=True)
class _SavedMaxProb:
    column: int
    plan: _Plan
    thresholds: tuple[float, ...]
    penalties: tuple[float, ...]

    def restore(self, _: Tensors) -> Policy:
        return MaxProbPolicy(**vars(self))


@dataclass(frozen=True, kw_only=True)
class _SavedGates:
    column: int

    def restore(self, _: Tensors) -> Policy:
        return GatesPolicy(self.column)


_WHERE = "the predictor's policy"
_SAVED: dict[str, type[Any]] = {
    "agent-net": _SavedAgentNet,
    "mlp": _SavedPerceptron,
    "plan": _SavedPlan,
    "max-prob": _SavedMaxProb,
    "gates": _SavedGates,
}


def restore_policy(kind: str, options: Options, tensors: Tensors) -> Policy:
    """Return the policy that `policy_to_saved` described.

    Raises:
        CheckpointError: Its kind is unknown, or its parts do not fit each other.
    """
    if kind not in _SAVED:
        raise CheckpointError(f"{_WHERE} is of an unknown kind {kind!r}")
    policy: Policy = read_as(options, _SAVED[kind], _WHERE).restore(tensors)
    return policy


def _perceptron_parts(net: nn.Module) -> tuple[list[nn.Linear], str]:
    """Return the linear layers of a perceptron and the name of its activation."""
    parts = list(net) if isinstance(net, nn.Sequential) else []
    linears = [part for part in parts[::2] if isinstance(part, nn.Linear)]
    kinds = {type(part) for part in parts[1::2]}
    for name, kind in _ACTIVATIONS.items():
        if 2 * len(linears) - 1 == len(parts) and kinds <= {kind}:
            return linears, name
    found = [type(part).__name__ for part in parts or [net]]
    raise ConfigError(
        "a network policy takes an AgentNet, or an nn.Sequential of nn.Linear with "
        f"tanh or ReLU between them, not {found}; write a class with act and "
        "macs_per_decision for another network"
    )
