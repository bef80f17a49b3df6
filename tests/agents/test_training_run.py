"""A plain training goes on bit for bit: weights, counters, metrics, best weights."""

import errno
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.saved import facts_of, tensors_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.exact.config import ExactConfig
from agents.options import Options
from agents.policy_gradient.config import PolicyGradientConfig
from agents.sb3.config import A2CConfig, DQNConfig, PPOConfig
from agents.training_run import PlainRun
from dynalay_gym.errors import CheckpointError, ConfigError
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.storage.metrics import MetricWriter
from dynalay_gym.utils.interrupts import Stopped

CONFIGS: dict[str, Any] = {
    "policy-gradient": PolicyGradientConfig(
        num_steps=4, hidden=(16,), penalty_warm_up=0.5
    ),
    "exact": ExactConfig(hidden=(16,)),
    "ppo": PPOConfig(n_steps=4, batch_size=64, n_epochs=2, hidden=(16,)),
    "a2c": A2CConfig(n_steps=4, hidden=(16,), penalty_warm_up=0.9),
    "dqn": DQNConfig(
        learning_starts=128,
        hidden=(16,),
        gradient_steps=1,
        buffer_size=700,
        target_update_interval=256,
    ),
}


def options(folder: Path, algo: str, **changes: Any) -> Options:
    given: dict[str, Any] = {
        "algo": algo,
        "dataset": "digits",
        "total_timesteps": 2 * 60_750 if algo == "exact" else 2048,
        "num_envs": 32,
        "device": "cpu",
        "log_dir": folder,
        "keep_best": True,
        "configs": {algo: CONFIGS[algo]},
    }
    return Options(**given | changes)


class Killed(Exception):
    """Stands for a kill in the middle of a run."""


def run(asked: Options, stop_at: int | None = None) -> PlainRun:
    """Train; a stop leaves the folder as a kill would."""

    def on_progress(taken: int, words: str) -> None:
        if stop_at is not None and taken >= stop_at:
            raise Killed

    asked.check()
    with PlainRun(asked, asked.config()) as one:
        with MetricWriter(one.folder, one.sizes) as writer:
            if stop_at is None:
                one.learn(writer, on_progress)
            else:
                with pytest.raises(Killed):
                    one.learn(writer, on_progress)
        return one


def curves(folder: Path) -> list[dict[str, Any]]:
    """What a run recorded, but for the time that it took."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {tag: value for tag, value in json.loads(line).items() if "time" not in tag}
        for line in lines
    ]


def board(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The same, as TensorBoard shows it."""
    found = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(each.step, each.value) for each in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
        if "time" not in tag
    }


