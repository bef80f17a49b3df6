"""The parts that decide, and what they see.

Axes: n inputs, K classes, F features of the network, D of an observation, A actions,
T = most decisions.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynalay_gym.envs.observation import shown_penalty
from dynalay_gym.networks.lcnet.policy import GatesPolicy
from dynalay_gym.predictor.parts.part import EXAMPLE_ROWS, Part, example, integers
from dynalay_gym.predictor.policies import NetworkPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor


class Observe(nn.Module):
    """What a policy sees: the network's features, then where the episode stands.

    Args:
        num_actions: Actions A.
        penalty_unit: Penalty that is shown as 1/2.
        max_decisions: Most decisions T.
    """

    def __init__(
        self, num_actions: int, penalty_unit: float, max_decisions: int
    ) -> None:
        super().__init__()
        self.penalty_unit, self.max_decisions = penalty_unit, max_decisions
        self.register_buffer("one_hot", torch.eye(num_actions + 1)[:, 1:])

    def forward(
        self,
        features: Tensor,
        penalty: Tensor,
        action: Tensor,
        consecutive: Tensor,
        decisions: Tensor,
    ) -> Tensor:
        """Return observations [n, D].

        Args:
            features: The network's [n, F].
            penalty: Penalties [n].
            action: Last actions, int64 [n]; -1 if there was none.
            consecutive: How often in a row each was chosen, int64 [n].
            decisions: Decisions taken, int64 [n].
        """
        shown = shown_penalty(penalty, self.penalty_unit)[:, None]
        last_action = self.get_buffer("one_hot")[action + 1]
        counts = torch.stack([consecutive, decisions], 1) / self.max_decisions
        ends = counts[:, :1], 1 - counts[:, 1:]
        return torch.cat([features, shown, last_action, *ends], 1)

    def first(self, features: Tensor, penalty: Tensor) -> Tensor:
        """Return the observations [n, D] before the first decision."""
        none = torch.zeros_like(penalty, dtype=torch.int64)
        return self.forward(features, penalty, none - 1, none, none)


class PlainPass(nn.Module):
    """Logits [n, K] and the observations [n, D] before the first decision.

    Args:
        begin: The part of which they are taken.
        names: What it returns, in order.
        observe: What a policy sees.
    """

    results = ("logits", "observation")

    def __init__(
        self, begin: nn.Module, names: Sequence[str], observe: Observe
    ) -> None:
        super().__init__()
        self.begin, self.names, self.observe = begin, names, observe

    def forward(self, images: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
        """Run over images [n, C, H, W] with penalties [n]."""
        found = dict(zip(self.names, self.begin(images), strict=True))
        return found["logits"], self.observe.first(found["features"], penalty)


class Decide(nn.Module):
    """One decision of a policy, and what it changes of the episode.

    Args:
        policy: A network, or the gates.
        observe: What it sees.
    """

    def __init__(self, policy: NetworkPolicy | GatesPolicy, observe: Observe) -> None:
        super().__init__()
        self.observe, self.column, self.net = observe, 0, None
        if isinstance(policy, NetworkPolicy):
            self.net = copy.deepcopy(policy.net).double()
        else:
            self.column = policy.column

    def forward(
        self,
        features: Tensor,
        useful: Tensor,
        penalty: Tensor,
        action: Tensor,
        consecutive: Tensor,
        decisions: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the new `action`, `consecutive` and `decisions`, each int64 [n].

        Args:
            features: See `Observe`, as for the other arguments.
            useful: Which actions can change something, bool [n, A].
            penalty: Penalties [n].
            action: Last actions.
            consecutive: How often in a row each was chosen.
            decisions: Decisions taken.
        """
        seen = self.observe(features, penalty, action, consecutive, decisions)
        if self.net is not None:
            scores = self.net(seen.double()).float()
            chosen = scores.masked_fill(~useful, -torch.inf).argmax(1)
        else:  # run where the gate is open, else skip; stop where neither can be
            chosen = (2 - (seen[:, self.column] > 0).long()) * useful[:, 1]
        return chosen, consecutive * (chosen == action) + 1, decisions + 1


def observe_of(predictor: DynaLayPredictor) -> Observe:
    """Return what a predictor shows its policy."""
    num_actions = len(predictor.session.action_names)
    return Observe(num_actions, predictor.penalty_unit, predictor.max_decisions)


def policy_parts(predictor: DynaLayPredictor) -> list[Part]:
    """Return the parts that decide; none for a policy of another kind."""
    policy, parts = predictor.policy, list[Part]()
    if not isinstance(policy, NetworkPolicy | GatesPolicy):
        return parts
    if isinstance(policy, NetworkPolicy):
        inputs = {"observation": example(policy.sizes[0])}
        parts.append(Part("policy", policy.net, inputs, ("scores",)))
    counts = {key: integers() for key in ("action", "consecutive", "decisions")}
    inputs = {
        "features": example(predictor.observation_layout["penalty"].start),
        "useful": torch.ones(EXAMPLE_ROWS, len(predictor.session.action_names)) > 0,
        "penalty": example(),
        **counts,
    }
    module = Decide(policy, observe_of(predictor))
    return [*parts, Part("decide", module, inputs, tuple(counts))]
