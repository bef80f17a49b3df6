"""Policies that skip a given share of the work, and the lean passes beside them.

Axes: n images, m rows that still run, P plans, T = L + 1 decisions.
"""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.plain_network import PlainNetwork
from benchmarks.subjects import Subject
from dynalay_gym.networks.agent_net import AgentNet
from dynalay_gym.predictor.inference import Inference
from dynalay_gym.predictor.net_policies import AgentNetPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.activations import ALL

PACKAGE = "package"

_SAMPLE = 256  # images that tell what a plan costs on average

Pass = Callable[[Tensor], Tensor]


class StepByStep:
    """Runs an agent's network at every decision, but acts by a plan for every image.

    Args:
        agent: Its network is run.
        chosen: Plans [n, T] of all images, 0 after the last action.
    """

    name = "step by step"

    def __init__(self, agent: AgentNetPolicy, chosen: Tensor) -> None:
        self.agent, self.chosen = agent, chosen
        self.macs_per_decision = agent.macs_per_decision
        self.first, self.asked = 0, 0  # first image of the batch; rows seen so far

    def act(self, observations: Tensor, infos: dict[str, Any]) -> Tensor:
        """The plan's next actions, int64 [m]."""
        plans = self._ask(observations, infos)
        return plans.gather(1, infos["decisions"][:, None])[:, 0]

    def _ask(self, observations: Tensor, infos: dict[str, Any]) -> Tensor:
        self.asked += len(observations)
        self.agent.act(observations, infos)
        return self.chosen[infos["index"] + self.first]


class AtOnce(StepByStep):
    """Runs the agent's network once per image and knows the whole plan from then on.

    A predictor may carry such a plan out in one sweep.
    """

    name = "at once"

    def plans(self, observations: Tensor, infos: dict[str, Any]) -> Tensor:
        """All actions of each row, int64 [m, T]."""
        return self._ask(observations, infos)


KINDS = (StepByStep, AtOnce)


class Skipping:
    """Lean passes and predictors of one network.

    Args:
        subject: The network.
        num_images: Images that are needed.
        device: Where it runs.
    """

    def __init__(self, subject: Subject, num_images: int, device: str) -> None:
        order = torch.randperm(
            len(subject.test.labels), generator=torch.Generator().manual_seed(0)
        )
        self.inputs = subject.test.inputs[order[:num_images]].to(device)
        self.model, self.device = subject.model, device
        layers = range(1, self.model.num_layers + 1)
        plans = [p for k in range(len(layers) + 1) for p in combinations(layers, k)]
        self.plans = torch.zeros(len(plans), len(layers) + 1, dtype=torch.int64)
        for row, plan in zip(self.plans, plans, strict=True):
            row[: len(plan)] = torch.tensor(plan)
        formats = (torch.contiguous_format, torch.channels_last)
        # The predictor freezes the model, so it comes before the folding.
        self.agent = AgentNetPolicy(AgentNet(_width(self.model), len(layers) + 1))
        always = self.predictor(StepByStep, torch.full((num_images,), len(plans) - 1))
        self.by_hand = [PlainNetwork(self.model, each) for each in formats]
        self.session, costs = always.session, always.session.costs
        self.plain_macs = costs.plain_pass
        # A lean pass applies nothing above a layer before that layer has been iterated.
        refreshed = sum(costs.refresh(layer) for layer in layers)
        self.always_macs = walk(always, [self.inputs])[0] - refreshed
        self.means = {kind: self._means(kind) for kind in KINDS}

    def predictor(self, kind: type[StepByStep], chosen: Tensor) -> DynaLayPredictor:
        """Predictor whose policy follows the plans of these numbers [n]."""
        policy = kind(self.agent, self.plans[chosen].to(self.device))
        return DynaLayPredictor(self.model, policy, penalty=0.0)

    def _means(self, kind: type[StepByStep]) -> np.ndarray:
        """Mean MACs of every plan, the agent's included, [P]."""
        images, means = self.inputs[:_SAMPLE], []
        for number in range(len(self.plans)):
            chosen = torch.full((len(images),), number)
            macs, agent = walk(self.predictor(kind, chosen), [images])
            means.append(macs.mean() + agent)
        return np.array(means)

    def mixture(self, kind: type[StepByStep], num: int, skipped: float) -> Tensor:
        """Number of each image's plan [n], a share ``skipped`` of the MACs spared.

        The plans' chances are those of largest entropy that reach the share.
        """
        target = (1 - skipped) * self.always_macs[:num].mean()
        chances = boltzmann(self.means[kind], float(target))
        return torch.from_numpy(apportion(chances, num))

    def lean(self, path: int) -> dict[str, Pass]:
        """Passes that iterate the layers of a path, with nothing around them."""
        passes: dict[str, Pass] = {PACKAGE: lambda images: self._own(images, path)}
        for network in self.by_hand:
            passes[f"by hand, {network.memory_format}"] = self._by_hand(network, path)
        return passes

    def _own(self, images: Tensor, path: int) -> Tensor:
        state = self.session.begin(images)
        paths = torch.full((len(images),), path, device=images.device)
        self.session.reach(state, ALL, paths, final=True)
        return state.logits

    def _by_hand(self, network: PlainNetwork, path: int) -> Pass:
        solver = self.session.solver
        return lambda images: network.run(images, path, solver.rtol, solver.max_steps)


def _width(model: Any) -> int:
    """Size of the observation of a network."""
    config, layers = model.config, model.num_layers
    return sum(config.channels) + sum(config.hidden) + 3 + 2 * layers + layers + 4


def walk(
    predictor: DynaLayPredictor, batches: list[Tensor]
) -> tuple[np.ndarray, float]:
    """MACs of the network on every image [n]; the agent's on average."""
    policy: Any = predictor.policy
    policy.asked, found = 0, []
    for result in infer_all(predictor, batches):
        found.append(result.macs.double().cpu().numpy())
    macs = np.concatenate(found)
    return macs, policy.asked * policy.macs_per_decision / len(macs)


def infer_all(predictor: DynaLayPredictor, batches: list[Tensor]) -> list[Inference]:
    """Answer batch by batch; the policy is told where in its plans each begins."""
    policy: Any = predictor.policy
    policy.first, found = 0, []
    for batch in batches:
        found.append(predictor.infer(batch))
        policy.first += len(batch)
    return found


def boltzmann(costs: np.ndarray, target: float) -> np.ndarray:
    """Chances [P] of largest entropy with a mean cost (the nearest there is)."""
    scaled = (costs - costs.min()) / np.ptp(costs)
    low, high = -200.0, 200.0
    for _ in range(60):
        middle = (low + high) / 2
        weights = np.exp(-middle * scaled - np.max(-middle * scaled))
        chances: np.ndarray = weights / weights.sum()
        low, high = (middle, high) if chances @ costs > target else (low, middle)
    return chances


def apportion(chances: np.ndarray, num: int) -> np.ndarray:
    """Choices [n] in these proportions, as nearly as whole numbers can, shuffled."""
    places = (np.arange(num) + 0.5) / num
    chosen = np.searchsorted(np.cumsum(chances), places).clip(max=len(chances) - 1)
    shuffled: np.ndarray = np.random.default_rng(0).permutation(chosen)
    return shuffled
