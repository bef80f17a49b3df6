"""A training that begins: splits, architecture, options and network for a data set."""

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from dynalay_gym.data.registry import SPLITS, DatasetSpec, dataset_spec
from dynalay_gym.data.splits import Split, device_for, load_split
from dynalay_gym.errors import CheckpointError, ConfigError
from dynalay_gym.networks.checkpoint import (
    KINDS,
    Config,
    kind_of,
    load_network,
    load_network_facts,
)
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.lcnet.config import GateConfig, GatedConfig
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.networks.lcnet.training import GateTrainer, GateTrainingConfig
from dynalay_gym.networks.presets import make_any_config
from dynalay_gym.networks.residual.config import OF_SOLVES, ResidualConfig
from dynalay_gym.networks.residual.network import ResidualNetwork, WhiteningStem
from dynalay_gym.networks.residual.training import (
    ResidualTrainer,
    ResidualTrainingConfig,
)
from dynalay_gym.networks.training import MainTrainer, TrainingConfig
from dynalay_gym.utils.flags import flag

Splits = Mapping[str, Split]
AnyTrainer = MainTrainer | ResidualTrainer | GateTrainer
AnyTrainingConfig = TrainingConfig | ResidualTrainingConfig | GateTrainingConfig

_RESIDUAL_EPOCHS = 8
_GATE_EPOCHS = 4
_WHITENED = 5_000  # images that a whitening stem is set from
# What suits a preset.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 16, "paths": "all"},
    "maze": {"epochs": 8, "paths": "portions"},
    "chains": {"epochs": 16, "paths": "portions"},
    "sudoku": {"epochs": 4, "paths": "portions", "learning_rate": 3e-3},
    "reviews": {
        "epochs": 4,
        "paths": "mixed",
        "learning_rate": 3e-3,
        "weight_decay": 0.3,
        "pct_start": 0.1,
    },
    "language": {
        "epochs": 7,
        "batch_size": 32,
        "paths": "mixed",
        "learning_rate": 3e-3,
        "weight_decay": 0.1,
        "dropped_words": 0.1,
    },
}


def load_splits(dataset: str, device: str, **files: Any) -> dict[str, Split]:
    """Return all splits of a data set by name; see `load_split` and its errors."""
    files["device"] = device_for(dataset, device)
    return {name: load_split(dataset, name, **files) for name in SPLITS}


def network_config(
    dataset: str,
    preset: str | None = None,
    start_from: Path | None = None,
    gates: GateConfig | None = None,
    **own: Any,
) -> Config:
    """Return the architecture for a data set.

    Args:
        dataset: Name of the data set.
        preset: Name of the preset; the data set's own if None.
        start_from: Folder of a network whose architecture is taken in place of a
            preset's.
        gates: Gates that it gets; None leaves it as it is.
        **own: ``rtol`` and ``max_steps`` of solves, ``widths``, ``depths`` and
            ``iterated`` of a residual network, in place of the preset's; None changes
            nothing. A residual network without ``iterated`` has no solves.

    Raises:
        CheckpointError: The network to start from is missing, or of other data.
        ConfigError: The preset is unknown or does not fit the data, or an option is not
            of this kind of network.
    """
    spec = dataset_spec(dataset)
    given = {name: value for name, value in own.items() if value is not None}
    if start_from is not None:
        if preset is not None or given:
            raise ConfigError(
                "--start-from brings its own architecture; leave --preset, --rtol, "
                "--max-steps, --widths, --depths and --iterated out"
            )
        return _with_gates(_config_at(start_from, spec), gates)
    if gates is not None:
        raise ConfigError(
            "gates are put on a trained network; give its folder as --start-from"
        )
    name = preset or spec.preset
    config = make_any_config(name, spec.in_shape, spec.num_classes)
    has_no_solves = isinstance(config, ResidualConfig) and not given.get("iterated")
    _check_known(given, type(config), OF_SOLVES if has_no_solves else ())
    return replace(config, **given)


def _with_gates(config: Config, gates: GateConfig | None) -> Config:
    """Return an architecture with gates on its residual blocks."""
    if gates is None:
        return config
    if not isinstance(config, ResidualConfig):
        raise ConfigError(
            "gates go on a residual network that has none yet; start from one "
            "(train_main.py --preset fast, resnet20, ...)"
        )
    return GatedConfig(backbone=config, gates=gates)


