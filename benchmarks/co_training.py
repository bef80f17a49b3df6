"""Co-training against a frozen main network, at equal multiply-adds of the network.

    python -m benchmarks.co_training --out benchmarks/results/co-training-digits.json

Arms, each with the same agent, the same decisions, cost unit and penalty:

    co-trained   the network is warmed up for a few epochs, then learns beside the agent
    co-path      the same, every layer on a sample's way learning (not equation 4)
    frozen       the network is warmed up for as many multiply-adds as co-trained takes
                 in all, and stays as it is
    warm-up      the network of co-trained as it was before, frozen (fewer of them)
    cold         no warm-up: joint from the first step, as many as co-trained takes

Multiply-adds of the policy's decisions, forward and backward passes are counted by
torch's counter on every ``COUNT_EVERY``-th step and scaled up. The test split is
evaluated with the pair of the best validation return. Axes: n samples, S seeds.
"""

import copy
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from agents.joint_run import JointRun
from agents.options import Options
from benchmarks.report import table
from dynalay_gym.cotraining.config import CoTrainingConfig
from dynalay_gym.data.splits import load_split
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.evaluation.intervals import bootstrap_interval
from dynalay_gym.networks.checkpoint import save_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.networks.training import MainTrainer, TrainingConfig
from dynalay_gym.sessions.measure import state_accuracies
from dynalay_gym.storage.io import write_json
from dynalay_gym.storage.metrics import run_metadata

COUNT_EVERY = 60
COLD_STEP_MACS = 45e6  # of a step of the cold arm with its decisions, from a trial
ARMS = ("co-trained", "co-path", "frozen", "warm-up", "cold")
MEANS = ("return", "accuracy", "compute", "gmacs", "main_steps", "cpu_seconds")


@dataclass(frozen=True, kw_only=True)
class Args:
    """Compare co-training with frozen networks."""

    out: Path
    """JSON file for the results; written after every seed."""
    algo: str = "policy-gradient"
    """Algorithm of the agent."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of network and agent."""
    arms: tuple[str, ...] = ARMS
    """Arms to run; co-trained comes first, the others' budgets follow from it."""
    main_epochs: int = 3
    """Warm-up of the main network in co-trained."""
    agent_steps: int = 4_096
    """Warm-up of the agent."""
    total_timesteps: int = 24_576
    """Decisions of the joint phase."""
    penalty: float = 0.093
    """Penalty of compute."""
    cost_unit: float = 277_515.0
    """Multiply-adds that count as cost 1: *always* with the shipped network."""
    jobs: int = 1
    """Seeds that run at the same time, each on one CPU thread."""
    co: CoTrainingConfig = field(
        default_factory=lambda: CoTrainingConfig(validations=7)
    )
    """Options of the co-training."""


def main(args: Args) -> None:
    """Run every seed and arm, print the table and write the JSON."""
    runs: list[dict[str, Any]] = []
    facts = {"args": asdict(args), "environment": run_metadata()}
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        for found in pool.map(partial(run_seed, args), args.seeds):
            runs += found
            arms = [summarise(arm, runs) for arm in args.arms]
            kept = [{k: v for k, v in run.items() if k != "returns"} for run in runs]
            write_json(args.out, facts | {"arms": arms, "runs": kept})
            print(format_arms(arms), flush=True)


def run_seed(args: Args, seed: int) -> list[dict[str, Any]]:
    """Run all arms of one seed; the first settles the budget of the others."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        return run_arms(args, seed, Path(folder))


def run_arms(args: Args, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Run every arm in a run folder of its own."""

    @cache
    def network(epochs: int) -> tuple[Path, float]:
        return warm_network(args, seed, epochs, folder / f"{epochs}")

    epoch_macs = network(args.main_epochs)[1] / args.main_epochs
    runs: list[dict[str, Any]] = []
    budget = 0.0
    for arm in args.arms:
        co, epochs = replace(args.co, agent_steps=args.agent_steps), args.main_epochs
        if arm == "co-path":
            co = replace(co, gradients="path")
        elif arm == "frozen":
            epochs = round(budget / epoch_macs)
        elif arm == "cold":
            epochs, steps = 0, budget / COLD_STEP_MACS
            ratio = steps * co.batch_size / (args.agent_steps + args.total_timesteps)
            co = replace(co, update_ratio=ratio, agent_steps=0)
        is_frozen = arm in ("frozen", "warm-up")
        place, before = network(epochs)
        options = Options(
            algo=args.algo,
            dataset="digits",
            checkpoint=place,
            penalty=str(args.penalty),
            total_timesteps=args.agent_steps + args.total_timesteps - co.agent_steps,
            seed=seed,
            device="cpu",
            log_dir=folder / arm,
            co=co,
            co_train=not is_frozen,
            freeze_main=is_frozen,
        )
        found = run_arm(options, args.penalty)
        found |= {"arm": arm, "seed": seed, "main_epochs": epochs}
        found["gmacs"] = (before + found.pop("macs")) / 1e9
        budget = 1e9 * found["gmacs"] if arm == "co-trained" else budget
        runs.append(found)
    return runs