def assert_equal(one: Path, other: Path) -> None:
    for name in ("agent", "resume"):
        first, second = (tensors_of(each / name) for each in (one, other))
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert torch.equal(value, second[key]), (name, key)
    assert curves(one) == curves(other)
    assert board(one) == board(other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> PlainRun:
    """One undisturbed run of the policy gradient."""
    return run(options(tmp_path_factory.mktemp("whole"), "policy-gradient"))


@pytest.mark.parametrize("algo", CONFIGS)
def test_a_killed_run_goes_on_to_the_bit(algo: str, tmp_path: Path) -> None:
    whole = run(options(tmp_path / "whole", algo))
    asked = options(tmp_path / "cut", algo)
    cut = run(asked, stop_at=60_750 if algo == "exact" else 900)
    run(replace(asked, resume=cut.folder), stop_at=60_750 if algo == "exact" else 1700)
    resumed = run(replace(asked, resume=cut.folder))
    assert_equal(whole.folder, resumed.folder)
    assert (resumed.best, resumed.best_step) == (whole.best, whole.best_step)


def test_it_validates_at_equal_intervals_and_keeps_the_best(tmp_path: Path) -> None:
    one = run(options(tmp_path, "policy-gradient", total_timesteps=1024))
    lines = [line for line in curves(one.folder) if "validation/return" in line]
    rollouts = range(128, 1025, 128)  # every tenth of the training but for two
    assert [line["step"] for line in lines] == list(rollouts)
    found = {line["step"]: line["validation/return"] for line in lines}
    assert one.best == max(found.values()) == found[one.best_step]
    result = evaluate(one.envs.validation, one.agent.policy, penalty=one.envs.penalty)
    assert result.mean_return == one.best
    kept = tensors_of(one.folder / "agent")
    for name, value in one.agent.module.state_dict().items():
        assert torch.equal(value, kept[name])


@pytest.mark.parametrize("at", [128, 256])
def test_any_rollout_is_a_good_one_to_be_killed_after(
    at: int, whole: PlainRun, tmp_path: Path
) -> None:
    """The first, before the first validation, and one where a validation is due."""
    asked = options(tmp_path, "policy-gradient")
    cut = run(asked, stop_at=at)
    resumed = run(replace(asked, resume=cut.folder))
    assert_equal(whole.folder, resumed.folder)


def test_a_run_that_saved_nothing_begins_again(
    whole: PlainRun, tmp_path: Path, capsys: Any
) -> None:
    asked = options(tmp_path, "policy-gradient")
    with PlainRun(asked, asked.config()) as one, MetricWriter(one.folder) as writer:
        writer.scalar("rollout/ep_rew_mean", 1.0, 128)
    resumed = run(replace(asked, resume=one.folder))
    assert "it begins again" in capsys.readouterr().out
    assert_equal(whole.folder, one.folder)
    assert resumed.taken == 2048


def test_a_state_that_was_taken_away_is_missed(tmp_path: Path) -> None:
    asked = options(tmp_path, "policy-gradient", total_timesteps=256)
    done = run(asked)
    (done.folder / "resume").rename(tmp_path / "elsewhere")
    before = tensors_of(done.folder / "agent")
    with pytest.raises(CheckpointError, match="no resume/ to go on from"):
        run(replace(asked, resume=done.folder))
    after = tensors_of(done.folder / "agent")
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_only_one_at_a_time(tmp_path: Path) -> None:
    asked = options(tmp_path, "policy-gradient", total_timesteps=256)
    with PlainRun(asked, asked.config()) as one:
        again = replace(asked, resume=one.folder)
        with pytest.raises(ConfigError, match="another process is writing"):
            PlainRun(again, again.config())
    run(again)


def test_a_signal_ends_a_run_after_its_rollout(whole: PlainRun, tmp_path: Path) -> None:
    asked, seen = options(tmp_path, "policy-gradient"), list[int]()

    def on_progress(taken: int, words: str) -> None:
        seen.append(taken)
        if taken == 640:
            os.kill(os.getpid(), signal.SIGTERM)

    with PlainRun(asked, asked.config()) as one:
        with MetricWriter(one.folder) as writer, pytest.raises(Stopped):
            one.learn(writer, on_progress)
    assert seen[-1] == 640
    assert facts_of(one.folder / "resume")["taken"] == 640
    kept, learned = tensors_of(one.folder / "agent"), one.agent.module.state_dict()
    assert all(torch.equal(kept[key], value) for key, value in learned.items())
    resumed = run(replace(asked, resume=one.folder))
    assert_equal(whole.folder, resumed.folder)


def test_an_agent_that_cannot_be_resumed_is_kept(tmp_path: Path) -> None:
    asked = options(tmp_path, "policy-gradient")
    with PlainRun(asked, asked.config()) as one:
        agent: Any = one.agent

        class Simple:
            config, policy, module = agent.config, agent.policy, agent.module
            learn = agent.learn

        one.agent = Simple()
        with pytest.raises(Stopped):
            one.learn(None, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    kept = tensors_of(one.folder / "agent")
    assert all(torch.equal(kept[k], v) for k, v in agent.module.state_dict().items())
    assert not (one.folder / "resume").exists()


@pytest.mark.parametrize("full", [1, 2, 3, 12, "agent"])
def test_a_full_disk_loses_nothing_that_was_saved(
    full: int | str, whole: PlainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first files, and at the agent at the end, which the state has, too."""
    replaced, replace_file = list[Path](), os.replace

    def fill_up(source: Any, target: Any) -> None:
        replaced.append(Path(target))
        if len(replaced) == full or Path(target).parent.name == full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace_file(source, target)

    asked = options(tmp_path, "policy-gradient")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "replace", fill_up)
        run(asked)
    assert not list(tmp_path.rglob("*.tmp"))
    folder = tmp_path / "digits" / "policy-gradient" / "0"
    if full == 1:  # not even its options
        with pytest.raises(CheckpointError, match="no run folder"):
            run(replace(asked, resume=folder))
        return
    resumed = run(replace(asked, resume=folder))
    assert_equal(whole.folder, resumed.folder)
