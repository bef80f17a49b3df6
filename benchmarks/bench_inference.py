"""Does what the predictor skips become time? Realised against counted speed-up.

Every image gets a plan by a seeded choice, so that a given share of the multiply-adds
of iterating everything is skipped; the agent's network runs at every decision, and its
answer is put aside for the plan. Ratios are against *always*: one lean pass with every
layer iterated and nothing around it (the faster of the package's own and one written by
hand).

- ``realised``: time of always over the predictor's.
- ``attainable``: the same with the predictor's time replaced by that of what cannot be
  skipped: the plain pass, and the kept share of the rest.
- ``masked``: plain pass and always for every image, then select.

Axes: n images, A = L + 1 actions, T = L + 1 decisions.
"""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import (
    Clock,
    Options,
    play_rounds,
    ratio,
    result,
    section,
    show,
    spread,
    table,
)
from benchmarks.plain_network import PlainNetwork
from benchmarks.subjects import Subject, load_subject
from dynalay_gym.models.agent_net import AgentNet
from dynalay_gym.net_policies import AgentNetPolicy
from dynalay_gym.policies import PlanPolicy
from dynalay_gym.predictor import DynaLayPredictor

SKIPPED = (0.3, 0.5, 0.7)


class PlannedAgent:
    """Runs an agent's network, but acts by a plan for every image.

    Args:
        agent: Its network is run at every decision.
        plans: Actions [n, T] of all images, 0 after the last.
    """

    def __init__(self, agent: AgentNetPolicy, plans: Tensor) -> None:
        self.agent, self.plans = agent, plans
        self.macs_per_decision = agent.macs_per_decision
        self.first = 0

    def act(self, observations: Tensor, infos: dict[str, Any]) -> Tensor:
        """The plan's next actions, int64 [m]."""
        self.agent.act(observations, infos)
        return self.plans[infos["index"] + self.first, infos["decisions"]]


class Bench:
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
        self.images = subject.test.images[order[:num_images]].to(device)
        self.model, self.device = subject.model, device
        self.num_layers = self.model.num_layers
        self.path = 2**self.num_layers - 1
        layers = range(1, self.num_layers + 1)
        plans = [p for k in range(self.num_layers + 1) for p in combinations(layers, k)]
        self.plans = torch.zeros(len(plans), self.num_layers + 1, dtype=torch.int64)
        for row, plan in zip(self.plans, plans, strict=True):
            row[: len(plan)] = torch.tensor(plan)
        self.macs = self._macs_of_plans(plans)
        always = DynaLayPredictor(self.model, PlanPolicy(plans[-1]), penalty=0.0)
        self.session = always.session
        self.plain_macs = self.session.costs.plain_pass
        refreshed = sum(self.session.costs.refresh(layer) for layer in layers)
        self.always_macs = self.macs[:, -1] - refreshed
        formats = (torch.contiguous_format, torch.channels_last)
        self.by_hand = [PlainNetwork(self.model, each) for each in formats]
        size = max(part.stop for part in always.observation_layout.values())
        self.agent = AgentNetPolicy(AgentNet(size, self.num_layers + 1))

    def _macs_of_plans(self, plans: list[tuple[int, ...]]) -> np.ndarray:
        """What every plan multiplies on every image, policy apart, [n, P]."""
        macs = []
        for plan in plans:
            walker = DynaLayPredictor(self.model, PlanPolicy(plan), penalty=0.0)
            macs.append(walker.infer(self.images).macs.double().cpu().numpy())
        return np.stack(macs, 1)

    def mixture(self, num: int, skipped: float) -> Tensor:
        """Number of each image's plan [n], a share ``skipped`` of the MACs spared.

        The plans' chances are those of largest entropy that reach the share.
        """
        decisions = (self.plans != 0).sum(1).numpy() + 1
        mean = self.macs[:num].mean(0) + decisions * self.agent.macs_per_decision
        target = (1 - skipped) * self.always_macs[:num].mean()
        return torch.from_numpy(apportion(boltzmann(mean, float(target)), num))

    def lean(self, path: int) -> dict[str, Callable[[Tensor], Tensor]]:
        """Lean passes that iterate the layers of a path."""
        solver = self.session.solver
        with_package = torch.no_grad()(
            lambda images: self.model.forward_path(images, path, solver)
        )
        passes: dict[str, Callable[[Tensor], Tensor]] = {"package": with_package}
        for network in self.by_hand:
            passes[f"by hand, {network.memory_format}"] = (
                lambda images, network=network: network.run(
                    images, path, solver.rtol, solver.max_steps
                )
            )
        return passes


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


def run(options: Options) -> dict[str, Any]:
    """Measure every preset."""
    found = {name: measure(name, options) for name in options.presets}
    text = "\n".join(found[name].pop("markdown") for name in found)
    return result(text, clock=Clock(options.device).name, presets=found)


