"""Sound folders of networks whose blocks are skipped, and what uses each of them."""

from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.reliability.folders import (
    Kind,
    digest,
    save_measured,
    tiny_split,
    use_network,
)
from dynalay_gym.networks.lcnet.config import GateConfig
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.networks.lcnet.policy import GatesPolicy
from dynalay_gym.networks.lcnet.training import GateTrainer, GateTrainingConfig
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.networks.residual.config import ResidualConfig
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.networks.residual.training import (
    ResidualTrainer,
    ResidualTrainingConfig,
)
from dynalay_gym.predictor.predictor import DynaLayPredictor

_SHAPES: dict[str, Any] = {
    "in_shape": (3, 8, 8),
    "num_classes": 3,
    "widths": (3, 4),
    "depths": (1, 1),
}
CONFIGS = {
    "classic": ResidualConfig(**_SHAPES),
    "fast": ResidualConfig(**_SHAPES, form="fast", shortcut="pool"),
}
GATES = {
    "scale": GateConfig(),
    "binary": GateConfig(kind="binary"),
    "slices": GateConfig(layers=False, slices=True),
    "static": GateConfig(channels=False, per_input=False),
}


@cache
def _residual(form: str) -> ResidualNetwork:
    torch.manual_seed(0)
    return ResidualNetwork(CONFIGS[form]).eval()


def _gated(name: str) -> GatedNetwork:
    torch.manual_seed(1)
    backbone = ResidualNetwork(CONFIGS["classic"])
    backbone.load_state_dict(_residual("classic").state_dict())
    return GatedNetwork(backbone, GATES[name]).eval()


def _save_residual(form: str, folder: Path) -> None:
    save_measured(folder, _residual(form))


def _save_gated(name: str, folder: Path) -> None:
    save_measured(folder, _gated(name))


def _save_predictor(kind: str, folder: Path) -> None:
    network = _residual("fast") if kind == "residual" else _gated("scale")
    predictor = DynaLayPredictor(network, PlanPolicy([1, 2]), penalty=0.1)
    if kind == "gates":
        predictor.policy = GatesPolicy(predictor.observation_layout["gate"].start)
    predictor.save(folder)


def _use_predictor(_: str, folder: Path) -> str:
    return digest(list(DynaLayPredictor.load(folder).infer(tiny_split().inputs)))


def _trainer(name: str) -> ResidualTrainer | GateTrainer:
    if name in GATES:
        config = GateTrainingConfig(epochs=2, batch_size=12)
        return GateTrainer(_gated(name), tiny_split(), config)
    network = ResidualNetwork(CONFIGS[name])
    network.load_state_dict(_residual(name).state_dict())
    options = ResidualTrainingConfig(epochs=2, batch_size=12, skip_rate=0.5)
    return ResidualTrainer(network, tiny_split(), options)


def _save_training(name: str, folder: Path) -> None:
    trainer = _trainer(name)
    trainer.train_epoch(lambda step, loss: None)
    trainer.save(folder)


def _use_training(name: str, folder: Path) -> str:
    trainer = _trainer(name)
    trainer.load(folder)
    while trainer.epoch < trainer.config.epochs:
        trainer.train_epoch(lambda step, loss: None)
    return digest([*trainer.network.state_dict().values()])


SKIPPING_KINDS = {
    "residual-network": Kind(tuple(CONFIGS), _save_residual, use_network),
    "gated-network": Kind(tuple(GATES), _save_gated, use_network),
    "skip-predictor": Kind(
        ("residual", "gated", "gates"), _save_predictor, _use_predictor
    ),
    "residual-training": Kind(("fast",), _save_training, _use_training),
    "gate-training": Kind(("binary",), _save_training, _use_training),
}
