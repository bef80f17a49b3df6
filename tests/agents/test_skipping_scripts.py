"""The scripts on networks whose blocks are skipped."""

import json
from pathlib import Path

import pytest
from helpers.residual import random_gated
from test_train_agent import run

from dynalay_gym.data.splits import load_split
from dynalay_gym.networks.checkpoint import save_network
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.measure import export

POLICIES = (
    "nop always random gates max-prob entropy patience fixed-k max-prob-once "
    "entropy-once best-fixed oracle random-mix"
).split()


def make_network() -> GatedNetwork:
    """Return a gated network of two blocks for digits, not trained."""
    return random_gated(backbone={"num_classes": 10, "depths": (1, 1)}, channels=False)


@pytest.mark.slow
def test_an_agent_is_trained_evaluated_and_deployed(tmp_path: Path) -> None:
    splits = {"agent": load_split("digits", "agent")}
    export(tmp_path / "network", make_network(), splits, {"dataset": "digits"})
    options = ("--checkpoint", "network", "--algo", "ppo", "--total-timesteps", 2048)
    result = run(tmp_path, *options)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "runs" / "digits" / "ppo" / "0"
    results = json.loads((folder / "results.json").read_text())
    assert [row["policy"] for row in results["policies"]] == ["ppo", *POLICIES]
    always = next(row for row in results["policies"] if row["policy"] == "always")
    images = load_split("digits", "test").inputs[:50]
    predictor = DynaLayPredictor.load(folder / "predictor")
    assert predictor.predict(images).shape == (50,)
    assert always["actions"]["skip"] == 0


def test_layers_that_cannot_be_iterated_are_not_co_trained(tmp_path: Path) -> None:
    save_network(tmp_path / "network", make_network(), {})
    result = run(tmp_path, "--checkpoint", "network", "--algo", "ppo", "--co-train")
    assert result.returncode == 2
    assert result.stderr.startswith("error: the checkpoint at network holds a gated")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
