"""A co-training as one run folder: it goes on bit for bit, and overwrites nothing."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.saved import facts_of, tensors_of

import train_agent
from agents.environments import build_environments
from agents.exact.config import ExactConfig
from agents.joint_run import JointRun
from agents.options import Options
from agents.policy_gradient.config import PolicyGradientConfig
from agents.registry import make_agent
from agents.sb3.config import A2CConfig, DQNConfig, PPOConfig
from dynalay_gym.cotraining.config import CoTrainingConfig
from dynalay_gym.cotraining.main_training import train_network
from dynalay_gym.cotraining.new_training import load_splits
from dynalay_gym.errors import DynaLayError
from dynalay_gym.networks.checkpoint import load_network
from dynalay_gym.sessions.calibration import find_calibration
from dynalay_gym.storage import run_folder
from dynalay_gym.storage.metrics import MetricWriter
from dynalay_gym.storage.saved_folder import is_saved

CO = CoTrainingConfig(agent_steps=512, validations=4, batch_size=32)
CONFIGS: dict[str, Any] = {
    "policy-gradient": PolicyGradientConfig(num_steps=4, hidden=(16,)),
    "exact": ExactConfig(hidden=(16,)),
    "ppo": PPOConfig(n_steps=4, batch_size=64, n_epochs=2, hidden=(16,)),
    "a2c": A2CConfig(n_steps=4, hidden=(16,)),
    "dqn": DQNConfig(learning_starts=128, hidden=(16,), gradient_steps=1),
}


def options(folder: Path, algo: str = "policy-gradient", **changes: Any) -> Options:
    given: dict[str, Any] = {
        "algo": algo,
        "dataset": "digits",
        "co_train": True,
        "co": CO,
        "total_timesteps": 1536,
        "num_envs": 32,
        "device": "cpu",
        "log_dir": folder,
        "configs": {algo: CONFIGS[algo]},
    }
    return Options(**given | changes)


def open_run(asked: Options) -> JointRun:
    asked.check()
    assert asked.algo is not None
    return JointRun(asked, asked.config(), lambda *_: None)


class Killed(Exception):
    """Stands for a kill in the middle of a run."""


def run(asked: Options, stop_at: int | None = None) -> JointRun:
    """Train; a stop leaves the folder as a kill would."""
    with open_run(asked) as one:
        return learn(one, stop_at)


def learn(one: JointRun, stop_at: int | None) -> JointRun:
    def on_progress(taken: int, words: str) -> None:
        if stop_at is not None and taken >= stop_at:
            raise Killed

    if stop_at is None:
        one.learn(None, on_progress)
    else:
        with pytest.raises(Killed):
            one.learn(None, on_progress)
    return one


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return tensors_of(folder)


def assert_equal(one: Path, other: Path) -> None:
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> JointRun:
    """One uninterrupted run of the policy gradient."""
    folder = tmp_path_factory.mktemp("whole")
    asked = options(folder)
    with open_run(asked) as one, MetricWriter(one.folder) as writer:
        one.learn(writer, lambda *_: None)
    return one


def test_a_killed_run_goes_on_to_the_bit(whole: JointRun, tmp_path: Path) -> None:
    cut = run(options(tmp_path), stop_at=1400)
    saved = facts_of(cut.folder / "resume")["taken"]
    assert 512 < saved < 1400, "killed after a save, in the joint phase"
    resumed = run(options(tmp_path, resume=cut.folder))
    assert resumed.folder == cut.folder
    for name in ("agent", "resume", "best/main", "best/agent", "warm-up/agent"):
        assert_equal(cut.folder / name, whole.folder / name)
    assert resumed.best == whole.best
    assert resumed.trainer.steps == whole.trainer.steps > 5


@pytest.mark.parametrize("algo", ["ppo", pytest.param("a2c", marks=pytest.mark.slow)])
def test_stable_baselines_goes_on_to_the_bit(algo: str, tmp_path: Path) -> None:
    whole = run(options(tmp_path / "whole", algo))
    cut = run(options(tmp_path / "cut", algo), stop_at=1400)
    run(options(tmp_path / "cut", algo, resume=cut.folder))
    for name in ("agent", "best/main", "best/agent"):
        assert_equal(cut.folder / name, whole.folder / name)


def test_exact_goes_on_to_the_bit(tmp_path: Path) -> None:
    """Two passes over the 4050 samples and 15 nodes of the agent split."""
    co = replace(CO, agent_steps=0, validations=2, update_ratio=0.005)
    given = {"co": co, "total_timesteps": 121_500}
    whole = run(options(tmp_path / "whole", "exact", **given))
    cut = run(options(tmp_path / "cut", "exact", **given), stop_at=60_750)
    assert facts_of(cut.folder / "resume")["taken"] == 60_750
    resumed = run(options(tmp_path / "cut", "exact", resume=cut.folder, **given))
    assert resumed.trainer.steps == 18
    for name in ("agent", "resume", "best/main", "best/agent"):
        assert_equal(cut.folder / name, whole.folder / name)
    learned, begun = (tensors(whole.folder / p) for p in ("best/main", "warm-up/main"))
    assert not all(torch.equal(learned[name], begun[name]) for name in begun)


def test_exact_may_be_told_what_it_implies(tmp_path: Path) -> None:
    options(tmp_path, "exact", transitions="table").check()


@pytest.mark.slow
def test_exact_learning_goes_on_to_the_bit_in_phases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Main, table, agent: a pass over the table is a phase."""
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path / "cache"))
    co = replace(CO, update_ratio=0.002, agent_steps=1)
    asked = {"co": co, "total_timesteps": 600_000}
    whole = run(options(tmp_path / "whole", "exact", **asked))
    assert whole.trainer.steps > 2
    files = sorted((tmp_path / "cache").iterdir())
    cut = run(options(tmp_path / "cut", "exact", **asked), stop_at=450_000)
    resumed = run(options(tmp_path / "cut", "exact", resume=cut.folder, **asked))
    for name in ("agent", "best/main", "best/agent"):
        assert_equal(cut.folder / name, whole.folder / name)
    assert resumed.trainer.steps == whole.trainer.steps
    assert sorted((tmp_path / "cache").iterdir()) == files, "of the start alone"


