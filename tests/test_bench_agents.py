"""The agent benchmark measures what it says, on a small scale."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from benchmarks.bench_agents import (
    ENV_ID,
    Args,
    NullEnv,
    medians,
    run,
    throughput_table,
)
from benchmarks.bench_race import race_table, summary


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
    mark = {"seconds": 100.0, "wall_seconds": 200.0, "test_return": 0.4, "regret": 0.1}
    runs = [
        {"seconds": s, "wall_seconds": s, "build_seconds": 0.5, "test_return": r}
        for s, r in ((1.0, 0.39), (2.0, 0.41), (4.0, 0.42))
    ]
    row = summary(runs, mark)
    assert row["reached"]
    assert row["times_faster"] == 50.0
    assert row["times_faster_wall"] == 100.0
    assert row["regret"] == pytest.approx(0.09)
    assert not summary(runs[:1], mark)["reached"]


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
    mark = race["mark"]
    assert mark["test_return"] + mark["regret"] == pytest.approx(race["optimum"])
    assert "exact, table" in race_table(race)
    assert "| null | 8 |" in throughput_table(facts["throughput"])
