"""Main-network training: resumes bit for bit, moves what it should, no more."""

import copy
import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.saved import facts_of, tensors_of
from helpers.striped import striped_split

from dynalay_gym.cotraining.main_training import train
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import CheckpointError, ConfigError, DivergedError
from dynalay_gym.networks.checkpoint import load_network
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.state_losses import mixed_states
from dynalay_gym.networks.training import (
    MainTrainer,
    TrainingConfig,
    one_cycle,
)
from dynalay_gym.sessions.measure import state_name
from dynalay_gym.storage.metrics import MetricWriter
from dynalay_gym.storage.saved_folder import save_folder
from dynalay_gym.utils.interrupts import Stopped

CONFIG = MainNetworkConfig(
    in_shape=(1, 8, 8),
    num_classes=3,
    form="wide",
    stem=0,
    stem_stride=1,
    channels=(2, 3),
    strides=(2, 1),
    hidden=(4, 4),
    pools=(1, 1),
    unshuffle=2,
)
TRAINING = TrainingConfig(epochs=3, batch_size=16, paths="all", augment=True)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def data() -> Split:
    return striped_split()


def trainer(
    data: Split,
    config: TrainingConfig = TRAINING,
    architecture: MainNetworkConfig = CONFIG,
) -> MainTrainer:
    torch.manual_seed(0)
    return MainTrainer(MainNetwork(architecture), data, config)


def weights(one: MainTrainer) -> torch.Tensor:
    return torch.cat([value.flatten() for value in one.network.state_dict().values()])


def test_resume_continues_to_the_bit(data: Split, tmp_path: Path) -> None:
    whole = trainer(data)
    losses: list[float] = []
    for _ in range(3):
        whole.train_epoch(lambda step, loss: losses.append(loss))
    first = trainer(data)
    first.train_epoch(lambda step, loss: None)
    first.save(tmp_path)
    second = trainer(data, replace(TRAINING))
    second.load(tmp_path)
    rest: list[float] = []
    for _ in range(2):
        second.train_epoch(lambda step, loss: rest.append(loss))
    assert rest == losses[-len(rest) :]
    assert torch.equal(weights(whole), weights(second))


