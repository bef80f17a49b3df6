"""Environment speed: batched against one environment per row, and the dense bound.

    python benchmarks/bench_env.py --out benchmarks/results/env-digits.json

All variants take turns in one process on the same stream of actions (NOP one half, the
layers one sixth each); figures are medians over rounds of sample-steps per second, and
ratios are taken round by round. The *dense bound* runs the multiply-adds that the
batched environment ran, layer by layer in dense batches of 256, with nothing around
them.

Axes: N rows, L layers.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dynalay_gym.data_registry import dataset_spec
from dynalay_gym.metrics import environment_facts, write_json
from dynalay_gym.models.implicit import SolverConfig

_DENSE = 256
_NAIVE_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure environment speed."""

    out: Path
    """JSON file for the results."""
    dataset: str = "digits"
    """Data set."""
    checkpoint: Path | None = None
    """Main network; the shipped one if not given."""
    data_dir: Path | None = None
    """Folder of the data files."""
    rows: tuple[int, ...] = (64, 256, 1024)
    """Numbers of rows of the batched environment."""
    rounds: int = 7
    """Rounds in which every variant has one turn."""
    seconds: float = 1.0
    """Length of one turn."""
    num_threads: int = 1
    """CPU threads."""


def main(args: Args) -> None:
    """Measure, print a Markdown table, write the JSON."""
    torch.set_num_threads(args.num_threads)
    variants = make_variants(args)
    for turn in variants.values():
        turn(0.1)  # warm-up
    rounds = [
        {name: turn(args.seconds) for name, turn in variants.items()}
        for _ in range(args.rounds)
    ]
    rows = [summary(name, rounds) for name in variants]
    print(table(rows))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"args": asdict(args), "environment": environment_facts()}
    write_json(args.out, facts | {"variants": rows})


def make_variants(args: Args) -> dict[str, Callable[[float], float]]:
    """A turn of each variant: seconds in, sample-steps per second out."""
    spec = dataset_spec(args.dataset)
    options: dict[str, Any] = {
        "checkpoint": None if args.checkpoint is None else str(args.checkpoint),
        "data_dir": None if args.data_dir is None else str(args.data_dir),
        "device": "cpu",
    }

    def single() -> gym.Env:
        return gym.make(spec.env_id, **options).unwrapped

    def batched(n: int) -> Any:
        return gym.make_vec(spec.env_id, num_envs=n, **options)

    dummy = DummyVecEnv([single] * _NAIVE_ROWS)
    sync = SyncVectorEnv([single] * _NAIVE_ROWS, autoreset_mode=AutoresetMode.SAME_STEP)
    variants = {
        f"one env per row, SB3 DummyVecEnv, {_NAIVE_ROWS} rows": stepper(dummy),
        f"one env per row, SyncVectorEnv, {_NAIVE_ROWS} rows": stepper(sync),
    }
    variants |= {f"batched, {n} rows": stepper(batched(n)) for n in args.rows}
    variants["dense bound"] = dense_bound(batched(max(args.rows)).unwrapped)
    return variants


def stepper(envs: Any) -> Callable[[float], float]:
    """A turn that steps an environment with random actions."""
    envs.reset()
    num_layers = int(envs.action_space.n if hasattr(envs.action_space, "n") else 0) - 1
    if num_layers < 0:  # a batch of Discrete spaces is MultiDiscrete
        num_layers = int(envs.action_space.nvec[0]) - 1
    generator = np.random.default_rng(0)

    def turn(seconds: float) -> float:
        steps, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            envs.step(random_actions(generator, envs.num_envs, num_layers))
            steps += envs.num_envs
        return steps / (time.perf_counter() - began)

    return turn


def random_actions(
    generator: np.random.Generator, num_rows: int, num_layers: int
) -> np.ndarray:
    """NOP with probability 1/2, else a layer, int64 [N]."""
    chances = [0.5, *[0.5 / num_layers] * num_layers]
    return generator.choice(num_layers + 1, num_rows, p=chances)


