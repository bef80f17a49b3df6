"""Tables, files and figures of a comparison."""

import json

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from helpers.problems import NeedEnv, need_optimum

from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.evaluation.figures import plot_rows
from dynalay_gym.evaluation.tables import (
    format_regret,
    format_table,
    make_rows,
    write_results,
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


def test_files(rows, tmp_path):
    write_results(tmp_path, rows, 100, {"seed": 0})
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["seed"] == 0
    assert [row["policy"] for row in kept["policies"]] == [
        row["policy"] for row in rows
    ]
    lines = (tmp_path / "policies" / "nop" / "metrics.jsonl").read_text()
    steps = [json.loads(line)["step"] for line in lines.splitlines()]
    assert steps == [0, 100]
    assert '"eval/accuracy"' in lines


def test_figure_has_a_point_per_policy(rows):
    (axes,) = plot_rows(rows, "title").axes
    labels = [text.get_text() for text in axes.texts]
    assert labels == ["nop", "policy-gradient", "always"]
