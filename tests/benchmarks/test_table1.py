"""Table 1: arms that torchdeq solves, times of backward passes, and what is shown."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.paper.choices import choices
from benchmarks.paper.deq import check_solvable, solve_by
from benchmarks.paper.experiment import Setting
from benchmarks.paper.networks import StatesTrainer, Trained
from benchmarks.paper.selectors import Gumbel
from benchmarks.paper.table1 import Table1, worth_of_a_pass
from dynalay_gym.data.splits import load_split
from dynalay_gym.envs.config import SHIPPED
from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.checkpoint import load_main_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.networks.training import TrainingConfig
from dynalay_gym.sessions.torch_session import TorchSession


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


def test_selectors_choose_on_the_shared_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a penalty that nothing is worth, only the plain pass is left."""
    where, shipped = "benchmarks.paper.table1", SHIPPED / "digits"
    training = Trained(network(), minutes=2.0, backward=1.0, steps=9, epochs=[{}] * 4)
    monkeypatch.setattr(f"{where}.shared_network", lambda *_: shipped)
    monkeypatch.setattr(f"{where}.trained", lambda *_: training)
    monkeypatch.setattr(f"{where}.agent_penalty", lambda *_: 1e4)
    kind = {"Gumbel selector": (Gumbel, (0.0, 1e4))}
    monkeypatch.setattr(f"{where}.SELECTORS", kind)
    setting = Setting(dataset="digits")
    found = Table1().run("Gumbel selector", 0, setting, tmp_path / "table1-digits/g-0")
    assert found["compute"] == 1 and found["accuracy"] > 50
    assert (found["minutes"], found["backward minutes"]) == (0.5, 0.25)


def test_a_pass_is_worth_what_the_reward_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.02 for everything is 4 points of accuracy, which has the weight 0.5."""
    monkeypatch.setattr("benchmarks.paper.table1.agent_penalty", lambda *_: 0.02)
    loaded, _ = load_main_network(SHIPPED / "digits")
    split = load_split("digits", "agent")
    everything = float(choices(TorchSession(loaded), split, True).macs[:, -1].mean())
    worth = worth_of_a_pass(Setting(dataset="digits"), SHIPPED / "digits")
    assert worth * everything == pytest.approx(4.0, rel=1e-3)
