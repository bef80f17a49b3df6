"""Agent speed: samples per second end to end, and seconds to a fixed test return.

    python benchmarks/bench_agents.py --out benchmarks/results/agents-digits.json

*Throughput*: each algorithm trains on the live environment, on its transition table and
on a null environment that costs nothing; variants take turns, figures are medians over
rounds. The step of the environment and the conversions of the adapter are timed within.
*Time to a return*: see ``bench_race.py``. Seconds are of the process's CPU clock, on
one thread.

Axes: N rows, D features, A actions.
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
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agents.options import default_configs
from agents.registry import make_agent
from agents.sb3.agent import SB3Agent
from benchmarks.bench_race import race, race_table
from benchmarks.race_baselines import ENV_ID
from dynalay_gym.integrations.sb3 import SB3VecEnv
from dynalay_gym.utils.io import write_json
from dynalay_gym.utils.metrics import run_metadata


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure agent speed."""

    out: Path
    """JSON file for the results."""
    rows: tuple[int, ...] = (64, 256)
    """Numbers of rows of the throughput part."""
    rounds: int = 3
    """Rounds in which every variant of it has one turn."""
    samples: int = 32_768
    """Decisions of one turn on a table or a null environment; a quarter on a live."""
    naive_steps: int = 100_000
    """Decisions of the PPO that sets the race's mark; 0 leaves the race out."""
    seeds: int = 3
    """Seeds of the fast ways."""


def main(args: Args) -> None:
    """Measure, print the tables, write the JSON."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    facts = run(args)
    print(throughput_table(facts["throughput"]))
    if facts["race"]:
        print(f"\n{race_table(facts['race'])}")
    write_json(args.out, facts)


def run(args: Args) -> dict[str, Any]:
    """Measure everything; JSON-able."""
    torch.set_num_threads(1)
    facts = {"args": asdict(args) | {"out": str(args.out)}}
    facts |= {"environment": run_metadata(), "throughput": throughput(args)}
    found = race(args.naive_steps, args.seeds) if args.naive_steps else {}
    return facts | {"race": found}


class NullEnv(VectorEnv):
    """Same spaces, same infos, no work: every step returns the same arrays.

    Args:
        num_envs: Rows N.
        like: Environment whose spaces it has.
        output: ``numpy`` or ``torch``.
    """

    def __init__(self, num_envs: int, like: VectorEnv, output: str) -> None:
        self.num_envs, self.metadata = num_envs, dict(like.metadata)
        self.metadata["autoreset_mode"] = AutoresetMode.SAME_STEP
        self.single_observation_space = like.single_observation_space
        self.single_action_space = like.single_action_space
        self.observation_space = batch_space(like.single_observation_space, num_envs)
        self.action_space = batch_space(like.single_action_space, num_envs)
        rng, counts = np.random.default_rng(0), np.zeros(num_envs, dtype=np.int64)
        num_actions = int(like.single_action_space.n)  # type: ignore[attr-defined]
        size = (num_envs, *like.single_observation_space.shape)  # type: ignore[misc]
        observations = rng.random(size, dtype=np.float32)
        infos = {
            "index": counts,
            "penalty": np.full(num_envs, 0.1, dtype=np.float32),
            "decisions": counts,
            "action_mask": np.ones((num_envs, num_actions), dtype=np.int8),
            "final_obs": observations,
        }
        rewards = rng.random(num_envs, dtype=np.float32)
        ends = rng.random(num_envs) < 0.6  # as often as episodes end on the digits
        outcome = (observations, rewards, ends, np.zeros_like(ends))
        convert = torch.as_tensor if output == "torch" else np.asarray
        self._infos: Any = {key: convert(value) for key, value in infos.items()}
        self._outcome: Any = tuple(map(convert, outcome))

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, Any]:
        """Return what every step returns."""
        return self._outcome[0], self._infos

    def step(self, actions: Any) -> Any:
        """Return the same arrays."""
        return *self._outcome, self._infos


@dataclass
class Stopwatch:
    """CPU seconds spent inside the functions that were wrapped."""

    seconds: float = 0.0

    def wrap(self, owner: Any, name: str) -> None:
        """Time a method of an object."""
        method = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += time.process_time() - began

        setattr(owner, name, timed)


def throughput(args: Args) -> list[dict[str, Any]]:
    """Samples per second and shares of the time, one entry per variant."""
    turns = {
        (algo, kind, n): make_turn(algo, kind, n)
        for n in args.rows
        for kind in ("live", "table", "null")
        for algo in ("policy-gradient", "ppo")
    }
    found: dict[Any, list[dict[str, float]]] = {key: [] for key in turns}
    for number in range(args.rounds + 1):
        for key, turn in turns.items():
            result = turn(args.samples // (4 if key[1] == "live" else 1))
            if number:  # round 0 warms up
                found[key].append(result)
    return [
        {"algo": algo, "env": kind, "rows": n} | medians(found[algo, kind, n])
        for algo, kind, n in turns
    ]


def make_turn(algo: str, kind: str, num_envs: int) -> Callable[[int], dict[str, float]]:
    """A turn that trains for some decisions: samples/s, and where the time went."""
    config = default_configs()[algo]
    output = config.output
    if kind == "null":
        like = gym.make_vec(ENV_ID, num_envs=1)
        envs: VectorEnv = NullEnv(num_envs, like, output)
    else:
        envs = gym.make_vec(ENV_ID, num_envs=num_envs, output=output, transitions=kind)
    inside, adapter = Stopwatch(), Stopwatch()
    inside.wrap(envs, "step")
    agent = make_agent(envs, config)
    if isinstance(agent, SB3Agent):
        adapter.wrap(bare_adapter(agent), "step_wait")

    def turn(samples: int) -> dict[str, float]:
        inside.seconds = adapter.seconds = 0.0
        began = time.process_time()
        taken: list[int] = []
        agent.learn(samples, on_progress=taken.append)
        seconds = time.process_time() - began
        env = inside.seconds / seconds
        copies = max(adapter.seconds / seconds - env, 0.0)
        shares = {"in_env": env, "in_copies": copies, "in_agent": 1 - env - copies}
        return {"speed": taken[-1] / seconds} | shares

    return turn


def bare_adapter(agent: SB3Agent) -> SB3VecEnv:
    """The adapter under SB3's monitor."""
    adapter = agent.model.get_env().venv  # type: ignore[union-attr]
    assert isinstance(adapter, SB3VecEnv)
    return adapter


def medians(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Median of every number, and the range of the speed."""
    speeds = [each["speed"] for each in rounds]
    middle = {key: float(np.median([e[key] for e in rounds])) for key in rounds[0]}
    return middle | {"speed_range": [min(speeds), max(speeds)]}


def throughput_table(rows: list[dict[str, Any]]) -> str:
    """Markdown table."""
    lines = [
        "| algorithm | environment | rows | samples/s (range) | env | copies | agent |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        low, high = row["speed_range"]
        shares = " | ".join(
            f"{100 * row[f'in_{k}']:.0f} %" for k in ("env", "copies", "agent")
        )
        lines.append(
            f"| {row['algo']} | {row['env']} | {row['rows']} | {row['speed']:,.0f} "
            f"({low:,.0f} to {high:,.0f}) | {shares} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(Args))