@pytest.mark.slow
def test_dqn_goes_on(tmp_path: Path) -> None:
    """Not bit for bit: its replay buffer fills anew."""
    cut = run(options(tmp_path, "dqn"), stop_at=1400)
    resumed = run(options(tmp_path, "dqn", resume=cut.folder))
    assert resumed.taken == resumed.total == 2048
    assert resumed.trainer.steps > 5


def test_a_finished_run_has_nothing_left_to_do(whole: JointRun) -> None:
    before = tensors(whole.folder / "agent")
    again = run(replace(whole.options, resume=whole.folder))
    assert again.taken == whole.total
    assert_same = tensors(again.folder / "agent")
    assert all(torch.equal(before[key], assert_same[key]) for key in before)


@pytest.mark.parametrize("algo", ["policy-gradient", "exact"])
def test_a_frozen_run_is_the_plain_run(algo: str, tmp_path: Path) -> None:
    asked = options(tmp_path, algo, co_train=False, freeze_main=True)
    frozen = run(asked)
    plain = replace(asked, freeze_main=False)
    envs = build_environments(plain, CONFIGS[algo])
    agent = make_agent(envs.train, CONFIGS[algo], seed=0)
    agent.learn(frozen.total)
    mine, theirs = frozen.agent.module.state_dict(), agent.module.state_dict()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert_equal(frozen.folder / "best" / "main", frozen.folder / "warm-up" / "main")
    assert frozen.take_best()["break_even_penalty"] == frozen.envs.penalty == 0.093


def test_warm_up_weights_are_used_again(whole: JointRun, tmp_path: Path) -> None:
    again = open_run(options(tmp_path, warm_up_from=whole.folder, seed=1))
    assert again.start == 0
    assert again.total == 1536
    for name in ("warm-up/main", "warm-up/agent"):
        assert_equal(again.folder / name, whole.folder / name)
    warm = tensors(whole.folder / "warm-up" / "agent")
    now = again.agent.module.state_dict()
    assert all(torch.equal(now[key], value) for key, value in warm.items())


def test_a_fresh_network_is_warmed_up_first(tmp_path: Path) -> None:
    """And only once: a resumed run finds it."""
    co = replace(CO, main_epochs=1)
    seen: list[tuple[int, int]] = []
    asked = options(tmp_path, co=co)
    one = JointRun(
        asked, CONFIGS["policy-gradient"], lambda a, b, _: seen.append((a, b))
    )
    assert seen[-1] == (56, 56)
    _, facts = load_network(one.folder / "warm-up" / "main")
    assert one.envs.penalty == facts.about["break_even_penalty"] != 0.093
    one.close()
    again = JointRun(
        replace(asked, resume=one.folder),
        CONFIGS["policy-gradient"],
        lambda *_: pytest.fail("warmed up twice"),
    )
    assert again.envs.penalty == one.envs.penalty


def test_a_warm_up_killed_in_its_first_save_begins_again(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    splits = load_splits("digits", "cpu")
    co = replace(CO, main_epochs=0)
    train_network(tmp_path, "digits", splits, co, seed=0, on_step=lambda *_: None)
    assert is_saved(tmp_path / "main") and is_saved(tmp_path / "training")


def test_an_untrained_network_learns_at_a_given_penalty(tmp_path: Path) -> None:
    one = open_run(options(tmp_path, co=replace(CO, main_epochs=0), penalty="0.05"))
    assert one.envs.penalty == 0.05


def test_the_saved_network_is_measured_anew(whole: JointRun) -> None:
    unit = whole.envs.test.unwrapped.always_extra_macs  # type: ignore[attr-defined]
    base: Any = whole.envs.test.unwrapped
    options = base.problem.session.options
    whole.keep_best()  # one that has learned
    kept = load_network(whole.folder / "best" / "main")[1]
    before = find_calibration(kept.calibrations, options)
    assert before is not None and before.always_extra_macs == unit
    measured = whole.take_best()
    _, facts = load_network(whole.folder / "best" / "main")
    after = find_calibration(facts.calibrations, options)
    assert after is not None and after.always_extra_macs != unit
    assert set(measured["state_accuracy"]["test"]) == {
        f"{a}{b}{c}" for a in "01" for b in "01" for c in "01"
    }
    assert base.always_extra_macs == unit, "the run's own unit stays"


def test_both_learners_leave_their_curves(whole: JointRun) -> None:
    lines = (whole.folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    tags = {tag for row in rows for tag in row}
    states = {f"{a}{b}{c}" for a in "01" for b in "01" for c in "01"}
    assert {f"main/visited/{state}" for state in states} <= tags
    assert {f"main/accuracy/{state}" for state in states} <= tags
    assert {"train/policy_loss", "validation/return", "main/lambda_return"} <= tags
    turns = [row for row in rows if "main/loss" in row]
    assert min(row["step"] for row in turns) > 512
    for row in turns:
        weighted = 0.2 * row["main/return"]
        assert row["main/lambda_return"] == pytest.approx(weighted)
        assert row["main/total_loss"] == pytest.approx(row["main/loss"] - weighted)
        shares = [row[f"main/visited/{state}"] for state in states]
        assert sum(shares) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--co.update-ratio", "0"], "--co.update-ratio"),
        (["--co.loss-lambda", "-1"], "--co.loss-lambda"),
    ],
)
def test_what_cannot_be_parsed_ends_without_a_run(
    given: list[str], message: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "argv", ["train_agent.py", "--dataset", "digits", "--co-train", *given]
    )
    try:
        assert train_agent.main() == 2
    except SystemExit as end:
        assert end.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--co-train", "--freeze-main"], "not both"),
        (["--resume", "RUN"], "--co-train"),
        (["--warm-up-from", "RUN"], "--warm-up-from needs --co-train"),
        (["--co-train", "--resume", "RUN", "--warm-up-from", "RUN"], "leave"),
        (["--co-train", "--resume", "nowhere"], "nowhere is no run folder"),
        (["--co-train", "--warm-up-from", "nowhere"], "no run folder"),
        (["--co-train", "--resume", "RUN", "--seed", "5"], "--seed"),
        (["--co-train", "--resume", "RUN", "--co.every", "5"], "--co.every"),
        (["--freeze-main", "--resume", "RUN"], "--freeze-main"),
        (["--co-train", "--resume", "RUN", "--dataset", "cifar10"], "--dataset"),
        (["--co-train", "--warm-up-from", "OTHER"], "is a run on cifar10"),
        (["--co-train", "--warm-up-from", "RUN", "--algo", "ppo"], "hyper-parameters"),
        (["--co-train", "--total-timesteps", "0"], "--total-timesteps"),
        (["--co-train", "--load", "RUN"], "--warm-up-from instead"),
        (["--co-train", "--transitions", "table"], "--transitions live"),
        (["--co-train", "--co.main-epochs", "0"], "give --penalty"),
        (
            ["--co-train", "--co.main-epochs", "1", "--checkpoint", "RUN"],
            "--checkpoint",
        ),
        (["--co-train", "--co.batch-size", "9999"], "--co.batch-size"),
        (["--co-train", "--checkpoint", "nowhere"], "nowhere"),
        (["--co-train", "--penalty", "-1"], "penalty"),
        (["--co-train", "--device", "abacus"], "device"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    given: list[str],
    message: str,
    whole: JointRun,
    tmp_path: Path,
    monkeypatch: Any,
    capsys: Any,
) -> None:
    other = tmp_path / "OTHER"
    other.mkdir()
    options = run_folder.read_settings(whole.folder)["options"]
    run_folder.write_settings(other, options | {"dataset": "cifar10"}, start=0)
    places = {"RUN": str(whole.folder), "OTHER": str(other)}
    algo = (
        []
        if "--algo" in given or "--load" in given
        else ["--algo", whole.agent.config.algo]
    )
    command = [
        "train_agent.py",
        "--dataset",
        "digits",
        *algo,
        *(places.get(one, one) for one in given),
    ]
    folders = (tmp_path, whole.folder)
    before = [{p: p.stat().st_mtime_ns for p in f.rglob("*")} for f in folders]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [*command, "--no-download", "--data-dir", "."])
    assert train_agent.main() == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1
    assert message in errors
    after = [{p: p.stat().st_mtime_ns for p in f.rglob("*")} for f in folders]
    assert after == before


def test_a_corrupt_saved_state_is_named(tmp_path: Path) -> None:
    one = run(options(tmp_path, total_timesteps=512))
    for path in (one.folder / "resume").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DynaLayError, match="truncated or corrupt"):
        open_run(options(tmp_path, total_timesteps=512, resume=one.folder))
