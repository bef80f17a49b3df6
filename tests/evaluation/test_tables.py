"""Tables, files and figures of a comparison."""

import json

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from helpers.problems import NeedEnv, need_optimum

from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.evaluation.tables import (
    format_regret,
    format_splits,
    format_table,
    make_rows,
    write_lines,
)
from dynalay_gym.networks.policy import PlanPolicy

PENALTY = 0.2
NUM_SAMPLES = 30


def disabled():
    return NeedEnv(7, autoreset_mode=AutoresetMode.DISABLED)


@pytest.fixture
def rows():
    plans = {"nop": (), "policy-gradient": (1,), "always": (1, 2)}
    results = [
        evaluate(disabled(), PlanPolicy(plan, name=name), penalty=PENALTY)
        for name, plan in plans.items()
    ]
    return make_rows(results, np.arange(NUM_SAMPLES) // 3)


def test_table_fits_80_columns_with_four_actions(rows):
    for row in rows:
        row["actions"]["3"] = 1.0
    lines = format_table(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert max(map(len, lines)) <= 80
    assert "66.7 %" in lines[3]


def test_actions_are_numbered_where_a_name_fits_no_column(rows):
    head = "policy           accuracy  compute  nop    1    2         return  us/sample"
    assert format_table(rows).splitlines()[0] == head


def test_actions_have_their_names_where_these_fit_the_columns():
    envs = disabled()
    envs.action_names = ("stop", "run", "skip")
    result = evaluate(envs, PlanPolicy((1, 1), name="always"), penalty=PENALTY)
    rows = make_rows([result], np.arange(NUM_SAMPLES))
    assert rows[0]["actions"] == pytest.approx({"stop": 1 / 3, "run": 2 / 3, "skip": 0})
    head, _, line = format_table(rows).splitlines()
    assert head[34:49] == " stop  run skip"
    assert line[34:49] == "   33   67    0"


def test_rows_hold_the_interval(rows):
    for row in rows:
        low, high = row["return_interval"]
        assert low <= row["return"] <= high
    assert rows[0]["actions"] == {"nop": 1.0, "1": 0.0, "2": 0.0}


def test_regret_is_the_paired_distance_to_the_oracle(rows):
    assert all("regret" not in row for row in rows)
    oracle = PlanPolicy(need_optimum(disabled(), PENALTY).plans, name="oracle")
    results = [
        evaluate(disabled(), policy, penalty=PENALTY)
        for policy in (PlanPolicy((), name="nop"), oracle)
    ]
    nop, best = make_rows(results, np.arange(NUM_SAMPLES))
    assert best["regret"] == 0.0
    assert best["regret_interval"] == [0.0, 0.0]
    # Two of three samples need a layer: .5 less what it costs.
    assert nop["regret"] == pytest.approx((0.42 + 0.38) / 3, abs=1e-6)
    low, high = nop["regret_interval"]
    assert low < nop["regret"] < high
    assert format_regret(nop).startswith("regret of nop to the oracle: 0.2667 [")


def test_lines_are_drawn_once_and_grow_with_the_longest_training(tmp_path):
    nop = evaluate(disabled(), PlanPolicy((), name="nop"), penalty=PENALTY)
    for step in (100, 50, 100, 200):
        write_lines(tmp_path, [nop], step)
    lines = (tmp_path / "nop" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 100, 200]
    assert json.loads(lines[0])["validation/return"] == nop.mean_return


def test_a_point_has_the_interval_of_its_accuracy(rows):
    low, high = rows[1]["accuracy_interval"]
    assert rows[1]["accuracy"] == pytest.approx(2 / 3)
    assert low <= rows[1]["accuracy"] <= high


def test_returns_of_all_splits_side_by_side():
    line = format_splits("ppo", {"agent": 0.5, "validation": 0.25, "test": 0.125})
    assert line == "return of ppo: agent 0.5000, validation 0.2500, test 0.1250"
