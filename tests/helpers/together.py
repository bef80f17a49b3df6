"""What two processes do that train tiny networks together; imported by both."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from helpers.networks import random_split, tiny_config
from torch.multiprocessing.spawn import spawn

from dynalay_gym.cotraining.main_training import follow, run_epochs
from dynalay_gym.data.chains import VOCABULARY, make_chains_split
from dynalay_gym.data.maze import make_maze_split
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import CheckpointError
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.training import MainTrainer, TrainingConfig
from dynalay_gym.utils.interrupts import Stopped
from dynalay_gym.utils.processes import Processes, join

STOPS_AFTER = 3
Found = dict[str, Any]


def problem(name: str) -> tuple[MainNetworkConfig, Split]:
    """Return a network without statistics of batches (two kinds), or with (wide)."""
    if name == "mazes":
        config = MainNetworkConfig(
            in_shape=(3, 9, 9),
            num_classes=4,
            form="planner",
            stem=4,
            channels=(2, 2),
            views=(5, 0),
            head_width=6,
            max_steps=(3, 6),
        )
        return config, make_maze_split(32, 9, seed=5)
    if name == "texts":
        config = MainNetworkConfig(
            in_shape=(7,),
            num_classes=5,
            form="text",
            vocabulary=VOCABULARY,
            stem=5,
            channels=(4, 3),
            rtol=1e-4,
            max_steps=6,
        )
        return config, make_chains_split(32, seed=5)
    config = tiny_config()
    return config, random_split(config, 32)


def make_trainer(name: str) -> MainTrainer:
    """Return a training that is the same in every process."""
    architecture, data = problem(name)
    config = TrainingConfig(
        epochs=2,
        batch_size=16,
        paths="all" if name == "wide" else "portions",
        augment=name != "mazes",
        dropped_words=0.1,
    )
    torch.manual_seed(0)
    return MainTrainer(MainNetwork(architecture), data, config)


def train(one: MainTrainer, epochs: int = 2) -> Found:
    """Train to a number of epochs; return weights, statistics and losses."""
    losses: list[float] = []
    while one.epoch < epochs:
        one.train_epoch(lambda step, loss: losses.append(loss))
    return {"network": one.network.state_dict(), "losses": losses}


def run_two(work: Callable[..., None], folder: Path) -> list[Found]:
    """Let two processes work in a folder; return what each of them has found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_start, (port, folder, work), nprocs=2)
    return [torch.load(folder / f"found-{rank}") for rank in range(2)]


def _start(
    rank: int, port: int, folder: Path, work: Callable[[Processes, Path], Found]
) -> None:
    torch.set_num_threads(1)
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(where, RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    with join() as those:
        torch.save(work(those, folder), folder / f"found-{rank}")


def joined(name: str, those: Processes) -> MainTrainer:
    """Return a training that other processes take part in."""
    one = make_trainer(name)
    if not those.is_first:  # what the first one begins with counts
        with torch.no_grad():
            one.network.head.add_(1.0)
    one.join(those)
    return one


def everything(those: Processes, folder: Path) -> Found:
    """Train all networks, one of them in two halves, and stop in a third half."""
    found: Found = {}
    for name in ("mazes", "texts", "wide"):
        one = joined(name, those)
        one.agree()
        found[name] = train(one)
    own = folder / f"rank-{those.rank}"
    first = joined("mazes", those)
    run_epochs(first, 1, own / "resume", lambda step, loss: None)
    those.largest(0)  # all is written
    found["files"] = sorted(each.name for each in folder.iterdir())
    second = joined("mazes", those)
    if those.is_first:
        second.load(folder / "rank-0" / "resume")
        run_epochs(second, 2, own / "rest", lambda step, loss: None)
    else:
        follow(second, folder / "rank-0")
    found["resumed"] = train(second)
    found["stopped"] = stop(those, folder)
    found["apart"] = part(those)
    return found


def stop(those: Processes, folder: Path) -> list[int]:
    """Let a signal reach the second process; return steps and the signal obeyed."""
    one = joined("mazes", those)

    def after_step(step: int, loss: float) -> None:
        if step == STOPS_AFTER and those.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        run_epochs(one, 2, folder / f"stopped-{those.rank}", after_step)
    except Stopped as stopped:
        return [one.steps, stopped.exit_code - 128]
    return []


def part(those: Processes) -> str:
    """Let only one of the processes be further than the other; return the error."""
    one = joined("mazes", those)
    one.steps += those.rank
    try:
        one.agree()
    except CheckpointError as error:
        return str(error)
    return ""