def warm_network(
    args: Args, seed: int, epochs: int, folder: Path
) -> tuple[Path, float]:
    """Train a network as train_main.py does; its folder, and its multiply-adds."""
    torch.manual_seed(seed)
    network = MainNetwork(make_config("digits", (1, 8, 8), 10))
    macs = 0.0
    if epochs:
        data = load_split("digits", "main")
        config = TrainingConfig(epochs=epochs, seed=seed)
        trainer = MainTrainer(network, data, config)
        while trainer.epoch < epochs:
            trainer.train_epoch(lambda step, loss: None)
        # A step's cost hardly depends on the weights: count one on a copy.
        few = replace(
            data,
            inputs=data.inputs[:128],
            labels=data.labels[:128],
            groups=data.groups[:128],
        )
        copied = MainTrainer(copy.deepcopy(network), few, config)
        _, per_step = counted(lambda: copied.train_epoch(lambda step, loss: None))
        macs = float(per_step * epochs * trainer.steps_per_epoch)
    solver = {"rtol": network.config.rtol, "max_steps": network.config.max_steps}
    unit = {"plain_accuracy": 0.0, "always_accuracy": 0.0}
    unit |= {"always_extra_macs": args.cost_unit}
    save_network(folder, network, {}, (solver | unit,))
    return folder, macs


def run_arm(options: Options, penalty: float) -> dict[str, Any]:
    """Train one arm and evaluate its best pair on the test split."""
    began = time.process_time()
    run = JointRun(options, options.config(), lambda *_: None)
    count = Counter(run.trainer)
    run.learn(None, lambda *_: None)
    seconds = time.process_time() - began
    run.take_best()
    found = evaluate(run.envs.test, run.agent.policy, penalty=penalty)
    base: Any = run.envs.test.unwrapped
    return {
        "return": found.mean_return,
        "returns": found.returns,
        "accuracy": found.accuracy,
        "compute": found.compute,
        "validation": run.best,
        "best_step": run.best_step,
        "main_steps": run.trainer.steps,
        "macs": count.total,
        "cpu_seconds": seconds,
        "states": state_accuracies(base.problem.session, load_split("digits", "test")),
    }


class Counter:
    """Multiply-adds of a trainer: decisions exactly, some of its steps, scaled up.

    Counting a step takes many times as long as the step.

    Args:
        trainer: The trainer, watched from now on.
    """

    def __init__(self, trainer: Any) -> None:
        self.counted = self.counts = self.steps = self.visited = 0
        self._step, trainer._step = trainer._step, self.step
        self._batches, trainer._batches = trainer._batches, self.batches

    def step(self, *arguments: Any) -> Any:
        """Take one optimiser step; the first and then every so many are counted."""
        self.steps += 1
        if self.steps % COUNT_EVERY != 1:
            return self._step(*arguments)
        outcome, macs = counted(lambda: self._step(*arguments))
        self.counted, self.counts = self.counted + macs, self.counts + 1
        return outcome

    def batches(self, *arguments: Any) -> Any:
        """Let the policy decide, whose cost is known."""
        *found, macs = self._batches(*arguments)
        self.visited += int(macs.sum())
        return *found, macs

    @property
    def total(self) -> float:
        """Estimated multiply-adds of all turns."""
        return self.visited + self.steps * self.counted / max(self.counts, 1)


def counted(work: Callable[[], Any]) -> tuple[Any, int]:
    """Do some work; return what it returns, and its multiply-adds."""
    with FlopCounterMode(display=False) as counter:
        outcome = work()
    return outcome, counter.get_total_flops() // 2


def summarise(arm: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over seeds; 95 % intervals over test images, and sd over seeds."""
    mine = [run for run in runs if run["arm"] == arm]
    first = {run["seed"]: run for run in runs if run["arm"] == "co-trained"}
    groups = load_split("digits", "test").groups.numpy()
    returns = np.mean([run["returns"] for run in mine], axis=0)
    pairs = [run["returns"] - first[run["seed"]]["returns"] for run in mine]
    states = {name: [r["states"][name] for r in mine] for name in mine[0]["states"]}
    return {
        "arm": arm,
        "seeds": len(mine),
        "mean": {key: float(np.mean([run[key] for run in mine])) for key in MEANS},
        "sd": {key: deviation([run[key] for run in mine]) for key in MEANS},
        "return_interval": bootstrap_interval(returns, groups),
        "minus_co_trained": float(np.mean(pairs)),
        "minus_co_trained_interval": bootstrap_interval(np.mean(pairs, axis=0), groups),
        "minus_co_trained_seeds": [float(pair.mean()) for pair in pairs],
        "states": {
            name: {"mean": float(np.mean(values)), "sd": deviation(values)}
            for name, values in states.items()
        },
    }


def deviation(values: list[float]) -> float:
    """Return the standard deviation of a sample; 0 for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def format_arms(arms: list[dict[str, Any]]) -> str:
    """Return the means as a Markdown table."""
    rows = [
        {"arm": one["arm"], "sd": one["sd"]["return"], **one["mean"]}
        | {name: state["mean"] for name, state in one["states"].items()}
        for one in arms
    ]
    columns = {
        "arm": ("arm", ""),
        "return": ("return", ".4f"),
        "sd": ("sd", ".4f"),
        "accuracy": ("accuracy", ".1%"),
        "compute": ("compute", ".2f"),
        "G multiply-adds": ("gmacs", ".1f"),
    }
    return table(columns | {name: (name, ".1%") for name in arms[0]["states"]}, rows)


if __name__ == "__main__":
    main(tyro.cli(Args))
