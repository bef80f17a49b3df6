"""Training of residual networks: short and strong for the fast form, or as published.

Axes: n samples of a batch.

References:
    K. Jordan (2024), 94 % on CIFAR-10 in 3.29 seconds on a single GPU: whitened
    patches, label smoothing, mirror images that alternate.
"""

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.data.splits import Split, augment
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.networks.residual.skipping import mask_block
from dynalay_gym.networks.trainer import NetworkT, Trainer, TrainerConfig
from dynalay_gym.utils.ranges import BatchSize, LearningRate, NotNegative, Share

_PEAK_AT = 0.25  # share of the training after which the learning rate falls
_LARGEST_SHIFT = 4
ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class ResidualTrainingConfig(TrainerConfig):
    """How a residual network is trained: see `TrainerConfig` for the other fields.

    Each block that can be iterated is iterated in a random half of the steps.

    Attributes:
        momentum: Of Nesterov's SGD, in [0, 1).
        label_smoothing: Share of the target that all classes get alike, in [0, 1].
        skip_rate: Largest chance that a block is left out for a sample, in [0, 1]. In
            each step it is drawn evenly between 0 and this; so that whatever is skipped
            later, the answer is as good as it can be.
        distillation: Share of the loss that compares with the whole network as it was
            at the start, in [0, 1]; for one that is trained already.
    """

    batch_size: BatchSize = 256
    learning_rate: LearningRate = 0.3
    weight_decay: NotNegative = 5e-4
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    label_smoothing: Share = 0.1
    skip_rate: Share = 0.0
    distillation: Share = 0.0


class SkippingTrainer(Trainer[NetworkT, ResidualTrainingConfig]):
    """Nesterov SGD on cross-entropy; the learning rate rises and falls linearly.

    Args:
        network: Network with blocks that can be skipped, on its device. With
            distillation its answers are taught: give the same one again to resume.
        data: The main split, on the same device.
        config: Options.

    Raises:
        ConfigError: A batch is larger than the split, or what is no image is to be
            shifted and mirrored.
    """

    def __init__(
        self, network: NetworkT, data: Split, config: ResidualTrainingConfig
    ) -> None:
        self._is_images = data.inputs.dim() == 4
        if self._is_images:
            network.to(memory_format=torch.channels_last)
        elif config.augment:
            raise ConfigError(
                f"augment=True shifts and mirrors images, not inputs of shape "
                f"{tuple(data.inputs.shape[1:])}; leave it out"
            )
        self._teacher = open_copy(network) if config.distillation > 0 else None
        optimizer = torch.optim.SGD(
            [weight for weight in network.parameters() if weight.requires_grad],
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.momentum > 0,
        )
        super().__init__(network, data, config, optimizer)
        source = torch.Generator().manual_seed(config.seed)
        self._mirrored = draw_uniform(len(data), source) < 0.5

    def augment(self, images: Tensor, rows: Tensor) -> Tensor:
        """Shift images; every other epoch shows a sample's mirror image."""
        mirrored = self._mirrored.to(rows.device)[rows] ^ bool(self.epoch % 2)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        return augment(images, self.generator, flip=False, shift=_LARGEST_SHIFT)

    def loss(self, images: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of a batch; see `Trainer.loss`."""
        if self._is_images:
            images = images.contiguous(memory_format=torch.channels_last)
        logits = self._answer(images)
        right = F.cross_entropy(
            logits, labels, label_smoothing=self.config.label_smoothing
        )
        if self._teacher is None:
            return right
        with torch.no_grad():
            taught = self._teacher(images).float()
        return right.lerp(divergence(logits, taught), self.config.distillation)

    @abstractmethod
    def _answer(self, images: Tensor) -> Tensor:
        """Return logits [n, K] with some blocks left out."""

    def _draw_rate(self) -> float:
        """Return the chance of this step that a block is left out for a sample."""
        rate = self.config.skip_rate
        return rate * float(draw_uniform(1, self.generator)) if rate > 0 else rate

    def _draw_kept(self, num: int, rate: float) -> Tensor:
        """Return whether a block runs for each sample of this process, bool [n]."""
        whole = num * self.processes.size
        drawn = draw_uniform(whole, self.generator)
        return drawn[self.processes.part(whole)] >= rate

    def rate(self, progress: float) -> float:
        """Return the share of the peak learning rate: a triangle."""
        return min(progress / _PEAK_AT, (1 - progress) / (1 - _PEAK_AT))


class ResidualTrainer(SkippingTrainer[ResidualNetwork]):
    """Trains a residual network, some of whose blocks may be iterated."""

    kind = "residual-training"

    def _answer(self, images: Tensor) -> Tensor:
        """Return logits [n, K] with some blocks left out, and some iterated."""
        x, rate = self.network.stem(images), self._draw_rate()
        iterated = draw_iterated(self.network.config.iterated, self.generator)
        for number, block in enumerate(self.network.blocks, start=1):
            iterates = number in iterated
            if rate > 0:
                kept = self._draw_kept(len(x), rate)
                x = mask_block(block, x, kept.to(x), iterates=iterates)
            else:
                x = block(x, iterates)
        return self.network.answer(x).float()


def open_copy(network: ModuleT) -> ModuleT:
    """Return a copy of a network that answers and does not learn."""
    return copy.deepcopy(network).eval().requires_grad_(False)


def divergence(logits: Tensor, taught: Tensor) -> Tensor:
    """Return the mean Kullback-Leibler divergence from a teacher's answers [n, K]."""
    return F.kl_div(
        logits.log_softmax(1),
        taught.log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )


def draw_uniform(num: int, generator: torch.Generator) -> Tensor:
    """Return numbers in [0, 1), float32 [num], whatever PyTorch's default type is."""
    device = generator.device
    return torch.rand(num, generator=generator, dtype=torch.float32, device=device)


def draw_iterated(blocks: Sequence[int], generator: torch.Generator) -> list[int]:
    """Return each of some blocks with a chance of one half; draws nothing for none.

    A whole batch does the same, since a normalisation learns by the batch. Trained
    like this, answers are good whether a block is run or iterated.
    """
    if not blocks:
        return []
    drawn = draw_uniform(len(blocks), generator)
    return [block for block, at in zip(blocks, drawn, strict=True) if at < 0.5]
