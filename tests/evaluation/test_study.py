"""A study of walks and agents against what its parts say, and its tables."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from helpers.networks import make_vec, shared_split
from helpers.problems import NeedEnv
from test_own_network import make_vec as make_tokens

from dynalay_gym.evaluation import tables
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.evaluation.study import SETTINGS, Study
from dynalay_gym.evaluation.walk import walk_full_plan
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.storage.io import plain

PENALTY = 0.1
CASCADES = ["max-prob", "entropy", "patience", "fixed-k"]


class HardEnv(NeedEnv):
    """The test problem with its need as difficulty."""

    def _infos(self):
        infos = super()._infos()
        return infos | {"difficulty": self._out(self.needs[self.index])}


def need(kind: type[NeedEnv] = HardEnv) -> NeedEnv:
    return kind(7, autoreset_mode=AutoresetMode.DISABLED)


@pytest.fixture(scope="module")
def summary():
    study = Study()
    envs = make_tokens(40, autoreset_mode="Disabled")
    walk = walk_full_plan(envs, PENALTY)
    walks = dict.fromkeys(("agent", "validation", "test"), walk)
    study.add_cascades(walks)
    study.add_tuned_cascades("0.1", walks)
    for seed, plan in enumerate([(1,), (1, 1)]):
        result = evaluate(envs, PlanPolicy(plan, name=f"plan {seed}"), penalty=PENALTY)
        study.add("mine", "0.1", result)
        study.add_tuned("0.1", "mine", {"test": result})
    return study.summary(np.arange(120)), walk


def test_every_policy_has_its_points(summary):
    rows = {row["policy"]: row for row in summary[0]["frontiers"]}
    assert list(rows) == ["nop", "always", *CASCADES, "mine"]
    for name in CASCADES:
        points = rows[name]["points"]
        assert len(points) == len(SETTINGS) + 1
        for point, share in zip(points, (*SETTINGS, 1.0), strict=True):
            assert point["extra_share"] <= share + 1e-9  # chosen on the same samples
    (mine,) = rows["mine"]["points"]
    assert mine["seeds"] == 2
    assert mine["setting"] == "0.1"


def test_portions_are_right_only_in_the_end(summary):
    full, walk = summary[0]["full_plan"], summary[1]
    assert full["always_accuracy"] == 1.0
    assert full["nop_accuracy"] == walk.correct[:, 0].mean()
    assert (full["breakage"], full["repair"]) == (0.0, 1.0)


def test_tuned_policies_are_the_best_of_their_kind(summary):
    rows = {row["policy"]: row for row in summary[0]["tuned"]}
    walk = summary[1]
    for k in range(walk.returns.shape[1]):
        assert rows["fixed-k"]["return"] >= walk.returns[:, k].mean() - 1e-9
    assert rows["max-prob"]["returns"] == pytest.approx(
        dict.fromkeys(("agent", "validation", "test"), rows["max-prob"]["return"])
    )
    assert all(row["penalty"] == "0.1" for row in rows.values())
    one, two = (
        evaluate(
            make_tokens(40, autoreset_mode="Disabled"),
            PlanPolicy(plan),
            penalty=PENALTY,
        )
        for plan in ((1,), (1, 1))
    )
    mean = (one.mean_return + two.mean_return) / 2
    assert rows["mine"]["returns"] == {"test": pytest.approx(mean)}


def test_the_lead_is_over_the_best_cascade(summary):
    rows = {row["policy"]: row for row in summary[0]["frontiers"]}
    assert [name for name in rows if "lead" in rows[name]] == ["mine"]
    for measure, (lead, _, _) in rows["mine"]["lead"].items():
        others = [rows[name]["measures"][measure][0] for name in CASCADES]
        best = min(others) if measure.startswith("compute") else max(others)
        assert lead == pytest.approx(rows["mine"]["measures"][measure][0] - best)
    text = tables.format_frontiers([rows["mine"]], "lead")
    assert text.splitlines()[-1].startswith("mine")


def test_it_can_be_written_as_json(summary):
    json.dumps(plain(summary[0]), allow_nan=False)


def test_tables(summary):
    text = tables.format_frontiers(summary[0]["frontiers"])
    header, _, *lines = text.splitlines()
    assert (
        header.split()
        == "policy ac@10 ac@20 ac@25 ac@35 ac@50 co@95 co@99 area".split()
    )
    assert max(map(len, lines)) <= 80
    assert "never" in lines[0]  # nop
    assert lines[1].startswith("always")
    assert "95.0 ± 0.0" in lines[1]
    rows = [row for row in summary[0]["tuned"] if row["policy"] != "mine"]
    header, _, *lines = tables.format_tuned(rows).splitlines()
    assert header.split()[-6:] == "agent validation test ECE AUROC rank".split()
    assert lines[0].split()[-1] == "–"


def test_curves_of_tensorboard(summary, tmp_path: Path):
    tables.write_frontiers(tmp_path, summary[0]["frontiers"])
    text = (tmp_path / "fixed-k" / "metrics.jsonl").read_text()
    steps = [json.loads(line)["step"] for line in text.splitlines()]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, 100)


def test_difficulty_reaches_results_and_tables():
    walk = walk_full_plan(need(), PENALTY)
    assert (walk.always.difficulty == np.arange(30) % 3).all()
    study = Study()
    walks = {"validation": walk, "test": walk}
    study.add_cascades(walks)
    study.add_tuned_cascades("0.1", walks)
    rows = study.summary(np.arange(30))["tuned"]
    header, _, *lines = tables.format_difficulty(rows).splitlines()
    assert header.split() == "policy 0 to 0 1 to 1 2 to 2".split()
    always = next(line for line in lines if line.startswith("always"))
    assert always.split()[1:] == ["11.00", "100.0", "%"] * 3
    assert rows[0]["rank_correlation"] is not None


def test_without_difficulty_there_is_none():
    assert np.isnan(walk_full_plan(need(NeedEnv), PENALTY).always.difficulty).all()
    envs = make_vec(5, autoreset_mode="Disabled")
    assert np.isnan(walk_full_plan(envs, PENALTY).always.difficulty).all()


@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_the_difficulty_of_a_split_is_that_of_its_samples(output):
    difficulty = torch.arange(24).flip(0)
    split = replace(shared_split(), difficulty=difficulty)
    envs = make_vec(5, autoreset_mode="Disabled", split=split, output=output)
    found = walk_full_plan(envs, PENALTY).always.difficulty
    assert found.tolist() == difficulty.tolist()
