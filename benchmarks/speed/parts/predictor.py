"""Does what the predictor skips become time? Realised against counted speed-up.

Every image gets a plan by a seeded choice: each layer with a given probability. An
agent's network runs, and its answer is put aside for the plan: at every decision (*step
by step*), or once (*at once*), after which the predictor knows the whole plan. Speed-up
is over *always*: a lean pass with every layer iterated and nothing around it. There are
two of it: *by hand*, as one would write it in PyTorch (the faster of two memory
formats), and the package's *own*, by the session that the predictor runs on.

Axes: n images, P actions of a plan.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.report import Table, spread
from benchmarks.speed.baselines.network import HandNetwork
from benchmarks.speed.common import Clock, Options, play_rounds, ratio
from benchmarks.speed.subjects import Subject, load_subject
from dynalay_gym.envs.observation import observation_layout
from dynalay_gym.networks.agent_net import AgentNet
from dynalay_gym.networks.policy import Infos, PlanPolicy
from dynalay_gym.predictor.policies import NetworkPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.fastest import fastest_session
from dynalay_gym.sessions.torch_session import TorchSession

CHANCES = (0.25, 0.5, 0.75)  # of a layer to be iterated
FORMATS = (torch.contiguous_format, torch.channels_last)


class StepByStep:
    """Runs an agent's network at every decision, but acts by a plan for every image.

    Args:
        agent: Its network is run.
        plans: What is done, int64 [n, P].
    """

    name = "step by step"

    def __init__(self, agent: NetworkPolicy, plans: NDArray[np.int64]) -> None:
        self.agent, self.plan = agent, PlanPolicy(plans)
        self.macs_per_decision = agent.macs_per_decision

    def act(self, observations: Any, infos: Infos) -> Any:
        """Return the plan's next actions, int64 [m]."""
        self.agent.act(observations, infos)
        return self.plan.act(observations, infos)


class AtOnce(StepByStep):
    """Runs the agent's network once per image and knows the whole plan from then on."""

    name = "at once"

    def plans(self, observations: Any, infos: Infos) -> Any:
        """Return all actions of each row, int64 [m, P]."""
        self.agent.act(observations, infos)
        return self.plan.plans(observations, infos)


def measure(options: Options) -> list[Table]:
    """Measure every preset."""
    return [measure_network(load_subject(p, options), options) for p in options.presets]


def measure_network(subject: Subject, options: Options) -> Table:
    """Measure one network at all batch sizes."""
    hand = [HandNetwork(subject.network.eval(), each) for each in FORMATS]
    rows = []
    for batch in options.batches:
        num = max(32, 2 * batch) if options.quick else max(128, 8 * batch)
        images = subject.inputs[:num].to(options.device)
        rows += measure_batch(subject, hand, images, batch, options)
    columns = {
        "batch": ("batch", ""),
        "agent": ("agent", ""),
        "layers iterated": ("chance", ".0%"),
        "counted": ("counted", ".2f"),
        "realised, by hand": ("by_hand", ".2f"),
        "÷ counted": ("by_hand_over_counted", ".2f"),
        "realised, own": ("own", ".2f"),
        "÷ counted (own)": ("own_over_counted", ".2f"),
        "µs per image": ("us", ".1f"),
        "µs always, by hand": ("us_by_hand", ".1f"),
        "µs always, own": ("us_own", ".1f"),
    }
    notes = f"{subject.about}; {options.notes}"
    return Table(f"Predictor, {subject.name}", notes, columns, rows)


def measure_batch(
    subject: Subject,
    hand: list[HandNetwork],
    images: Tensor,
    batch: int,
    options: Options,
) -> list[dict[str, Any]]:
    """Measure both kinds of policy at all chances; variants take turns."""
    clock, num, parts = Clock(options.device), len(images), images.split(batch)
    session = fastest_session(subject.network)
    layout = observation_layout(session.feature_layout, session.num_layers + 1)
    agent = NetworkPolicy(AgentNet(layout["remaining"].stop, session.num_layers + 1))
    policies = [
        (chance, kind(agent, random_plans(num, session.num_layers, chance)))
        for kind in (StepByStep, AtOnce)
        for chance in CHANCES
    ]
    predictors = {
        f"{policy.name}, {chance}": DynaLayPredictor(
            session, policy, penalty=0.0, batch_size=batch
        )
        for chance, policy in policies
    }
    solver, top = session.solver, len(session.next_state) - 1
    jobs: dict[str, Callable[[], object]] = {
        f"hand {i}": partial(
            for_each, parts, network.run, top, solver.rtol, solver.max_steps
        )
        for i, network in enumerate(hand)
    }
    jobs["own"] = partial(for_each, parts, partial(iterate_all, session))
    jobs |= {name: partial(p.infer, images) for name, p in predictors.items()}
    turns = {name: clock.turn(job, num) for name, job in jobs.items()}
    took = play_rounds(turns, options.rounds)
    by_hand = min((took[f"hand {i}"] for i in range(len(hand))), key=np.median)
    all_macs = iterate_all(session, images).double().mean()
    return [
        {
            "batch": str(batch),
            "agent": policy.name,
            "chance": chance,
            "us": spread(took[name]),
            "us_by_hand": spread(by_hand),
            "us_own": spread(took["own"]),
            "counted": (counted := float(all_macs / mean_macs(predictor, images))),
            "by_hand": spread(by_hand / took[name]),
            "by_hand_over_counted": ratio(by_hand, took[name] * counted),
            "own": spread(took["own"] / took[name]),
            "own_over_counted": ratio(took["own"], took[name] * counted),
        }
        for (chance, policy), (name, predictor) in zip(
            policies, predictors.items(), strict=True
        )
    ]


def random_plans(num: int, num_layers: int, chance: float) -> NDArray[np.int64]:
    """Return ascending plans [num, L], each layer with a chance; 0 after the last."""
    chosen = np.random.default_rng(0).random((num, num_layers)) < chance
    layers = np.arange(1, num_layers + 1)
    plans: NDArray[np.int64] = np.sort(np.where(chosen, layers, num_layers + 1))
    return np.where(plans > num_layers, 0, plans)


def for_each(parts: Sequence[Tensor], work: Callable[..., object], *args: Any) -> None:
    """Work on one batch after the other."""
    for part in parts:
        work(part, *args)


def iterate_all(session: TorchSession, images: Tensor) -> Tensor:
    """Iterate every layer of every image; return the multiply-adds, int64 [n].

    What a pass by hand would not do twice is not counted.
    """
    rows, top = torch.arange(len(images)), len(session.next_state) - 1
    rows = rows.to(session.device)
    state = session.begin(images)
    cost = session.reach(state, rows, torch.full_like(rows, top))
    return session.plain_macs + cost.macs - session.costs.refresh(1)


def mean_macs(predictor: DynaLayPredictor, images: Tensor) -> float:
    """Return the mean multiply-adds per image, those of the agent included."""
    found, policy = predictor.infer(images), predictor.policy
    asked = 1 if isinstance(policy, AtOnce) else found.decisions
    macs = found.macs + asked * policy.macs_per_decision
    return float(macs.double().mean())