def dense_bound(envs: Any) -> Callable[[float], float]:
    """A turn that runs the network alone, on the work that random actions make.

    A rollout of ``envs`` is tallied first; then every kind of work is timed in dense
    batches and weighted by how often a sample-step needs it.
    """
    work, total = tally(envs)
    session = envs.problem.session
    images = envs.problem.images[:_DENSE]
    nothing = torch.zeros(len(images), dtype=torch.int64)
    with torch.no_grad():
        states = [session.model.stem(images)]
        for layer in session.layers:
            states.append(layer.plain(states[-1], nothing))

    def kinds() -> dict[str, Callable[[], object]]:
        jobs: dict[str, Callable[[], object]] = {"begin": lambda: session.begin(images)}
        jobs["head"] = lambda: session.model.classify(states[-1], nothing)
        for i, layer in enumerate(session.layers):
            steps = max(1, round(work[f"steps/{i}"] / max(work[f"solve/{i}"], 1)))
            exact = SolverConfig(rtol=1e-30, max_steps=steps)
            jobs[f"plain/{i}"] = lambda i=i, layer=layer: layer.plain(
                states[i], nothing
            )
            jobs[f"solve/{i}"] = lambda i=i, layer=layer, exact=exact: layer.iterate(
                states[i], states[i + 1], nothing, exact
            )
        return jobs

    jobs = kinds()

    def turn(seconds: float) -> float:
        each = seconds / len(jobs)
        with torch.no_grad():
            per_row = {name: timed(job, each) / _DENSE for name, job in jobs.items()}
        return total / sum(work[name] * per_row[name] for name in jobs)

    return turn


def tally(envs: Any, num_steps: int = 20) -> tuple[dict[str, float], int]:
    """Rows per kind of work in a random rollout, and its sample-steps."""
    num_layers = envs.num_layers
    work = dict.fromkeys(("begin", "head"), 0.0)
    for i in range(num_layers):
        work |= {f"plain/{i}": 0.0, f"solve/{i}": 0.0, f"steps/{i}": 0.0}
    generator = np.random.default_rng(0)
    envs.reset(seed=0)
    for _ in range(num_steps):
        actions = random_actions(generator, envs.num_envs, num_layers)
        final = envs.step(actions)[4]["final_info"]
        work["begin"] += float((envs.dynamics.episode.decisions == 0).sum())
        work["head"] += float((actions != envs.nop_action).sum())
        for i in range(num_layers):
            chosen = actions == i + 1
            work[f"solve/{i}"] += float(chosen.sum())
            work[f"steps/{i}"] += float(final["solver_steps"][chosen].sum())
            lower = (actions != envs.nop_action) & (actions < i + 1)
            work[f"plain/{i}"] += float(lower.sum())
    return work, num_steps * envs.num_envs


def timed(job: Callable[[], object], seconds: float) -> float:
    """Mean seconds of one call, over at least three."""
    calls, began = 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - began < seconds:
        job()
        calls += 1
    return (time.perf_counter() - began) / calls


def summary(name: str, rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Median and quartiles of one variant, and its ratios round by round."""
    speed = np.array([each[name] for each in rounds])
    naive = np.array([next(iter(each.values())) for each in rounds])
    bound = np.array([each["dense bound"] for each in rounds])
    return {
        "variant": name,
        "steps_per_second": np.quantile(speed, [0.25, 0.5, 0.75]).tolist(),
        "over_one_env_per_row": float(np.median(speed / naive)),
        "share_of_dense_bound": float(np.median(speed / bound)),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table."""
    lines = [
        "| variant | sample-steps/s (quartiles) | over DummyVecEnv | of dense bound |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        low, mid, high = row["steps_per_second"]
        lines.append(
            f"| {row['variant']} | {mid:,.0f} ({low:,.0f} to {high:,.0f}) "
            f"| {row['over_one_env_per_row']:.2f} | {row['share_of_dense_bound']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(Args))
