"""Compare algorithms with every reference policy over seeds and penalties.

    python -m benchmarks.compare_algorithms --out benchmarks/results/digits.json

Each algorithm is trained anew for every seed and penalty, with the defaults of
``train_agent.py``, and decides on the whole test split; with ``--transitions table``
both happen on tables, which gives the same numbers sooner. Returns are averaged
over seeds per sample; 95 % intervals resample original images. The same resampling,
paired, gives the intervals of the differences: from ``max-prob``, from the first
algorithm, and from the exact optimum (regret).

Axes: n samples, S seeds.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from agents.environments import (
    build_environments,
    make_envs,
    make_evaluation_envs,
)
from agents.options import Options
from agents.registry import make_agent
from benchmarks.report import table
from dynalay_gym.data.splits import load_split
from dynalay_gym.evaluation.comparison import compare
from dynalay_gym.evaluation.evaluate import EvaluationResult
from dynalay_gym.evaluation.intervals import bootstrap_interval
from dynalay_gym.storage.io import write_json
from dynalay_gym.storage.metrics import run_metadata

Returns = NDArray[np.float64]
Results = dict[str, list[EvaluationResult]]  # one per seed, by policy

REFERENCE, OPTIMUM = "max-prob", "oracle"
COLUMNS = {
    "policy": ("policy", ""),
    "accuracy": ("accuracy", ".1%"),
    "compute": ("compute", ".1f"),
    "return": ("return", ".4f"),
    "minus max-prob": ("over_max_prob", "+.4f"),
    "minus oracle": ("over_oracle", "+.4f"),
}


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
    transitions: Literal["live", "table"] = "live"
    """live or table."""
    data_dir: Path | None = None
    """Folder of the data files."""
    num_threads: int = 1
    """CPU threads."""


def main(args: Args) -> None:
    """Run everything, print a table per penalty and write the JSON."""
    torch.set_num_threads(args.num_threads)
    base = Options(
        dataset=args.dataset,
        checkpoint=args.checkpoint,
        data_dir=args.data_dir,
        num_threads=args.num_threads,
        transitions=args.transitions,
    )
    any_envs: Any = make_envs(base, "test", None, 1).unwrapped
    break_even: float = any_envs.penalty_range[0]
    groups = load_split(args.dataset, "test", data_dir=args.data_dir).groups.numpy()
    sections = []
    for scale in args.scales:
        penalty = scale * break_even
        options = replace(base, penalty=repr(penalty))
        rows = summaries(run_all(args, options), args.algos[0], groups)
        print(f"\npenalty {penalty:.4g} ({scale:g} break-evens)\n")
        print(table(COLUMNS, rows), flush=True)
        sections.append({"scale": scale, "penalty": penalty, "policies": rows})
    facts = {"args": asdict(args), "environment": run_metadata()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, facts | {"penalties": sections})


def run_all(args: Args, options: Options) -> Results:
    """Return the results of all algorithms and references at one penalty."""
    results: Results = {}
    for algo in args.algos:
        for seed in range(args.seeds):
            learned, *references = train(replace(options, algo=algo, seed=seed))
            results.setdefault(algo, []).append(learned)
            print(f"{algo} seed {seed}: {learned.mean_return:.4f}", flush=True)
            for each in references:
                is_mix = each.policy == "random-mix"  # at this agent's compute
                name = f"random-mix of {algo}" if is_mix else each.policy
                if is_mix or algo == args.algos[0]:
                    results.setdefault(name, []).append(each)
    return results


def train(options: Options) -> list[EvaluationResult]:
    """Train one agent; return its result on the test split, then the references'."""
    config = options.config()
    envs = build_environments(options, config)
    if options.transitions == "table":
        test = make_evaluation_envs(options, "test", options.penalty, "table")
        envs = replace(envs, test=test)
    agent = make_agent(
        envs.train, config, seed=options.seed, baseline_envs=envs.baseline
    )
    agent.learn(config.total_timesteps)
    return compare(agent.policy, envs.test, envs.validation, envs.penalty, options.seed)


def summaries(results: Results, first: str, groups: Any) -> list[dict[str, Any]]:
    """Return a row per policy: means over seeds, intervals over original images."""
    returns = {
        name: np.stack([result.returns for result in each]).mean(0)
        for name, each in results.items()
    }
    bases = {"max_prob": REFERENCE, "first": first, "oracle": OPTIMUM}
    rows = []
    for name, each in results.items():
        row = {
            "policy": name,
            "accuracy": float(np.mean([result.accuracy for result in each])),
            "compute": float(np.mean([result.compute for result in each])),
            "return": interval(returns[name], groups),
            "return_per_seed": [result.mean_return for result in each],
        }
        for key, base in bases.items():
            row[f"over_{key}"] = interval(returns[name] - returns[base], groups)
        rows.append(row)
    return rows


def interval(values: Returns, groups: Any) -> dict[str, float]:
    """Return the mean and its 95 % interval."""
    low, high = bootstrap_interval(values, groups)
    return {"low": low, "mean": float(values.mean()), "high": high}


if __name__ == "__main__":
    main(tyro.cli(Args))
