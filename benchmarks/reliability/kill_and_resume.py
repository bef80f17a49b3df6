"""Kill trainings at random moments, resume them, compare them bit by bit.

    python -m benchmarks.reliability.kill_and_resume --kills 50

Every subject is a short run on the digits. It runs once undisturbed. Then it is started
again and again, ended by SIGKILL (or another signal) at a random moment of its life,
and resumed; all weights that it leaves, all that a further resumption would start from,
and all curves, of `metrics.jsonl` and of TensorBoard, have to equal the undisturbed
run's. Prints a line per subject and exits with 1 unless all are equal.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from torch import Tensor

ROOT = Path(__file__).parents[2]
_AGENT = "train_agent.py --dataset digits --num-envs 32"
_SMALL = "--total-timesteps 10240 --algo"
SUBJECTS = {
    "train_main": "train_main.py --dataset digits --epochs 3 --batch-size 400",
    "policy-gradient": f"{_AGENT} {_SMALL} policy-gradient --keep-best",
    "ppo": f"{_AGENT} {_SMALL} ppo",
    "a2c": f"{_AGENT} {_SMALL} a2c",
    "dqn": f"{_AGENT} {_SMALL} dqn --dqn.learning-starts 1024",
    "exact": f"{_AGENT} --total-timesteps 600000 --algo exact",
    "co-training": f"{_AGENT} {_SMALL} policy-gradient --co-train"
    " --co.main-epochs 1 --co.agent-steps 2048 --co.batch-size 32",
}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Kill trainings at random moments, resume them, compare them bit by bit."""

    subjects: tuple[str, ...] = ("train_main", "policy-gradient", "ppo", "co-training")
    """Of train_main, policy-gradient, ppo, a2c, dqn, exact, co-training."""
    kills: int = 5
    """Kills of every subject, each followed by a resumption."""
    signal: str = "SIGKILL"
    """What ends the runs: SIGKILL, or SIGTERM, SIGINT, SIGHUP."""
    seed: int = 0
    """Of the moments."""


def main(args: Args) -> int:
    """Try every subject; return the exit code."""
    moments, failed = random.Random(args.seed), 0
    for name in args.subjects:
        with tempfile.TemporaryDirectory() as place:
            found = try_subject(name, args, Path(place), moments)
        failed += found.total() - found["equal"]
        words = ", ".join(f"{number} {what}" for what, number in found.items())
        print(f"{name:<16} {words}", flush=True)
    return int(failed > 0)


def try_subject(
    name: str, args: Args, place: Path, moments: random.Random
) -> Counter[str]:
    """Return how often a subject's killed and resumed runs ended how."""
    command, found = SUBJECTS[name].split(), Counter[str]()
    begun = time.monotonic()
    whole = start(command, place / "whole")
    folder = run_folder(whole, place / "whole")
    ready = time.monotonic() - begun
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors
    life = time.monotonic() - begun - ready
    for number in range(args.kills):
        other = place / str(number)
        cut = start(command, other)
        rest = run_folder(cut, other)
        time.sleep(moments.uniform(0, life))
        cut.send_signal(signal.Signals[args.signal])
        cut.communicate()
        found[resume(command, other, folder, rest)] += 1
    return found


def start(command: list[str], place: Path) -> "subprocess.Popen[str]":
    """Start a script in a folder of its own."""
    place.mkdir(exist_ok=True)
    script, *options = command
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *options],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_folder(process: "subprocess.Popen[str]", place: Path) -> Path:
    """Wait until a script has made its run folder and written its options."""
    while process.poll() is None:
        for path in place.glob("runs/digits/*/0/config.json"):
            return path.parent
        time.sleep(0.01)
    raise RuntimeError(f"it ended early: {process.communicate()[1]}")


def resume(command: list[str], place: Path, whole: Path, cut: Path) -> str:
    """Resume a run; return how it ended in a word or two."""
    process = start([*command, "--resume", str(cut.relative_to(place))], place)
    _, errors = process.communicate()
    if process.returncode != 0:
        print(errors, file=sys.stderr)
        return "not resumed"
    different = list(differences(whole, cut))
    for each in different:
        print(f"{cut}: {each}", file=sys.stderr)
    return "different" if different else "equal"


def differences(one: Path, other: Path) -> Iterator[str]:
    """Yield what two runs' folders do not have in common."""
    for path in sorted(one.rglob("checkpoint.json")):
        name = path.parent.relative_to(one)
        first, second = (tensors_of(each / name) for each in (one, other))
        if first.keys() != second.keys():
            yield f"names of tensors in {name}"
        elif not all(torch.equal(first[key], second[key]) for key in first):
            yield f"tensors in {name}"
    if curves(one) != curves(other):
        yield "metrics.jsonl"
    if board(one) != board(other):
        yield "TensorBoard"


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a saved folder; none if it is not there."""
    manifest = folder / "checkpoint.json"
    if not manifest.is_file():
        return {}
    name = json.loads(manifest.read_text(encoding="utf-8"))["weights"]["name"]
    tensors: dict[str, Tensor] = load_file(folder / name)
    return tensors


def curves(folder: Path) -> list[dict[str, Any]]:
    """Return what a run recorded, but for times."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [without_time(json.loads(line)) for line in lines]


def board(folder: Path) -> dict[str, Any]:
    """Return the scalars of a run as TensorBoard shows them, but for times."""
    events = EventAccumulator(str(folder)).Reload()
    tags = events.Tags()["scalars"]
    return without_time(
        {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in tags}
    )


def without_time(values: dict[str, Any]) -> dict[str, Any]:
    """Return values whose tag does not speak of time."""
    return {tag: value for tag, value in values.items() if "time" not in tag}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
