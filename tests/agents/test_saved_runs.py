"""`evaluate.py` over saved agents: what it reads, writes and refuses."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from helpers.problems import NeedEnv

import evaluate
from agents.environments import build_environments
from agents.options import Options, options_dict
from agents.registry import make_agent
from agents.saved_runs import load_run
from agents.saving import save_agent
from dynalay_gym.evaluation.evaluate import evaluate as evaluate_policy

RANGE = "0.02:0.2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained agents: two seeds at the break-even, one of a range."""
    folder = tmp_path_factory.mktemp("agents")
    for name, seed, penalty in (("0", 0, None), ("1", 1, None), ("range", 0, RANGE)):
        options = Options(
            algo="policy-gradient", dataset="digits", seed=seed, penalty=penalty
        )
        envs = build_environments(options, options.config())
        agent = make_agent(envs.train, options.config(), seed=seed)
        save_agent(folder / name / "agent", agent, envs.train, options_dict(options))
    return folder


def run(*options: object) -> int:
    sys.argv = ["evaluate.py", *map(str, options)]
    return evaluate.main()


@pytest.fixture(autouse=True)
def argv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.chdir(tmp_path)


def read(tmp_path: Path) -> dict[str, Any]:
    (found,) = (tmp_path / "runs").rglob("evaluation.json")
    content: dict[str, Any] = json.loads(found.read_text())
    return content


def test_seeds_are_averaged_and_a_range_is_swept(folder, tmp_path, capsys):
    runs = [folder / name for name in ("0", "1", "range")]
    assert run(*runs, "--penalties", 3) == 0
    result = read(tmp_path)
    frontiers = {row["policy"]: row for row in result["frontiers"]}
    (point,) = frontiers["policy-gradient"]["points"]
    assert (point["setting"], point["seeds"]) == ("break-even", 2)
    swept = frontiers["policy-gradient-range"]["points"]
    assert [each["setting"] for each in swept] == ["0.02", "0.06325", "0.2"]
    tuned = {row["policy"]: row for row in result["tuned"]}
    assert set(tuned) == set(frontiers)
    options = Options(algo="policy-gradient", dataset="digits")
    envs = build_environments(options, options.config())
    returns = []
    for seed in (0, 1):
        agent = make_agent(envs.train, options.config(), seed=seed)
        found = evaluate_policy(envs.agent, agent.policy, penalty=envs.penalty)
        returns.append(found.mean_return)
    found = tuned["policy-gradient"]["returns"]["agent"]
    assert found == pytest.approx(np.mean(returns), abs=1e-9)
    text = capsys.readouterr().out
    assert "full plan: 78.0% to 97.5%" in text
    (place,) = (tmp_path / "runs" / "digits" / "evaluation").iterdir()
    assert (place / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (place / "frontier.svg").read_text()
    assert len(list(place.glob("*/events.*"))) == len(frontiers)


def test_without_agents_and_with_another_reward(tmp_path):
    given = ("--dataset", "digits", "--reward", "three-term", "--penalty", 0.05)
    assert run(*given) == 0
    result = read(tmp_path)
    assert result["args"]["reward"] == "three-term"
    assert {row["penalty"] for row in result["tuned"]} == {"0.05"}
    assert all(row["policy"] != "ppo" for row in result["frontiers"])


def test_a_run_brings_its_options_and_given_ones_replace_them(folder):
    plain = load_run(folder / "range", {})
    assert plain.options.penalty == RANGE
    assert plain.penalty_range == (0.02, 0.2)
    assert plain.label == "policy-gradient-range"
    changed = load_run(folder / "0" / "agent", {"alpha": 0.7, "checkpoint": folder})
    assert changed.options.alpha == 0.7
    assert changed.options.checkpoint == folder
    assert changed.label == "policy-gradient"


def test_of_a_co_training_the_best_pair_is_taken(folder, tmp_path):
    shutil.copytree(folder / "0" / "agent", tmp_path / "best" / "agent")
    found = load_run(tmp_path, {})
    assert found.folder == tmp_path / "best" / "agent"
    assert found.options.checkpoint == tmp_path / "best" / "main"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "nowhere"),
        (["--penalties", "0"], "--penalties"),
        (["--penalty", "much"], "penalty"),
        (["--dataset", "imagenet"], "unknown dataset"),
        (["ANONYMOUS"], "does not say what it was trained on"),
        (["RUN", "OTHER"], "several data sets"),
        (["RUN", "--checkpoint", "nowhere"], "nowhere"),
    ],
)
def test_bad_options_end_in_one_line(options, message, folder, tmp_path, capsys):
    envs = NeedEnv(2, autoreset_mode=AutoresetMode.SAME_STEP)
    agent = make_agent(envs, Options().config("policy-gradient"))
    save_agent(tmp_path / "ANONYMOUS", agent, envs, {})
    about = options_dict(Options(dataset="cifar10"))
    save_agent(tmp_path / "OTHER", agent, envs, about)
    before = sorted(tmp_path.rglob("*"))
    assert run(*(folder / "0" if each == "RUN" else each for each in options)) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1
    assert message in errors
    assert sorted(tmp_path.rglob("*")) == before
