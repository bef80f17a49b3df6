"""Does what the predictor skips become time? Realised against counted speed-up.

    python benchmarks/predictor_speed.py --out benchmarks/results/predictor.json

On the test split of the digits, or on a larger network with random weights (``--preset
small``: its times mean something, its accuracy does not), with a max-probability rule
whose threshold skips a given share of what iterating everything multiplies. Variants
take turns, batch by batch of the same images; ratios are medians over rounds.

- ``always``: one lean pass with every layer iterated, no decisions around it.
- ``plain``: every layer once.
- ``masked``: plain and always for every image, then the rule selects.
- ``bound``: plain for every image, always for those that the rule does not stop: the
  time of what cannot be skipped, without decisions.
- ``predictor``: ``DynaLayPredictor.infer``.
- ``predictor-always``: the same object with the plan (1, ..., L).
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from dynalay_gym.data import load_split
from dynalay_gym.envs.factory import SHIPPED
from dynalay_gym.metrics import environment_facts, write_json
from dynalay_gym.models.checkpoint import load_model
from dynalay_gym.models.main_model import MainModel
from dynalay_gym.models.presets import make_config
from dynalay_gym.policies import MaxProbPolicy, PlanPolicy
from dynalay_gym.predictor import DynaLayPredictor

Variant = Callable[[Tensor], Any]


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure the realised against the counted speed-up of the predictor."""

    out: Path
    """JSON file for the results."""
    preset: str | None = None
    """A random network of this preset on random 3x32x32 images; None: the digits."""
    batches: tuple[int, ...] = (1, 32, 256)
    """Batch sizes."""
    skipped: tuple[float, ...] = (0.3, 0.5, 0.7)
    """Shares of the multiply-adds of iterating everything that the rule skips."""
    images: tuple[int, ...] = (256, 1024, 2048)
    """Images per round, one number per batch size."""
    rounds: int = 7
    """Rounds; every variant runs once in each."""
    predictor: Path | None = None
    """Folder of a saved predictor (train_agent.py's) to measure beside the rule."""
    num_threads: int = 1
    """CPU threads."""


class Bench:
    """Network, images and the plan that iterates everything.

    Args:
        preset: Preset of a random network; None: the shipped one of the digits.
        num_images: Images that are needed.
    """

    def __init__(self, preset: str | None, num_images: int) -> None:
        torch.manual_seed(0)
        if preset is None:
            self.model, _ = load_model(SHIPPED / "digits")
            split = load_split("digits", "test")
            order = torch.randperm(len(split))[:num_images]
            self.images, self.labels = split.images[order], split.labels[order]
        else:
            self.model = MainModel(make_config(preset, (3, 32, 32), 10))
            self.images = torch.randn(num_images, 3, 32, 32)
            self.labels = torch.zeros(num_images, dtype=torch.int64)
        self.plan = tuple(range(1, self.model.num_layers + 1))
        self.always = DynaLayPredictor(self.model, PlanPolicy(self.plan), penalty=0.0)
        self.column = self.always.observation_layout["max_prob"].start
        stop = DynaLayPredictor(self.model, PlanPolicy(()), penalty=0.0)
        self.sure = stop.predict_proba(self.images).max(1).values
        self.always_macs = self.always.infer(self.images).macs - self._refreshes()
        self.path = 2**self.model.num_layers - 1

    def _refreshes(self) -> int:
        """What the lean pass saves: refreshed layers and heads between choices."""
        return sum(self.always.session.costs.refresh(layer) for layer in self.plan)

    def rule(self, skipped: float) -> tuple[DynaLayPredictor, float]:
        """Predictor whose threshold skips this share, and the threshold."""
        threshold = float(np.quantile(self.sure.numpy(), 1 - self._stopped(skipped)))
        policy = MaxProbPolicy(self.column, self.plan, [threshold])
        return DynaLayPredictor(self.model, policy, penalty=0.0), threshold

    def _stopped(self, skipped: float) -> float:
        """Share of images to stop, so that this share of the work is skipped."""
        always = float(self.always_macs.double().mean())
        plain = self.always.session.costs.plain_pass
        return min(1.0, skipped * always / (always - plain))

    @torch.no_grad()
    def run_always(self, images: Tensor) -> Tensor:
        """Every layer iterated, lean."""
        return self.model.forward_path(images, self.path, self.always.session.solver)

    @torch.no_grad()
    def run_plain(self, images: Tensor) -> Tensor:
        """Every layer once."""
        return self.model(images)

    def run_masked(self, images: Tensor, threshold: float) -> Tensor:
        """Compute both, select."""
        plain, full = self.run_plain(images), self.run_always(images)
        sure = plain.softmax(1).max(1, keepdim=True).values >= threshold
        return torch.where(sure, plain, full)

    def run_bound(self, images: Tensor, going: Tensor) -> None:
        """Only what the rule cannot skip; which rows go is known beforehand."""
        self.run_plain(images)
        if going.numel() > 0:
            self.run_always(images[going])


