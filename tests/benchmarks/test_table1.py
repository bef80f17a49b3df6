"""Table 1: arms that torchdeq solves, times of backward passes, and what is shown."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.paper.deq import check_solvable, solve_by
from benchmarks.paper.experiment import Setting
from benchmarks.paper.networks import StatesTrainer
from benchmarks.paper.table1 import Table1
from dynalay_gym.data.splits import load_split
from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.networks.training import TrainingConfig


def network() -> MainNetwork:
    torch.manual_seed(0)
    return MainNetwork(make_config("digits", (1, 8, 8), 10)).eval()


@pytest.mark.parametrize("method", ["anderson", "broyden"])
def test_torchdeq_finds_the_same_answers_and_gradients(method: str) -> None:
    pytest.importorskip("torchdeq")
    images = load_split("digits", "validation").inputs[:8]
    precise = SolverConfig(
        rtol=1e-5, max_steps=100, adjoint_rtol=1e-5, adjoint_max_steps=100
    )
    ours, theirs = network(), network()
    solve_by(theirs, method)
    logits = [each.forward_path(images, 7, precise) for each in (ours, theirs)]
    assert torch.allclose(logits[0], logits[1], atol=1e-3)
    gradients = []
    for each, out in zip((ours, theirs), logits, strict=True):
        out.logsumexp(1).sum().backward()
        weight = each.main_layers[0].recurrence.free_weight  # type: ignore[attr-defined]
        gradients.append(weight.grad.flatten())
    first, second = gradients
    assert torch.cosine_similarity(first, second, dim=0) > 0.999


def test_without_torchdeq_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.paper.deq.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"dynalay-gym\[deq\]"):
        check_solvable(Setting(dataset="digits"))


def test_only_backward_passes_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_split("digits", "validation")
    options = TrainingConfig(epochs=1, batch_size=64)
    trainer = StatesTrainer(network(), data, options, (0,))
    ticks = count()  # a second per look at the clock: two looks per step
    monkeypatch.setattr("time.process_time", lambda: float(next(ticks)))
    trainer.train_epoch(lambda step, loss: None)
    assert trainer.backward == trainer.steps > 0


def test_dynalay_is_measured_by_its_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = {"test": {"ppo": {"accuracy": 12.5, "compute": 2.0}}}
    monkeypatch.setattr("benchmarks.paper.table1.unit_run", lambda *_: agent)
    setting = Setting(dataset="digits", epochs=1, every=40)
    rows: list[dict[str, Any]] = [
        {"arm": arm}
        | Table1().run(arm, 0, setting, tmp_path / f"table1-digits/{arm}-0")
        for arm in ("3-layer CNN", "DynaLay")
    ]
    plain, dynalay = rows
    assert plain["compute"] == 1 and dynalay["compute"] == 2.0
    assert dynalay["accuracy"] == 12.5
    (table,) = Table1().tables(rows, setting)
    assert table.rows[1]["backward minutes"]["mean"] == 60 * dynalay["backward minutes"]
    assert len(Table1().draw(rows, setting).axes) == 2
