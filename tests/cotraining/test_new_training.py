"""What a training begins with: architecture, options and weights of the right kind."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dynalay_gym.cotraining.new_training import (
    network_config,
    new_trainer,
    training_config,
)
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.checkpoint import save_network
from dynalay_gym.networks.lcnet.config import GateConfig
from dynalay_gym.networks.lcnet.training import GateTrainer
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.networks.residual.config import ResidualConfig
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.networks.residual.training import ResidualTrainer
from dynalay_gym.networks.training import MainTrainer, TrainingConfig

GATES = GateConfig()


@pytest.fixture(scope="module")
def main() -> Split:
    return load_split("digits", "main")


@pytest.fixture
def residual(tmp_path: Path) -> Path:
    """Folder of a residual network."""
    torch.manual_seed(0)
    config = ResidualConfig(
        in_shape=(1, 8, 8), num_classes=10, widths=(4, 6), depths=(1, 1)
    )
    save_network(tmp_path / "residual", ResidualNetwork(config), {})
    return tmp_path / "residual"


@pytest.fixture
def iterated(tmp_path: Path) -> Path:
    """Folder of a main network."""
    network = MainNetwork(make_config("digits", (1, 8, 8), 10))
    save_network(tmp_path / "iterated", network, {})
    return tmp_path / "iterated"


def begin(main: Split, preset: str | None = None, **start: Any) -> Any:
    architecture = network_config("digits", preset, **start)
    config = training_config(architecture, "digits", seed=3)
    return new_trainer(architecture, config, main, start.get("start_from"))


def test_every_kind_of_network_gets_its_trainer(
    main: Split, residual: Path, iterated: Path
) -> None:
    assert isinstance(begin(main), MainTrainer)
    assert isinstance(begin(main, "fast"), ResidualTrainer)
    assert isinstance(begin(main, start_from=iterated), MainTrainer)
    assert isinstance(begin(main, start_from=residual), ResidualTrainer)
    gated = begin(main, start_from=residual, gates=GATES)
    assert isinstance(gated, GateTrainer)
    assert gated.config.seed == 3


def test_a_training_goes_on_with_the_weights_that_it_starts_from(
    main: Split, residual: Path
) -> None:
    first = begin(main, start_from=residual).network.eval()
    gated = begin(main, start_from=residual, gates=GATES).network.eval()
    images = main.inputs[:8]
    with torch.no_grad():  # gates are open at the start
        assert torch.equal(first(images), gated(images).logits)
    fresh = begin(main, "resnet20").network.state_dict()
    again = begin(main, "resnet20").network.state_dict()
    assert all(torch.equal(fresh[name], again[name]) for name in fresh)


def test_gates_are_trained_further_without_being_asked_for_twice(
    main: Split, residual: Path, tmp_path: Path
) -> None:
    gated = begin(main, start_from=residual, gates=GATES).network
    save_network(tmp_path / "gated", gated, {})
    further = begin(main, start_from=tmp_path / "gated")
    assert isinstance(further, GateTrainer)
    with pytest.raises(ConfigError, match="has none yet"):
        begin(main, start_from=tmp_path / "gated", gates=GATES)


def test_gates_need_a_trained_residual_network(main: Split, iterated: Path) -> None:
    with pytest.raises(ConfigError, match="--start-from"):
        begin(main, "fast", gates=GATES)
    with pytest.raises(ConfigError, match="residual network"):
        begin(main, start_from=iterated, gates=GATES)


def test_blocks_of_a_residual_network_can_be_iterated(main: Split) -> None:
    config = network_config("digits", "fast", iterated=(5, 6), rtol=1e-3, max_steps=9)
    assert isinstance(config, ResidualConfig)
    assert (config.iterated, config.rtol, config.max_steps) == ((5, 6), 1e-3, 9)
    blocks = begin(main, "fast", iterated=(5, 6)).network.blocks
    solves = [block.recurrence is not None for block in blocks]
    assert solves == [False] * 4 + [True] * 2
    for preset, options, says in (
        ("digits", {"iterated": (1,)}, "--iterated"),
        ("fast", {"rtol": 0.1}, "--rtol is no option"),
        ("fast", {"iterated": (7,)}, "blocks in 1..6"),
    ):
        with pytest.raises(ConfigError, match=says):
            network_config("digits", preset, **options)


@pytest.mark.parametrize(
    ("preset", "options", "says"),
    [
        ("fast", {"paths": "all"}, "--paths"),
        ("fast", {"target": 0.5}, "--target"),
        ("digits", {"skip_rate": 0.5}, "--skip-rate"),
        ("digits", {"dropped_words": 0.5}, "--dropped-words"),
    ],
)
def test_options_of_another_kind_are_refused(
    preset: str, options: dict[str, Any], says: str
) -> None:
    architecture = network_config("digits", preset)
    with pytest.raises(ConfigError, match=says):
        training_config(architecture, "digits", **options)


def test_data_that_is_downloaded_is_augmented() -> None:
    assert training_config(network_config("cifar10", "fast"), "cifar10").augment
    assert not training_config(network_config("digits"), "digits").augment


def test_words_are_dropped_where_they_are_asked_to_be() -> None:
    architecture = network_config("chains")
    assert not training_config(architecture, "chains").augment
    asked = training_config(architecture, "chains", dropped_words=0.2)
    assert isinstance(asked, TrainingConfig)
    assert (asked.augment, asked.dropped_words) == (True, 0.2)
