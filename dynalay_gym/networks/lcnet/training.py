"""Training of gates, together with the network that they are on.

It starts from a trained network with open gates. A target for compute falls from all
of it; only the batch's mean is held to it, so that rows are free.

Axes: n samples of a batch, K classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.data.splits import Split, augment
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.lcnet.config import GateConfig
from dynalay_gym.networks.lcnet.gates import BinaryGate
from dynalay_gym.networks.lcnet.losses import lasso, miss_target, row_losses
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.networks.lcnet.optimizer import ScaledSGD
from dynalay_gym.networks.lcnet.reinforce import find_advantages, reinforce
from dynalay_gym.networks.residual.training import (
    divergence,
    draw_iterated,
    open_copy,
)
from dynalay_gym.networks.trainer import Trainer, TrainerConfig
from dynalay_gym.utils.processes import Processes
from dynalay_gym.utils.ranges import BatchSize, LearningRate, NotNegative, Share

_LARGEST_SHIFT = 2
_PEAK_AT = 0.1  # share of the training after which the learning rate falls
_RAMP = 0.4  # share of the training in which the target falls
_QUIET_AT = 0.8  # share of the training after which gates are chosen without noise
_SURENESS = 4  # the surer the open network, the easier the input
_LEAST = 1e-9  # so that not all are 0 where the open network is sure, and wrong
_SQUARE_DECAY = 0.99  # of their gradients' mean squares, see `ScaledSGD`


@dataclass(frozen=True, kw_only=True)
class GateTrainingConfig(TrainerConfig):
    """How gates are trained: see `TrainerConfig` for the other fields.

    Attributes:
        gate_learning_rate: Peak of the schedule for gates, whose gradients are scaled
            to about 1.
        gate_gradient: How binary gates learn. ``straight-through``: from the loss, as
            if a gate were its sigmoid. ``policy-gradient``: they are drawn, and what
            lowered a row's loss and compute becomes more likely (REINFORCE), while the
            network learns from the loss.
        momentum: Of Nesterov's SGD, in [0, 1).
        target: Mean share of the open network's multiply-adds.
        pressure: Weight of the squared distance to it, >= 0.
        by_ease: Press a row to save by the probability that the open network gives to
            its class, so that harder ones keep more; all alike otherwise.
        distillation: Share of the loss that compares with the open network, in [0, 1];
            the rest is cross-entropy.
        layer_lasso: Weight of the mean layer gate, >= 0.
        channel_lasso: Weight of the mean channel gate, >= 0.
    """

    batch_size: BatchSize = 256
    learning_rate: LearningRate = 0.1
    weight_decay: NotNegative = 5e-4
    augment: bool = True
    gate_learning_rate: LearningRate = 3e-3
    gate_gradient: Literal["straight-through", "policy-gradient"] = "straight-through"
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    target: Share = 0.5
    pressure: NotNegative = 50.0
    by_ease: bool = True
    distillation: Share = 0.5
    layer_lasso: NotNegative = 0.0
    channel_lasso: NotNegative = 0.0


class GateTrainer(Trainer[GatedNetwork, GateTrainingConfig]):
    """Nesterov SGD on network and gates; see `ScaledSGD`.

    Args:
        network: On its device, with the weights of a trained backbone, whose answers
            are taught: give the same ones again to resume.
        data: The main split, on the same device.
        config: Options.

    Raises:
        ConfigError: A batch is larger than the split, or the policy gradient cannot
            train these gates.
    """

    kind = "gate-training"

    def __init__(
        self, network: GatedNetwork, data: Split, config: GateTrainingConfig
    ) -> None:
        if config.gate_gradient == "policy-gradient":
            _check_drawn(network.gate_config, config)
        network.to(memory_format=torch.channels_last)
        self._teacher = open_copy(network.backbone)
        scores = [*network.layer_scores, *network.channel_scores]
        gates = [weight for each in scores for weight in each.parameters()]
        others = [w for w in network.backbone.parameters() if w.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": others},
            {
                "params": gates,
                "lr": config.gate_learning_rate,
                "weight_decay": 0.0,
                "square_decay": _SQUARE_DECAY,
            },
        ]
        optimizer = ScaledSGD(
            groups,
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.momentum > 0,
        )
        super().__init__(network, data, config, optimizer)

    @property
    def target(self) -> float:
        """Share of compute that is asked for at this point of the training."""
        return 1 - (1 - self.config.target) * min(self.progress / _RAMP, 1)

    def join(self, processes: Processes) -> None:
        """Raise ConfigError if there are others: the loss is one of a whole batch."""
        if processes.size > 1:
            raise ConfigError(
                "gates are trained by one process, since it is a whole batch whose "
                "compute has a target; start it without torchrun"
            )

    def augment(self, images: Tensor, rows: Tensor) -> Tensor:
        """Shift and mirror images at random."""
        return augment(images, self.generator, shift=_LARGEST_SHIFT)

    def loss(self, images: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of a batch; see `Trainer.loss`."""
        network, config = self.network, self.config
        if isinstance(network.gating, BinaryGate):
            network.gating.noise = max(0.0, 1 - self.progress / _QUIET_AT)
            network.gating.has_gradient = config.gate_gradient == "straight-through"
        images = images.contiguous(memory_format=torch.channels_last)
        iterated = draw_iterated(network.backbone.config.iterated, self.generator)
        with self._own_noise():
            output = network(images, iterated)
        with torch.no_grad():
            open_logits = self._teacher(images).float()
        logits, taught = output.logits.float(), config.distillation
        right = (1 - taught) * F.cross_entropy(logits, labels)
        alike = taught * divergence(logits, open_logits)
        chances = open_logits.softmax(1).gather(1, labels[:, None])[:, 0]
        ease = chances.clamp(_LEAST) ** _SURENESS if config.by_ease else None
        missed = miss_target(output.macs, network.open_macs, self.target, ease)
        sparse = lasso(output, config.layer_lasso, config.channel_lasso)
        loss = right + alike + config.pressure * missed + sparse
        if config.gate_gradient == "straight-through":
            return loss
        losses = row_losses(logits, labels, open_logits, taught)
        shares = output.macs / network.open_macs
        pressed = self.target, config.pressure, ease
        return loss + reinforce(output, find_advantages(losses, shares, *pressed))

    def rate(self, progress: float) -> float:
        """Return the share of the peak learning rate: a short rise, a linear fall."""
        return min(progress / _PEAK_AT, (1 - progress) / (1 - _PEAK_AT))

    @contextmanager
    def _own_noise(self) -> Iterator[None]:
        """Draw the gates' noise as the trainer's random state has it."""
        seed = int(torch.randint(2**62, (), generator=self.generator, device="cpu"))
        devices = [self.data.inputs.device] if self.data.inputs.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            yield


def _check_drawn(gates: GateConfig, config: GateTrainingConfig) -> None:
    """Raise ConfigError if the policy gradient cannot train some gates."""
    if gates.kind != "binary" or gates.slices:
        raise ConfigError(
            "the policy gradient trains binary gates without slices; ask for them "
            "(--gate-kind binary), or leave --gate-gradient out"
        )
    if config.layer_lasso or config.channel_lasso:
        raise ConfigError(
            "with the policy gradient gates have no lasso; leave layer_lasso and "
            "channel_lasso 0, and set target and pressure"
        )