def main(args: Args) -> None:
    """Measure everything, print a table and write the JSON."""
    torch.set_num_threads(args.num_threads)
    bench = Bench(args.preset, max(args.images))
    subjects = [(f"max-prob {share:.0%}", *bench.rule(share)) for share in args.skipped]
    if args.predictor is not None:
        loaded = DynaLayPredictor.load(args.predictor)
        subjects.append((str(args.predictor), loaded, float("nan")))
    rows = [
        measure(bench, args, name, predictor, threshold, size, num)
        for name, predictor, threshold in subjects
        for size, num in zip(args.batches, args.images, strict=True)
    ]
    for row in rows:
        print(format_row(row))
    facts = {"args": asdict(args), "environment": environment_facts()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, facts | {"rows": rows})


def measure(
    bench: Bench,
    args: Args,
    name: str,
    predictor: DynaLayPredictor,
    threshold: float,
    size: int,
    num: int,
) -> dict[str, Any]:
    """One policy at one batch size."""
    images, labels = bench.images[:num], bench.labels[:num]
    found = predictor.infer(images)
    going = [
        (part[:, 0] != 0).nonzero().flatten() for part in found.actions.split(size)
    ]
    is_rule = isinstance(predictor.policy, MaxProbPolicy)
    variants: dict[str, Variant] = {
        "always": bench.run_always,
        "plain": bench.run_plain,
        "predictor": predictor.infer,
        "predictor-always": bench.always.infer,
    }
    if is_rule:
        variants["masked"] = lambda batch: bench.run_masked(batch, threshold)
    seconds = time_rounds(bench, variants, images, size, args.rounds, going, is_rule)
    always_macs = float(bench.always_macs[:num].double().mean())
    own_macs = float((found.macs + found.policy_macs).double().mean())
    counted = always_macs / own_macs
    realised = seconds["always"] / seconds["predictor"]
    row = {
        "policy": name,
        "batch": size,
        "images": num,
        "accuracy": float((found.labels == labels).double().mean()),
        "skipped": 1 - own_macs / always_macs,
        "counted": counted,
        "realised": spread(realised),
        "realised_over_counted": float(np.median(realised)) / counted,
        "us_per_image": {
            key: spread(1e6 * value / num) for key, value in seconds.items()
        },
        "overhead": spread(seconds["predictor-always"] / seconds["always"]),
    }
    if is_rule:
        attainable = seconds["always"] / seconds["bound"]
        row["attainable"] = spread(attainable)
        row["realised_over_attainable"] = float(np.median(realised / attainable))
        row["masked"] = spread(seconds["always"] / seconds["masked"])
    return row


def time_rounds(
    bench: Bench,
    variants: dict[str, Variant],
    images: Tensor,
    size: int,
    rounds: int,
    going: list[Tensor],
    with_bound: bool,
) -> dict[str, np.ndarray]:
    """Seconds per round of each variant, over all images; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    if with_bound:
        seconds["bound"] = []
    for _ in range(rounds + 1):
        for values in seconds.values():
            values.append(0.0)
        for batch, rows in zip(images.split(size), going, strict=True):
            for name in seconds:
                began = time.perf_counter()
                if name == "bound":
                    bench.run_bound(batch, rows)
                else:
                    variants[name](batch)
                seconds[name][-1] += time.perf_counter() - began
    return {name: np.array(values[1:]) for name, values in seconds.items()}


def spread(values: np.ndarray) -> dict[str, float]:
    """Median, smallest and largest."""
    return {
        "median": float(np.median(values)),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def format_row(row: dict[str, Any]) -> str:
    """One line of the table."""
    text = (
        f"{row['policy']:14} batch {row['batch']:4} skipped {row['skipped']:.2f} "
        f"counted {row['counted']:.2f} realised {row['realised']['median']:.2f} "
        f"({row['realised_over_counted']:.2f})"
    )
    if "attainable" in row:
        text += (
            f" attainable {row['attainable']['median']:.2f} "
            f"({row['realised_over_attainable']:.2f}) "
            f"masked {row['masked']['median']:.2f}"
        )
    return text + f" overhead {row['overhead']['median']:.2f}"


if __name__ == "__main__":
    main(tyro.cli(Args))