def test_an_interrupted_run_continues_to_the_bit(
    data: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A validation after every epoch leaves the network as it was."""
    config = replace(TRAINING, epochs=2)
    # So wide that a memory format which a validation left behind would show.
    architecture = replace(CONFIG, channels=(4, 8), hidden=(8, 16))

    def run(one: MainTrainer, folder: Path) -> None:
        with MetricWriter(folder) as writer:
            train(one, data, folder, writer)

    whole, first, second = (trainer(data, config, architecture) for _ in range(3))
    run(whole, tmp_path / "whole")
    save = first.save

    def save_and_stop(folder: Path, sizes: Any) -> None:
        save(folder, sizes)
        if first.epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(first, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run(first, tmp_path / "parts")
    assert first.epoch == 1
    second.load(tmp_path / "parts" / "resume")
    run(second, tmp_path / "parts")
    assert torch.equal(weights(whole), weights(second))
    best = [load_network(tmp_path / name / "best")[1] for name in ("whole", "parts")]
    assert best[0] == best[1]


def test_a_divergence_in_an_epochs_last_step_keeps_what_was_saved(
    data: Split, tmp_path: Path
) -> None:
    one, steps = trainer(data), list[int]()
    last = 2 * one.steps_per_epoch

    def poison(gradient: torch.Tensor) -> torch.Tensor:
        steps.append(1)
        return gradient * torch.nan if len(steps) == last else gradient

    one.network.head_bias.register_hook(poison)
    with (
        MetricWriter(tmp_path) as writer,
        pytest.raises(
            DivergedError, match=f"gradient of head_bias .* step {last}; lower"
        ),
    ):
        train(one, data, tmp_path, writer)
    assert one.epoch == 1
    assert weights(one).isfinite().all()
    rest, expected = trainer(data), trainer(data)
    rest.load(tmp_path / "resume")
    expected.train_epoch(lambda step, loss: None)
    assert rest.epoch == 1
    assert torch.equal(weights(rest), weights(expected))
    assert load_network(tmp_path / "best")[1].about["epoch"] == 1


def test_weights_that_the_last_step_broke_are_not_kept(
    data: Split, tmp_path: Path
) -> None:
    one = trainer(data, replace(TRAINING, epochs=1))

    def overflow(*_: object) -> None:
        if one.scheduler.last_epoch == one.steps_per_epoch - 1:
            one.network.head_bias.data[0] = torch.inf

    one.optimizer.register_step_post_hook(overflow)
    with (
        MetricWriter(tmp_path) as writer,
        pytest.raises(DivergedError, match="not finite after 6 steps"),
    ):
        train(one, data, tmp_path, writer)
    rest = trainer(data, replace(TRAINING, epochs=1))
    rest.load(tmp_path / "resume")
    assert rest.steps == 0, "the last good state is the first one"
    assert weights(rest).isfinite().all()
    assert not (tmp_path / "best").exists()


def run(one: MainTrainer, data: Split, folder: Path, sizes: Any = None) -> None:
    with MetricWriter(folder, sizes) as writer:
        train(one, data, folder, writer)


def curves(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{tag: value for tag, value in row.items() if tag != "time"} for row in rows]


@pytest.mark.parametrize("last", [1, 3, 4, 7])
def test_a_signal_ends_a_run_after_its_step(
    last: int, data: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first step, within an epoch, at its end, and in the next one."""
    config = replace(TRAINING, epochs=2, batch_size=len(data) // 4, paths="mixed")
    whole, first, second = (trainer(data, config) for _ in range(3))
    run(whole, data, tmp_path / "whole")
    loss = first.loss

    def loss_and_signal(*batch: torch.Tensor) -> torch.Tensor:
        if first.steps + 1 == last:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(*batch)

    monkeypatch.setattr(first, "loss", loss_and_signal)
    with pytest.raises(Stopped):
        run(first, data, tmp_path / "parts")
    assert first.steps == last
    sizes = second.load(tmp_path / "parts" / "resume")
    assert second.steps == last
    run(second, data, tmp_path / "parts", sizes)
    assert torch.equal(weights(whole), weights(second))
    assert curves(tmp_path / "whole") == curves(tmp_path / "parts") != []


@pytest.mark.parametrize("full", [3, 4, 5, 6])
def test_a_full_disk_loses_nothing_that_was_saved(
    full: int, data: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the two files of ``best`` and of ``resume`` after the first epoch."""
    config = replace(TRAINING, epochs=2, batch_size=len(data) // 4)
    whole, first, second = (trainer(data, config) for _ in range(3))
    run(whole, data, tmp_path / "whole")
    replaced, replace_file = list[Any](), os.replace

    def fill_up(source: Any, target: Any) -> None:
        replaced.append(target)
        if len(replaced) == full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace_file(source, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "replace", fill_up)
        run(first, data, tmp_path / "parts")
    sizes = second.load(tmp_path / "parts" / "resume")
    assert second.steps == 0
    run(second, data, tmp_path / "parts", sizes)
    assert torch.equal(weights(whole), weights(second))
    best = [load_network(tmp_path / name / "best")[1] for name in ("whole", "parts")]
    assert best[0] == best[1]
    assert curves(tmp_path / "whole") == curves(tmp_path / "parts") != []


def test_the_learning_rate_follows_its_schedule_and_is_resumed(
    data: Split, tmp_path: Path
) -> None:
    one, rates = trainer(data), list[float]()
    used = one.optimizer.param_groups[0]
    one.optimizer.register_step_pre_hook(lambda *_: rates.append(used["lr"]))
    for _ in range(3):
        one.train_epoch(lambda step, loss: None)
        if one.epoch == 1:
            one.save(tmp_path)
    peak, total = TRAINING.learning_rate, 3 * one.steps_per_epoch
    assert rates == [peak * one_cycle((i + 1) / total, 0.3) for i in range(total)]
    second = trainer(data)
    second.load(tmp_path)
    assert second.optimizer.param_groups[0]["lr"] == rates[one.steps_per_epoch]


def test_training_learns_every_state(data: Split) -> None:
    one = trainer(data, replace(TRAINING, epochs=40, augment=False))
    for _ in range(40):
        one.train_epoch(lambda step, loss: None)
    one.network.freeze()
    for path in range(4):
        answers = one.network.forward_path(data.inputs, path).argmax(1)
        assert (answers == data.labels).float().mean() > 0.95, path


def test_mixed_states_hold_both_ends_and_one_between(data: Split) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [mixed_states(4, generator) for _ in range(50)]
    assert all({0, 3} <= set(each) and len(each) == 3 for each in drawn)
    assert {state for each in drawn for state in each} == {0, 1, 2, 3}
    assert mixed_states(2, generator) == {0: 1.0, 1: 1.0}
    trainer(data, replace(TRAINING, paths="mixed")).train_epoch(lambda step, loss: None)


def test_shared_prefixes_change_no_answer(data: Split) -> None:
    model = trainer(data).network.freeze()
    together = model.forward_paths(data.inputs, range(4))
    for path, logits in enumerate(together):
        assert torch.equal(logits, model.forward_path(data.inputs, path))


def test_other_options_are_refused(data: Split, tmp_path: Path) -> None:
    trainer(data).save(tmp_path)
    with pytest.raises(CheckpointError, match="other options"):
        trainer(data, replace(TRAINING, learning_rate=1e-3)).load(tmp_path)


def test_divergence_stops_before_the_step(data: Split) -> None:
    one = trainer(data)
    with torch.no_grad():
        one.network.head.fill_(1e38)
    before = copy.deepcopy(one.network.state_dict())
    with pytest.raises(
        DivergedError, match=r"loss is .* step 1; lower --learning-rate"
    ):
        one.train_epoch(lambda step, loss: None)
    for name, part in one.network.state_dict().items():
        assert torch.equal(part, before[name]), name


@pytest.mark.parametrize(
    "bad", [{"epochs": 0}, {"paths": "some"}, {"precision": "fp8"}, {"batch_size": 1}]
)
def test_bad_options_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(TRAINING, **bad)  # type: ignore[arg-type]


def test_one_cycle_by_hand() -> None:
    for progress, share in ((0.0, 0.04), (0.15, 0.52), (0.3, 1.0), (0.65, 0.5)):
        assert one_cycle(progress, 0.3) == pytest.approx(share)
    assert one_cycle(1.0, 0.3) == pytest.approx(0.0, abs=1e-7)
    assert one_cycle(0.05, 0.1) == pytest.approx(0.52)
    assert one_cycle(0.55, 0.1) == pytest.approx(0.5)


def test_the_share_of_steps_in_which_the_rate_rises(data: Split) -> None:
    one = trainer(data, replace(TRAINING, pct_start=0.5))
    assert one.rate(0.25) == pytest.approx(0.52)
    with pytest.raises(ConfigError, match="pct_start"):
        replace(TRAINING, pct_start=0.0)


def test_state_name_lists_layer_one_first() -> None:
    assert [state_name(path, 3) for path in (0, 1, 4, 7)] == [
        "000",
        "100",
        "001",
        "111",
    ]


def run_script(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "train_main.py"), *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def test_script_trains_and_exports(tmp_path: Path) -> None:
    result = run_script("--epochs", "1", "--batch-size", "3600", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "runs" / "digits" / "main" / "0"
    _, facts = load_network(folder / "best")
    assert set(facts.about["state_accuracy"]["test"]) == {
        f"{a}{b}{c}" for a in "01" for b in "01" for c in "01"
    }
    assert facts.calibrations[0]["always_extra_macs"] > facts.about["plain_macs"]
    assert json.loads((folder / "config.json").read_text())["options"]["epochs"] == 1
    resumed = run_script(
        "--epochs", "1", "--batch-size", "3600", "--resume", str(folder), cwd=tmp_path
    )
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.parametrize(
    "order",
    [
        None,
        torch.tensor(0),
        torch.arange(95),
        torch.zeros(96, dtype=torch.int64),
        torch.arange(1, 97),
        torch.arange(96.0),
        torch.zeros(0, dtype=torch.int64),
    ],
    ids=lambda order: "none" if order is None else f"{order.dtype} {order.shape}",
)
def test_an_order_that_is_none_of_the_samples_is_refused(
    order: Any, data: Split, tmp_path: Path
) -> None:
    """With a short one the training learned from one sample without a word."""
    first = trainer(data)
    first.train_epoch(lambda *_: None)
    first.save(tmp_path)
    others = {k: v for k, v in tensors_of(tmp_path).items() if k != "order"}
    changed = others if order is None else others | {"order": order}
    save_folder(tmp_path, MainTrainer.kind, changed, facts_of(tmp_path))
    with pytest.raises(CheckpointError, match="'order'"):
        trainer(data).load(tmp_path)
