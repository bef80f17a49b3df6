"""Compare algorithms with every reference policy over seeds and penalties.

    python benchmarks/compare_algorithms.py --out benchmarks/results/digits.json

Each algorithm is trained anew for every seed and penalty, with the defaults of
``train_agent.py``, and decides on the whole test split; with ``--transitions table``
both happen on tables, which gives the same numbers sooner. Returns are averaged
over seeds per sample; 95 % intervals resample original images. The same resampling,
paired, gives the intervals of the differences: from ``max-prob``, from the first
algorithm, and from the exact optimum (regret).

Axes: n samples, S seeds.
"""

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train_agent
from agents.environments import (
    build_environments,
    make_envs,
    make_evaluation_envs,
)
from agents.options import Options
from dynalay_gym.evaluation.comparison import compare as compare_policies
from dynalay_gym.evaluation.evaluate import EvaluationResult
from dynalay_gym.evaluation.intervals import bootstrap_interval
from dynalay_gym.utils.io import write_json
from dynalay_gym.utils.metrics import run_metadata

REFERENCE, OPTIMUM = "max-prob", "oracle"


@dataclass(frozen=True, kw_only=True)
class Args:
    """Compare algorithms over seeds and penalties."""

    out: Path
    """JSON file for the results."""
    dataset: str = "digits"
    """Data set."""
    algos: tuple[str, ...] = ("ppo", "policy-gradient")
    """Algorithms."""
    scales: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Penalties, as multiples of the network's break-even."""
    seeds: int = 5
    """Seeds 0, 1, ..."""
    checkpoint: Path | None = None
    """Main network; the shipped one if not given."""
    transitions: str = "live"
    """live or table."""
    data_dir: Path | None = None
    """Folder of the data files."""
    num_threads: int = 1
    """CPU threads."""


def main(args: Args) -> None:
    """Run everything, print a table per penalty and write the JSON."""
    import torch

    torch.set_num_threads(args.num_threads)
    sections = [compare(args, scale) for scale in args.scales]
    facts = {"args": asdict(args), "environment": run_metadata()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, facts | {"penalties": sections})


def compare(args: Args, scale: float) -> dict[str, Any]:
    """All algorithms and references at one penalty."""
    penalty = scale * break_even(args)
    results: dict[str, list[EvaluationResult]] = {}
    groups = test_groups(args)
    for algo in args.algos:
        for seed in range(args.seeds):
            learned, *references = train_and_compare(args, algo, seed, penalty)
            results.setdefault(algo, []).append(learned)
            print(
                f"{algo} seed {seed} penalty {penalty:.4g}: {learned.mean_return:.4f}"
            )
            for reference in references:
                if reference.policy == "random-mix":
                    results.setdefault(f"random-mix of {algo}", []).append(reference)
                elif algo == args.algos[0]:
                    results.setdefault(reference.policy, []).append(reference)
    bases = {
        "over_max_prob": mean_returns(results[REFERENCE]),
        "over_first": mean_returns(results[args.algos[0]]),
        "over_oracle": mean_returns(results[OPTIMUM]),
    }
    rows = [summary(name, each, bases, groups) for name, each in results.items()]
    print(f"\npenalty {penalty:.4g} ({scale:g} break-evens)\n{table(rows)}\n")
    return {"scale": scale, "penalty": penalty, "policies": rows}


def options(args: Args, algo: str, seed: int, penalty: float | None) -> Any:
    """Options of ``train_agent.py`` for one run."""
    return Options(
        algo=algo,
        dataset=args.dataset,
        seed=seed,
        penalty=None if penalty is None else repr(penalty),
        checkpoint=args.checkpoint,
        data_dir=args.data_dir,
        num_threads=args.num_threads,
        transitions=args.transitions,
    )


def break_even(args: Args) -> float:
    """Penalty stored with the main network."""
    envs = make_envs(options(args, "ppo", 0, None), "test", None, 1)
    low: float = envs.unwrapped.penalty_range[0]  # type: ignore[attr-defined]
    return low


def test_groups(args: Args) -> np.ndarray:
    """Id of the original image of every test sample, int64 [n]."""
    from dynalay_gym.data.splits import load_split

    split = load_split(args.dataset, "test", data_dir=args.data_dir)
    ids: np.ndarray = split.groups.numpy()
    return ids


def train_and_compare(
    args: Args, algo: str, seed: int, penalty: float
) -> list[EvaluationResult]:
    """Train one agent; its result on the test split, then the references'."""
    chosen = options(args, algo, seed, penalty)
    config = train_agent.choose_config(chosen)
    envs = build_environments(chosen, config)
    if args.transitions == "table":
        test = make_evaluation_envs(chosen, "test", chosen.penalty, "table")
        envs = replace(envs, test=test)
    agent = train_agent.build_agent(chosen, config, envs)
    agent.learn(agent.config.total_timesteps)
    return compare_policies(
        agent.policy, envs.test, envs.validation, envs.penalty, seed
    )


def mean_returns(results: list[EvaluationResult]) -> np.ndarray:
    """Return of every sample, averaged over seeds, [n]."""
    mean: np.ndarray = np.stack([result.returns for result in results]).mean(0)
    return mean


def summary(
    name: str,
    results: list[EvaluationResult],
    bases: dict[str, np.ndarray],
    groups: np.ndarray,
) -> dict[str, Any]:
    """One row: means over seeds, intervals over original images."""
    returns = mean_returns(results)
    per_seed = [result.mean_return for result in results]
    row = {
        "policy": name,
        "accuracy": float(np.mean([result.accuracy for result in results])),
        "compute": float(np.mean([result.compute for result in results])),
        "return": float(returns.mean()),
        "return_interval": bootstrap_interval(returns, groups),
        "return_per_seed": per_seed,
    }
    for key, base in bases.items():
        row[key] = float((returns - base).mean())
        row[f"{key}_interval"] = bootstrap_interval(returns - base, groups)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of one penalty."""
    lines = [
        "| policy | accuracy | compute | return | minus max-prob | regret |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        low, high = row["return_interval"]
        low_d, high_d = row["over_max_prob_interval"]
        lines.append(
            f"| {row['policy']} | {100 * row['accuracy']:.1f} % | {row['compute']:.1f} "
            f"| {row['return']:.4f} [{low:.4f}, {high:.4f}] "
            f"| {row['over_max_prob']:+.4f} [{low_d:+.4f}, {high_d:+.4f}] "
            f"| {abs(row['over_oracle']):.4f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(Args))