def measure(name: str, options: Options) -> dict[str, Any]:
    """One network at all batch sizes and shares."""
    subject, clock = load_subject(name, options), Clock(options.device)
    sizes = {batch: num_images(batch, options.quick) for batch in options.batches}
    bench = Bench(subject, max(sizes.values()), options.device)
    rounds = 3 if options.quick else 5
    cells = [
        cell
        for batch, num in sizes.items()
        for cell in measure_batch(bench, batch, num, clock, rounds)
    ]
    share = bench.agent.macs_per_decision / bench.plain_macs
    notes = (
        f"{subject.about}; {clock.name}, {rounds} rounds, {options.num_threads} "
        f"thread(s), {options.device}; agent {bench.agent.macs_per_decision:,} MACs "
        f"per decision, {share:.1%} of the plain pass; always "
        f"{bench.always_macs.mean() / bench.plain_macs:.1f} plain passes"
    )
    text = section(f"Inference, {name}", notes, format_cells(cells))
    return {"markdown": text, "network": subject.about, "cells": cells}


def num_images(batch: int, quick: bool) -> int:
    """Images of a turn: a few batches, and not too few images."""
    return max(32, 2 * batch) if quick else max(128, 8 * batch)


def measure_batch(
    bench: Bench, batch: int, num: int, clock: Clock, rounds: int
) -> list[dict[str, Any]]:
    """All shares at one batch size; variants take turns."""
    images = bench.images[:num]
    batches = list(images.split(batch))
    variants = {
        f"{what}: {name}": over_batches(one, batches, clock)
        for what, path in (("always", bench.path), ("plain", 0))
        for name, one in bench.lean(path).items()
    }
    subjects = {}
    for skipped in SKIPPED:
        chosen = bench.mixture(num, skipped)
        policy = PlannedAgent(bench.agent, bench.plans[chosen].to(bench.device))
        predictor = DynaLayPredictor(bench.model, policy, penalty=0.0)
        subjects[skipped] = (chosen, policy)
        variants[f"predictor: {skipped}"] = over_batches(
            predictor.infer, batches, clock, policy
        )
    seconds = play_rounds(variants, rounds)
    always, plain = (fastest(seconds, what) for what in ("always", "plain"))
    return [
        cell_of(bench, batch, num, skipped, chosen, policy, seconds, always, plain)
        for skipped, (chosen, policy) in subjects.items()
    ]


def over_batches(
    one: Callable[[Tensor], Any],
    batches: list[Tensor],
    clock: Clock,
    policy: PlannedAgent | None = None,
) -> Callable[[], float]:
    """A turn: seconds that one variant takes for all batches."""

    def turn() -> float:
        began, first = clock(), 0
        for batch in batches:
            if policy is not None:
                policy.first = first
            one(batch)
            first += len(batch)
        return clock() - began

    return turn


def fastest(seconds: dict[str, np.ndarray], what: str) -> str:
    """The variant of the smallest median."""
    names = [name for name in seconds if name.startswith(f"{what}: ")]
    return min(names, key=lambda name: float(np.median(seconds[name])))


def cell_of(
    bench: Bench,
    batch: int,
    num: int,
    asked: float,
    chosen: Tensor,
    policy: PlannedAgent,
    seconds: dict[str, np.ndarray],
    always: str,
    plain: str,
) -> dict[str, Any]:
    """One row of the table."""
    kept_macs = bench.macs[np.arange(num), chosen.numpy()].mean()
    always_macs = bench.always_macs[:num].mean()
    decisions = 1 + (policy.plans != 0).sum(1).double().mean().item()
    own_macs = kept_macs + decisions * policy.macs_per_decision
    kept = (kept_macs - bench.plain_macs) / (always_macs - bench.plain_macs)
    full, thin = seconds[always], seconds[plain]
    bound = thin + kept * (full - thin)
    took = seconds[f"predictor: {asked}"]
    counted = float(always_macs / own_macs)
    return {
        "batch": batch,
        "images": num,
        "asked": asked,
        "skipped": float(1 - own_macs / always_macs),
        "counted": counted,
        "realised": spread(full / took),
        "realised_over_counted": ratio(full / took, np.full(len(took), counted)),
        "attainable": ratio(full, bound),
        "realised_over_attainable": ratio(bound, took),
        "masked": ratio(full, full + thin),
        "always": always,
        "plain": plain,
        "us_per_image": {name: spread(1e6 * s / num) for name, s in seconds.items()},
    }


def format_cells(cells: list[dict[str, Any]]) -> str:
    """Markdown table."""
    head = ["batch", "skipped", "counted", "realised (quartiles)", "realised ÷ counted"]
    head += ["attainable", "realised ÷ attainable", "masked"]
    head += [f"µs {what} (package, by hand)" for what in ("always", "plain")]
    lines = []
    for cell in cells:
        line = [str(cell["batch"]), f"{cell['skipped']:.0%}", f"{cell['counted']:.2f}"]
        line += [show(cell["realised"], ".2f"), f"{cell['realised_over_counted']:.2f}"]
        line += [f"{cell['attainable']:.2f}"]
        line += [f"{cell['realised_over_attainable']:.2f}", f"{cell['masked']:.2f}"]
        line += [lean_times(cell["us_per_image"], what) for what in ("always", "plain")]
        lines.append(line)
    return table(head, lines)


def lean_times(times: dict[str, dict[str, float]], what: str) -> str:
    """Median times of the package's lean pass, and of the best one by hand."""
    lean = {name: t["median"] for name, t in times.items() if name.startswith(what)}
    package = lean.pop(f"{what}: package")
    return f"{package:.0f}, {min(lean.values()):.0f}"
