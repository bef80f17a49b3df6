"""The agent benchmark and the race measure what they say, on a small scale."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from benchmarks.bench_agents import (
    Args,
    NullEnv,
    medians,
    run,
    throughput_table,
)
from benchmarks.bench_race import race_table, summary
from benchmarks.race_baselines import BASELINES, ENV_ID


def test_the_null_environment_has_the_same_spaces_and_infos() -> None:
    like = gym.make_vec(ENV_ID, num_envs=4)
    null = NullEnv(4, like, "numpy")
    assert null.observation_space == like.observation_space
    assert null.action_space == like.action_space
    observations, infos = null.reset(seed=0)
    assert observations in null.observation_space
    returned = null.step(np.zeros(4, dtype=np.int64))
    real = like.reset(seed=0)[1]
    for key in ("index", "penalty", "decisions", "action_mask"):
        assert returned[-1][key].shape == real[key].shape
        assert returned[-1][key].dtype == real[key].dtype
    assert [part.dtype for part in returned[1:4]] == ["float32", "bool", "bool"]
    assert infos["final_obs"].shape == observations.shape


def test_medians_and_ratios() -> None:
    rounds = [{"speed": s, "in_env": s / 10} for s in (1.0, 5.0, 2.0)]
    found = medians(rounds)
    assert found == {"speed": 2.0, "in_env": 0.2, "speed_range": [1.0, 5.0]}
    marks = {
        "slow": mark(seconds=100.0, earned=0.4),
        "fast": mark(seconds=10.0, earned=0.41),
    }
    runs = [
        {"seconds": s, "wall_seconds": s, "build_seconds": 0.5, "test_return": r}
        for s, r in ((1.0, 0.39), (2.0, 0.41), (4.0, 0.42))
    ]
    row = summary(runs, marks)
    assert row["reached"]
    assert row["times_faster"] == {"slow": 50.0, "fast": 5.0}
    assert row["times_faster_wall"] == {"slow": 100.0, "fast": 10.0}
    assert row["regret"] == pytest.approx(0.09)
    # The better of the baselines is what is to be reached.
    runs[1]["test_return"] = runs[2]["test_return"] = 0.405
    assert not summary(runs, marks)["reached"]


def mark(seconds: float, earned: float) -> dict[str, Any]:
    """A baseline at an optimum of 0.5."""
    both = {"seconds": seconds, "wall_seconds": 2 * seconds}
    return both | {"test_return": earned, "regret": 0.5 - earned, "steps": 1000}


def test_the_race_table_holds_every_way_against_both_baselines() -> None:
    marks = {"slow": mark(100.0, 0.4), "fast": mark(10.0, 0.41)}
    run = {"seconds": 2.0, "wall_seconds": 2.0, "build_seconds": 0.5}
    tries = [
        {"budget": 500 * k} | summary([run | {"test_return": earned}], marks)
        for k, earned in ((1, 0.405), (2, 0.42))
    ]
    ways = [{"way": "table", "tries": tries}, {"way": "live", "tries": tries[:1]}]
    lines = race_table({"marks": marks, "ways": ways}).splitlines()
    assert lines[2:] == [
        "| SB3 PPO, one env per row, slow | 1,000 |  | 100.00 | 0.4000 | 0.1000 "
        "| 1.0 | 0.1 |",
        "| SB3 PPO, one env per row, fast | 1,000 |  | 10.00 | 0.4100 | 0.0900 "
        "| 10.0 | 1.0 |",
        "| table | 1,000 | 0.50 s | 2.00 | 0.4200 | 0.0800 | 50.0 | 5.0 |",
        "| live | 500 |  | 2.00 | 0.4050 (below) | 0.0950 | 50.0 | 5.0 |",
    ]


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_train_on_the_same_task(name: str) -> None:
    env, like = BASELINES[name]()()(), gym.make(ENV_ID)
    assert env.observation_space == like.observation_space
    for index in range(5):
        expected = like.reset(seed=0, options={"index": index})[0]
        seen = env.reset(seed=0, options={"index": index})[0]
        np.testing.assert_allclose(seen, expected, atol=1e-4)
        for action in (2, 0):
            expected, *returned = like.step(action)
            seen, *got = env.step(action)
            np.testing.assert_allclose(seen, expected, atol=1e-4)
            assert got[0] == pytest.approx(returned[0], abs=1e-5)
            assert got[1:3] == returned[1:3]


@pytest.mark.slow
def test_a_small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path))
    args = Args(
        out=tmp_path / "out.json",
        rows=(8,),
        rounds=1,
        samples=512,
        naive_steps=2048,
        seeds=1,
    )
    facts = run(args)
    for row in facts["throughput"]:
        assert row["speed"] > 0
        shares = [row[f"in_{part}"] for part in ("env", "copies", "agent")]
        assert sum(shares) == pytest.approx(1.0)
        assert all(0 <= share <= 1 for share in shares)
    speeds = {(r["algo"], r["env"]): r["speed"] for r in facts["throughput"]}
    assert speeds["policy-gradient", "table"] > speeds["policy-gradient", "live"]
    race = facts["race"]
    assert len(race["ways"]) == 4
    assert list(race["marks"]) == list(BASELINES)
    for each in race["marks"].values():
        assert each["test_return"] + each["regret"] == pytest.approx(race["optimum"])
    assert "exact, table" in race_table(race)
    assert "| null | 8 |" in throughput_table(facts["throughput"])
