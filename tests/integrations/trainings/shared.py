"""What all trainings share: the task, the settings, how a result is measured.

A training is a function that is given a `Task`, lets a library learn it, and returns
how the learned policy acts. The library gets the environment's id and arguments alone.
"""

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dynalay_gym.evaluation.comparison import compare
from dynalay_gym.storage.metrics import run_metadata

IDS = {
    "digits": "dynalay_gym:DynaLay/Digits-v0",
    "maze": "dynalay_gym:DynaLay/Maze-v0",
}

# Settings of PPO, the same in all libraries. An episode has few decisions, so its
# rewards are not discounted; the learning rate falls to 0 in a line.
NUM_ENVS = 8
NUM_STEPS = 128  # of each environment, between two updates
ROLLOUT = NUM_ENVS * NUM_STEPS
BATCH_SIZE = 256
EPOCHS = 10
LEARNING_RATE = 2e-3
DISCOUNT = 1.0


@dataclass(frozen=True)
class Task:
    """What a library is to learn.

    Attributes:
        id: Id of the environment.
        options: Arguments of the environment beside its id.
        decisions: How many decisions it may take, roughly.
        seed: Seed of the training.
    """

    id: str
    options: dict[str, Any]
    decisions: int
    seed: int = 0


Infos = dict[str, Any]
Act = Callable[[NDArray[Any], Infos], NDArray[Any]]  # greedy actions [N]


@dataclass(frozen=True)
class Training:
    """One algorithm of a library.

    Attributes:
        train: Learns a task; returns how the learned policy acts.
        autoreset: Mode of the vector environment that the library makes or is given;
            ``none`` where it resets single environments itself.
        lines_changed: Lines that the library's code had to be changed in.
        transitions: ``table``, or ``live`` where nothing but the id can be given.
    """

    train: Callable[[Task], Act]
    autoreset: str
    lines_changed: int = 0
    transitions: str = "table"


@dataclass(frozen=True)
class LearnedPolicy:
    """What was learned, in the form that `compare` takes."""

    act: Act
    name: str = "learned"
    macs_per_decision: int = 0  # not reported


def make_net(inputs: int, outputs: int) -> nn.Module:
    """Return a network with two hidden layers, for libraries that want one."""
    hidden = [nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]
    return nn.Sequential(*hidden, nn.Linear(64, outputs))


def greedy(scores: Callable[[torch.Tensor], torch.Tensor]) -> Act:
    """Return how to take the action that `scores`, [N, D] to [N, A], puts first."""

    @torch.no_grad()
    def act(observations: NDArray[Any], infos: Infos) -> NDArray[Any]:
        return scores(torch.as_tensor(observations)).argmax(dim=-1).numpy()

    return act


def main(library: str, trainings: dict[str, Training], release: str = "") -> None:
    """Run a library's trainings on every task; add a JSON line for each to a file.

    Args:
        library: The library's name in `pip`.
        trainings: The trainings by the name of their algorithm.
        release: Version of a library that is not installed.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=IDS, default=list(IDS))
    parser.add_argument("--algorithms", nargs="+", default=list(trainings))
    parser.add_argument("--decisions", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    about = {"library": library, "version": release or version(library)}
    for algorithm in args.algorithms:
        for name in args.tasks:
            training = trainings[algorithm]
            options = {"transitions": training.transitions}
            task = Task(IDS[name], options, args.decisions, args.seed)
            row = about | {"algorithm": algorithm, "task": name}
            row |= measure(training, task)
            print(row, flush=True)
            with args.out.open("a", encoding="utf-8") as file:
                print(json.dumps(row | {"about": run_metadata()}), file=file)


def measure(training: Training, task: Task) -> dict[str, Any]:
    """Train on a task and return all that is measured."""
    torch.set_num_threads(1)  # networks this small are slower with more
    torch.manual_seed(task.seed)
    np.random.seed(task.seed)  # noqa: NPY002 - what some libraries draw from
    start, before = time.perf_counter(), sum(os.times()[:4])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        act = training.train(task)
    seconds, cpu_seconds = time.perf_counter() - start, sum(os.times()[:4]) - before
    return {
        "lines_changed": training.lines_changed,
        "autoreset": training.autoreset,
        "transitions": training.transitions,
        "decisions": task.decisions,
        "seed": task.seed,
        "seconds": round(seconds),
        "cpu_seconds": round(cpu_seconds),  # of ended child processes, too
        "warnings": sorted({f"{w.category.__name__}: {w.message}" for w in caught}),
        "returns": returns_on_test_split(task, act),
    }


def returns_on_test_split(task: Task, act: Act) -> dict[str, float]:
    """Return the mean test return of the learned and of every reference policy."""
    options = {"autoreset_mode": "Disabled", "transitions": "table"}
    test, validation = (
        gym.make_vec(task.id, num_envs=256, split=split, **options)
        for split in ("test", "validation")
    )
    penalty = test.unwrapped.penalty_range[0]
    results = compare(LearnedPolicy(act), test, validation, penalty)
    return {result.policy: round(result.mean_return, 4) for result in results}
