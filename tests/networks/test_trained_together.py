"""Two processes that train one network: what equals one process, and what does not."""

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.networks import own_split
from helpers.residual import random_residual
from helpers.together import (
    STOPS_AFTER,
    Found,
    everything,
    make_trainer,
    run_two,
    train,
)
from torch import Tensor

from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.lcnet.config import GateConfig
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.networks.lcnet.training import GateTrainer, GateTrainingConfig
from dynalay_gym.networks.residual import training as residual_training
from dynalay_gym.networks.residual.training import (
    ResidualTrainer,
    ResidualTrainingConfig,
)
from dynalay_gym.networks.training import MainTrainer
from dynalay_gym.utils.processes import Processes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of two processes found."""
    return run_two(everything, tmp_path_factory.mktemp("together"))


def check_close(found: Found, expected: Found) -> None:
    """Compare trainings, but for the order in which numbers were added."""
    torch.testing.assert_close(found["losses"], expected["losses"], rtol=1e-5, atol=0)
    torch.testing.assert_close(
        found["network"], expected["network"], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("name", ["mazes", "texts"])
def test_two_equal_one_where_no_batch_is_normalised_by(
    name: str, both: list[Found]
) -> None:
    check_close(both[0][name], train(make_trainer(name)))


def test_two_normalise_by_their_parts_elsewhere(both: list[Found]) -> None:
    """As one process does that adds up gradients over the parts."""
    one, losses = InParts("wide"), list[float]()
    for _ in range(2):
        one.trainer.train_epoch(lambda step, loss: losses.append(loss))
    found = {"network": one.trainer.network.state_dict(), "losses": losses}
    check_close(both[0]["wide"], found)


class InParts:
    """Steps on the mean gradient of two halves of a batch, written out."""

    def __init__(self, name: str) -> None:
        self.trainer: Any = make_trainer(name)
        self.trainer._step = self.step

    def step(self, rows: Tensor) -> float:
        one: MainTrainer = self.trainer
        images = one.augment(one.data.inputs[rows], rows)
        before = [each.clone() for each in one.network.buffers()]
        means = [torch.zeros_like(each) for each in before]
        one.optimizer.zero_grad()
        total = 0.0
        for half in (slice(0, 8), slice(8, 16)):
            for each, old in zip(one.network.buffers(), before, strict=True):
                each.copy_(old)
            loss = one.loss(images[half], one.data.labels[rows[half]], rows[half]) / 2
            loss.backward()
            total += loss.item()
            for mean, each in zip(means, one.network.buffers(), strict=True):
                mean += each / 2
        for each, mean in zip(one.network.buffers(), means, strict=True):
            each.copy_(mean)
        one.optimizer.step()
        return total


def test_both_have_the_same_network_to_the_bit(both: list[Found]) -> None:
    for name in ("mazes", "texts", "wide"):
        first, second = (each[name] for each in both)
        assert first["losses"] == second["losses"]
        for key, value in first["network"].items():
            assert torch.equal(value, second["network"][key]), key


def test_the_first_alone_writes_and_both_resume_to_the_bit(both: list[Found]) -> None:
    for found in both:
        assert found["files"] == ["rank-0"]
        for key, value in found["mazes"]["network"].items():
            assert torch.equal(value, found["resumed"]["network"][key]), key


def test_a_signal_to_one_ends_both_after_the_same_step(both: list[Found]) -> None:
    assert [each["stopped"] for each in both] == [[STOPS_AFTER, signal.SIGTERM]] * 2


def test_both_say_if_one_of_them_has_not_found_the_training(both: list[Found]) -> None:
    for found in both:
        assert "where all of them can read it" in found["apart"]


def test_one_process_waits_for_nobody() -> None:
    alone, values = Processes(), torch.tensor([1.0, 2.0])
    alone.average([values])
    alone.share([values])
    assert values.tolist() == [1.0, 2.0]
    assert alone.largest(7) == 7
    assert alone.part(6) == slice(0, 6)
    assert [Processes(rank, 3).part(6) for rank in range(3)] == [
        slice(0, 2),
        slice(2, 4),
        slice(4, 6),
    ]


@pytest.mark.parametrize("size", [3, 16])
def test_batches_that_cannot_be_shared_are_refused(size: int) -> None:
    message = rf"batches of 16; give --batch-size a multiple of {size} .* {2 * size} or"
    with pytest.raises(ConfigError, match=message):
        make_trainer("mazes").join(Processes(0, size))


def test_blocks_are_left_out_for_the_same_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[Tensor] = []

    def mask(block: Any, x: Tensor, rows: Tensor, *, iterates: bool) -> Tensor:
        kept.append(rows)
        result: Tensor = block(x, iterates)
        return result

    def rows_of(those: Processes) -> Tensor:
        kept.clear()
        one, rows = residual_trainer(), torch.arange(16)[those.part(16)]
        one.join(those)
        one.loss(one.data.inputs[rows], one.data.labels[rows], rows)
        return torch.stack(kept)

    monkeypatch.setattr(residual_training, "mask_block", mask)
    halves = [rows_of(Processes(rank, 2)) for rank in range(2)]
    whole = rows_of(Processes())
    assert torch.equal(torch.cat(halves, 1), whole)
    assert 0 < whole.mean() < 1


def residual_trainer() -> ResidualTrainer:
    config = ResidualTrainingConfig(epochs=1, batch_size=16, skip_rate=1.0)
    network = random_residual()
    return ResidualTrainer(network, own_split(torch.randn(16, 1, 8, 8)), config)


def test_gates_are_trained_by_one_process() -> None:
    network = GatedNetwork(random_residual(), GateConfig(layers=True))
    config = GateTrainingConfig(epochs=1, batch_size=16)
    one = GateTrainer(network, own_split(torch.randn(16, 1, 8, 8)), config)
    one.join(Processes())
    with pytest.raises(ConfigError, match="without torchrun"):
        one.join(Processes(0, 2))


@pytest.mark.slow
def test_torchrun_trains_and_resumes(tmp_path: Path) -> None:
    given = "--dataset digits --paths mixed --batch-size 64 --seed 3"
    folder = tmp_path / "digits" / "main" / "0"
    train_main(f"{given} --epochs 1 --log-dir {tmp_path}")
    assert (folder / "best").is_dir()
    assert not (tmp_path / "digits" / "main" / "1").exists()
    text = train_main(f"{given} --epochs 1 --resume {folder}")
    assert len(re.findall(r"^break-even|break-even penalty", text, re.M)) == 1


def train_main(options: str) -> str:
    """Run the script in two processes; return what they print."""
    start = "-m torch.distributed.run --standalone --nproc-per-node 2".split()
    line = [sys.executable, *start, str(ROOT / "train_main.py"), *options.split()]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout
