"""The script end to end with a tiny budget, and what a saved agent refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train_agent
from dynalay_gym.data.splits import load_split
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.report.runs import read_run

ROOT = Path(__file__).resolve().parents[2]
POLICIES = (
    "nop always layer-1 layer-2 layer-3 random max-prob entropy residual patience "
    "fixed-k max-prob-once entropy-once best-fixed oracle random-mix"
).split()
RETURNS = ("agent", "validation", "test")


def command(*options: object) -> list[str]:
    script = str(ROOT / "train_agent.py")
    return [sys.executable, script, "--dataset", "digits", *map(str, options)]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def run(folder: Path, *options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*options),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a policy gradient that saw a handful of rollouts."""
    folder = tmp_path_factory.mktemp("trained")
    options = ("--algo", "policy-gradient", "--total-timesteps", 2048, "--seed", 3)
    result = run(folder, *options)
    assert result.returncode == 0, result.stderr
    (folder / "stdout.txt").write_text(result.stdout)
    return folder


def test_table_covers_every_policy_in_80_columns(trained):
    text = (trained / "stdout.txt").read_text()
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "3573 samples" in text
    start = next(i for i, line in enumerate(lines) if line.startswith("---"))
    rows, end = lines[start + 1 :], len(POLICIES) + 1
    assert [line.split()[0] for line in rows[:end]] == ["policy-gradient", *POLICIES]
    assert rows[end:][1].startswith("regret of policy-gradient to the oracle: 0.")
    assert rows[end:][2].startswith("return of policy-gradient: agent 0.")


def test_run_folder_holds_results_agent_and_curves(trained):
    folder = trained / "runs" / "digits" / "policy-gradient" / "0"
    results = json.loads((folder / "results.json").read_text())
    assert results["options"]["seed"] == 3
    assert results["num_samples"] == 3573
    assert set(results["returns"]) == set(RETURNS)
    rows = {row["policy"]: row for row in results["policies"]}
    assert rows["nop"]["compute"] == 1.0
    best = rows["oracle"]["return"]
    assert best == max(row["return"] for row in rows.values())
    for row in rows.values():
        assert row["regret"] == pytest.approx(best - row["return"], abs=1e-9)
    assert (folder / "agent" / "checkpoint.json").is_file()
    assert results["returns"]["test"] == results["policies"][0]["return"]
    (lines,) = (trained / "runs" / "digits" / "references").iterdir()
    assert lines.name.startswith("penalty-0.093")
    drawn = {run.name for run in lines.iterdir()}
    assert drawn == {"nop", "always", "fixed-k", "max-prob"}
    tags = set()
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        tags |= set(json.loads(line))
    assert {"rollout/ep_rew_mean", "time/fps", "validation/return"} <= tags
    assert not list(trained.rglob("*.tmp"))


def test_the_run_folder_has_what_a_report_shows(trained):
    run = read_run(trained / "runs" / "digits" / "policy-gradient" / "0")
    assert "--total-timesteps 2048" in run.results.command
    agent, row = run.record.frontiers[-1], run.agent
    assert agent.policy == row.policy == "policy-gradient"
    (point,) = agent.points
    assert (point.setting, point.compute) == ("break-even", row.compute)
    bins = run.record.bins["policy-gradient"]
    assert sum(each.num for each in bins) == run.results.num_samples
    assert {len(shown) for shown in run.record.inputs.values()} == {4}
    assert len(run.curves["validation/return"]) > 1


def test_training_on_the_table_is_the_same_training(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path / "cache"))
    options = ("--algo", "policy-gradient", "--total-timesteps", 2048, "--seed", 3)
    result = run(tmp_path, *options, "--transitions", "table")
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "cache").glob("transitions-*"))) == 2, (
        "agent and validation"
    )
    place = Path("runs", "digits", "policy-gradient", "0", "results.json")
    live, table = (
        json.loads((folder / place).read_text())["policies"][0]
        for folder in (trained, tmp_path)
    )
    for key in ("return", "accuracy", "compute"):
        assert table[key] == live[key]


def test_saved_agent_is_only_evaluated(trained, tmp_path):
    first = trained / "runs" / "digits" / "policy-gradient" / "0"
    result = run(tmp_path, "--load", first / "agent", "--total-timesteps", 0)
    assert result.returncode == 0, result.stderr
    again = tmp_path / "runs" / "digits" / "policy-gradient" / "0"
    rows = [
        json.loads((folder / "results.json").read_text())["policies"][0]
        for folder in (first, again)
    ]
    for key in ("accuracy", "compute", "return", "actions"):
        assert rows[0][key] == rows[1][key]
    assert not (again / "agent").exists()


def test_predictor_answers_as_the_agent_did(trained):
    folder = trained / "runs" / "digits" / "policy-gradient" / "0"
    row = json.loads((folder / "results.json").read_text())["policies"][0]
    predictor = DynaLayPredictor.load(folder / "predictor")
    test = load_split("digits", "test")
    found = predictor.infer(test.inputs)
    plain = predictor.session.costs.plain_pass
    correct = (found.labels == test.labels).double().mean()
    assert float(correct) == pytest.approx(row["accuracy"])
    assert float(found.macs.double().mean()) / plain == pytest.approx(row["compute"])


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["exact", "ppo", "a2c", "dqn"])
def test_other_algorithms_and_a_range_of_penalties(algo, tmp_path):
    options = ("--algo", algo, "--penalty", "0.02:0.2", "--total-timesteps", 4096)
    result = run(tmp_path, *options)
    assert result.returncode == 0, result.stderr
    assert f"\n{algo} " in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--load", "AGENT", "--algo", "ppo"], "leave --algo out"),
        (["--load", "AGENT", "--policy-gradient.num-steps", "4"], "--policy-gradient"),
        (["--checkpoint", "AGENT"], "main-network"),
        (["--load", "CUT"], "truncated"),
        (["--dataset", "cifar10"], "--checkpoint"),
    ],
)
def test_options_that_a_saved_agent_refuses_end_in_one_line(
    options, message, trained, tmp_path, monkeypatch, capsys
):
    agent = trained / "runs" / "digits" / "policy-gradient" / "0" / "agent"
    cut = tmp_path / "CUT"
    cut.mkdir()
    for path in agent.iterdir():
        (cut / path.name).write_bytes(path.read_bytes()[:-1])
    places = {"AGENT": agent}
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    given = [str(places.get(option, option)) for option in options]
    monkeypatch.setattr(sys, "argv", ["train_agent.py", *given])
    assert train_agent.main() == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1
    assert message in errors
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_interrupt_keeps_a_whole_agent(tmp_path):
    process = subprocess.Popen(
        command("--algo", "policy-gradient", "--total-timesteps", 10_000_000),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = tmp_path / "runs" / "digits" / "policy-gradient" / "0"
    deadline = time.monotonic() + 120
    metrics = folder / "metrics.jsonl"
    while not (metrics.is_file() and metrics.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert f"--resume {folder.relative_to(tmp_path)}" in errors
    assert (folder / "resume" / "checkpoint.json").is_file()
    assert not (folder / "results.json").exists()
    for line in metrics.read_text().splitlines():
        json.loads(line)
