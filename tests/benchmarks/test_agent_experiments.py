"""Figures 3 and 5, cost and difficulty: of the same agents, which are trained once."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv

from benchmarks.paper.agent_runs import Diary
from benchmarks.paper.cost import Cost, Difficulty
from benchmarks.paper.experiment import Experiment, Setting, shared_folder
from benchmarks.paper.fig3 import Fig3
from benchmarks.paper.fig5 import Fig5
from benchmarks.paper.runner import run_units
from benchmarks.paper.theory import Theory
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.checkpoint import load_network_facts

SETTING = Setting(dataset="digits", epochs=2, every=2, decisions=2_048)


class Scripted(VectorEnv):
    """Two rows: the first one's episodes take one step, the other's two."""

    num_envs, num_actions = 2, 3
    single_action_space = action_space = Discrete(3)
    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    steps = 0

    def step(self, actions: Any) -> Any:
        self.steps += 1
        ended = np.array([True, self.steps % 2 == 0])
        return None, np.asarray(actions, float), ended, np.zeros(2, bool), {}


def test_a_diary_has_shares_and_returns_of_each_part() -> None:
    diary = Diary(Scripted(), total=80)  # 20 parts of two steps of two rows
    for _ in range(2):
        diary.step(np.array([0, 2]))
    for _ in range(2):
        diary.step(np.array([1, 1]))
    facts = diary.facts()
    assert facts["shares"][:2] == [[0.5, 0, 0.5], [0, 1, 0]]
    assert facts["returns"][:2] == [4 / 3, 4 / 3]  # three episodes each
    assert facts["shares"][2:] == [[0, 1, 0]] * 18  # nothing more has happened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paper")


def run(experiment: Experiment, folder: Path, arm: str) -> list[dict[str, Any]]:
    own = folder / f"{experiment.name}-digits"
    return run_units(experiment, [(arm, 0)], SETTING, own)


def test_experiments_share_their_agents(folder: Path) -> None:
    cost = run(Cost(), folder, "ppo")
    shared = folder / "shared-digits"
    kept = shared / "agent-0-penalty-1/run.json"
    before = kept.stat().st_mtime_ns
    figures, settling = run(Fig3(), folder, "ppo"), run(Fig5(), folder, "1")
    difficulty = run(Difficulty(), folder, "ppo")
    assert kept.stat().st_mtime_ns == before
    found = json.loads(kept.read_text("utf-8"))
    facts = load_network_facts(shared / "network-0/measured").about
    assert found["penalty"] == facts["break_even_penalty"]
    own = cost[0]["test"]["ppo"]
    assert figures[0]["test"] == own["shares"]
    assert own["extra"]["low"] <= own["extra"]["mean"] <= own["extra"]["high"]
    mean = np.mean(found["samples"]["extra"])
    assert 1 + mean == pytest.approx(own["compute"])
    assert sum(figures[0]["training"][-1]) == pytest.approx(1)
    assert len(settling[0]["returns"]) == len(figures[0]["training"])
    policies = [row["policy"] for row in Cost().tables(cost, SETTING)[0].rows]
    assert policies[:3] == ["ppo", "nop", "always"]
    choices = Fig3().tables(figures, SETTING)[0].rows
    assert sum(row["test"]["mean"] for row in choices) == pytest.approx(100)
    by_penalty = Fig5().tables(settling, SETTING)[1].rows
    assert by_penalty[0]["accuracy"]["mean"] == found["validation"]["accuracy"]
    (theory,) = Theory().tables(run(Theory(), folder, "main network"), SETTING)
    assert [row["layer"] for row in theory.rows] == [1, 2, 3]
    assert all(row["share"]["high"] <= 1 + 1e-9 for row in theory.rows)
    axes = [
        len(each.draw(rows, SETTING).axes)
        for each, rows in (
            (Cost(), cost),
            (Fig3(), figures),
            (Fig5(), settling),
            (Difficulty(), difficulty),
        )
    ]
    assert axes == [1, 2, 3, 1]


def test_what_is_shared_is_of_one_setting(folder: Path) -> None:
    unit = folder / "cost-digits/ppo-0"
    shared_folder(SETTING, unit)
    with pytest.raises(ConfigError, match=r"another setting \(decisions, training\)"):
        shared_folder(Setting(dataset="digits", every=2), unit)


def test_correlations_and_tenths_of_samples_that_are_known(folder: Path) -> None:
    shared = folder / "shared-digits/agent-7-penalty-1"
    (folder / "shared-digits/network-7").mkdir(parents=True)
    kept = {"extra": list(range(20)), "entropy": list(range(20)), "loss": [1.0] * 20}
    shared.mkdir()
    (shared / "run.json").write_text(json.dumps({"samples": kept}))
    difficulty = Difficulty()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.paper.agent_runs.shared_network", lambda *_: shared)
        row = difficulty.run("ppo", 7, SETTING, folder / "difficulty-digits/ppo-7")
    assert set(row) == {"entropy"}  # a loss that is the same everywhere says nothing
    assert row["entropy"]["correlation"] == pytest.approx(1)
    assert row["entropy"]["curve"] == [0.5 + 2 * k for k in range(10)]


def test_a_reward_that_settles_and_one_that_does_not() -> None:
    def unit(returns: list[float]) -> dict[str, Any]:
        return {
            "arm": "1",
            "returns": returns,
            "names": ["stop"],
            "shares": [1.0],
            "accuracy": 50.0,
            "compute": 1.0,
        }

    rising = unit([float(k) for k in range(20)])
    flat = unit([0.0] * 5 + [1.0] * 15)
    table, _ = Fig5().tables([rising, flat], SETTING)
    assert table.rows[0]["rise"] == pytest.approx({"mean": 2.5, "low": 0, "high": 5})
    assert table.rows[0]["last"] == {"mean": 10.0, "low": 1.0, "high": 19.0}