def _config_at(start_from: Path, spec: DatasetSpec) -> Config:
    """Return the architecture of a network that fits a data set."""
    config: Config = load_network_facts(start_from).config
    if (config.in_shape, config.num_classes) != (spec.in_shape, spec.num_classes):
        raise CheckpointError(
            f"the network at {start_from} takes {config.in_shape} and knows "
            f"{config.num_classes} classes; {spec.name} has {spec.in_shape} and "
            f"{spec.num_classes}; give a network of this data set"
        )
    return config


def training_config(
    architecture: Config, dataset: str, **options: Any
) -> AnyTrainingConfig:
    """Return how a network is trained on a data set.

    Args:
        architecture: Its architecture.
        dataset: Name of the data set. The samples of those that do not come with the
            package are changed at random, and texts of which words are to be dropped;
            see `change_samples`.
        **options: Fields of `TrainingConfig`, of `ResidualTrainingConfig` for a
            residual network, or of `GateTrainingConfig` for one with gates; None stands
            for what suits network and data.

    Raises:
        ConfigError: An option is out of range, or not of this kind of network.
    """
    spec = dataset_spec(dataset)
    given = {name: value for name, value in options.items() if value is not None}
    given.setdefault("augment", not spec.embedded or bool(given.get("dropped_words")))
    if isinstance(architecture, GatedConfig):
        _check_known(given, GateTrainingConfig)
        return GateTrainingConfig(**{"epochs": _GATE_EPOCHS} | given)
    if isinstance(architecture, ResidualConfig):
        _check_known(given, ResidualTrainingConfig)
        return ResidualTrainingConfig(**{"epochs": _RESIDUAL_EPOCHS} | given)
    of_texts = () if architecture.reads_texts else ("dropped_words",)
    _check_known(given, TrainingConfig, of_texts)
    own = _DEFAULTS.get(spec.preset, {"epochs": 20, "paths": "mixed"})
    if architecture.form == "attention":  # whole solves teach it nothing (measured)
        own = own | {"paths": "portions"}
    return TrainingConfig(**own | given)


def new_trainer(
    architecture: Config,
    config: AnyTrainingConfig,
    main: Split,
    start_from: Path | None = None,
) -> AnyTrainer:
    """Return the training of a network, on the device of the main split.

    Args:
        architecture: Its architecture.
        config: How it is trained.
        main: The main split.
        start_from: Folder of a network of this architecture, gates aside, whose weights
            it begins with; None draws new ones.

    Raises:
        CheckpointError: There is no such network.
        ConfigError: There is none to distil from.
    """
    torch.manual_seed(config.seed)
    if start_from is None:
        if isinstance(config, ResidualTrainingConfig) and config.distillation > 0:
            raise ConfigError(
                "--distillation compares with the network that training starts from; "
                "give its folder as --start-from, or leave it out"
            )
        network = _new_network(architecture, main)
    else:
        network = load_network(start_from, main.labels.device)[0]
        if getattr(network.config, "vocabulary", None) != main.vocabulary:
            raise CheckpointError(
                f"the network at {start_from} knows other words than the data; give "
                "one that was trained on this data set"
            )
    if isinstance(architecture, GatedConfig) and isinstance(network, ResidualNetwork):
        network = GatedNetwork(network, architecture.gates)
    if isinstance(config, GateTrainingConfig):
        return GateTrainer(network, main, config)
    if isinstance(config, ResidualTrainingConfig):
        return ResidualTrainer(network, main, config)
    return MainTrainer(network, main, config)


def _new_network(architecture: Config, main: Split) -> Any:
    """Return a network with random weights, and a stem that fits the data."""
    if isinstance(architecture, MainNetworkConfig) and main.vocabulary is not None:
        architecture = replace(architecture, vocabulary=main.vocabulary)
    network = KINDS[kind_of(architecture)].build(architecture).to(main.labels.device)
    if isinstance(network, ResidualNetwork) and isinstance(network.stem, WhiteningStem):
        network.stem.whiten(main.inputs[:_WHITENED])
    return network


def _check_known(
    given: Mapping[str, Any], config: Any, without: Collection[str] = ()
) -> None:
    """Raise ConfigError for an option that is not of this kind of network."""
    known = {field.name for field in fields(config)}.difference(without)
    for name in sorted(given.keys() - known):
        raise ConfigError(
            f"{flag(name)} is no option of this kind of network; leave it out, or ask "
            "for another kind (--preset, --gates, --iterated)"
        )
