"""What gates do over a data set: how much runs, and whether it depends on the input.

Axes: N samples, B blocks, G gates.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.data.splits import Split
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.utils.ranks import rank_correlation

_NUM_SHUFFLES = 20


@dataclass(frozen=True)
class GateRecord:
    """What a gated network did with each sample.

    Attributes:
        logits: Its answers [N, K].
        shares: Multiply-adds in those of the open network [N].
        layers: Which branches ran, bool [N, B].
        channels: Which inner channels would run if the branch does, bool [N, G]; G is
            0 without gates of channels.
    """

    logits: Tensor
    shares: Tensor
    layers: Tensor
    channels: Tensor


@torch.no_grad()
def record_gates(
    network: GatedNetwork, split: Split, batch_size: int = 256
) -> GateRecord:
    """Run a network, in evaluation mode, on a split; what is shut is masked."""
    assert not network.training
    parts = [_record(network, images) for images in split.inputs.split(batch_size)]
    logits, shares, layers, channels = (
        torch.cat(each) for each in zip(*parts, strict=True)
    )
    return GateRecord(logits, shares, layers, channels)


def _record(network: GatedNetwork, images: Tensor) -> tuple[Tensor, ...]:
    images = images.contiguous(memory_format=torch.channels_last)
    output = network(images, masked=True)
    layers = torch.stack([gate.layer for gate in output.gates], 1) != 0
    channels = [g.channels != 0 for g in output.gates if g.channels is not None]
    none = layers[:, :0]
    shares = output.macs.double() / network.open_macs
    return output.logits, shares, layers, torch.cat([none, *channels], 1)


def summarise(
    record: GateRecord, labels: Tensor, open_losses: Tensor
) -> dict[str, float]:
    """Return the figures that tell whether gates choose, by name.

    Args:
        record: What the network did.
        labels: Classes, int64 [N].
        open_losses: Losses of the open network [N]: how hard each sample is.
    """
    right = record.logits.argmax(1) == labels
    hard_first = rank_correlation(
        record.shares.cpu().numpy(), open_losses.cpu().numpy()
    )
    return {
        "accuracy": float(right.double().mean()),
        "compute": float(record.shares.mean()),
        "compute_std": float(record.shares.std()),
        "dead_layers": always(record.layers, False),
        "pinned_layers": always(record.layers, True),
        "dead_channels": always(record.channels, False),
        "pinned_channels": always(record.channels, True),
        "class_bits": mutual_information(record.layers, labels),
        "hard_first": float(np.nan_to_num(hard_first)),  # 0 if all take as much
    }


@torch.no_grad()
def measure_gates(network: GatedNetwork, split: Split) -> dict[str, float]:
    """Return what gates do over a split; hard is what the open network has wrong.

    Args:
        network: The network; it stays in the mode that it is in.
        split: Samples on its device.
    """
    was_training = network.training
    network.eval()
    record = record_gates(network, split)
    logits = torch.cat([network.backbone(each) for each in split.inputs.split(256)])
    network.train(was_training)
    losses = F.cross_entropy(logits, split.labels, reduction="none")
    return summarise(record, split.labels, losses)


def always(gates: Tensor, value: bool) -> int:
    """Return how many of bool [N, G] gates are the same for all: dead, or pinned."""
    return int((gates == value).all(0).sum())


def mutual_information(gates: Tensor, labels: Tensor) -> float:
    """Return the bits that the pattern of gates tells about the class.

    From few samples any pattern seems to tell something: what it tells, on average,
    about shuffled labels is taken off.

    Args:
        gates: Bool [N, G].
        labels: Classes, int64 [N].
    """
    _, pattern = gates.unique(dim=0, return_inverse=True)
    generator = torch.Generator().manual_seed(0)
    orders = (
        torch.randperm(len(labels), generator=generator, device="cpu")
        for _ in range(_NUM_SHUFFLES)
    )
    chance = sum(_information(pattern, labels[order]) for order in orders)
    return _information(pattern, labels) - chance / _NUM_SHUFFLES


def _information(first: Tensor, second: Tensor) -> float:
    size = int(first.max()) + 1, int(second.max()) + 1
    pairs = torch.zeros(size, dtype=torch.double, device=first.device)
    pairs.index_put_((first, second), pairs.new_ones(()), accumulate=True)
    joint = pairs / len(first)
    independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    nats = torch.xlogy(joint, joint) - torch.xlogy(joint, independent)
    return float(nats.sum()) / math.log(2)
