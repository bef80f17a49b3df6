"""The parts of a residual or gated network: stem, blocks, their shortcuts, head.

A whole classifier runs from these alone: the stem; of every block, bottom up, either
the block or its shortcut; the head. Gates are parts, too.

Axes: n images [n, C, H, W], B blocks, K classes, D features of an observation.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.fixed_point.batch_invariant import conv2d_size
from dynalay_gym.networks.lcnet.gates import find_gate
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.networks.residual.blocks import ResidualBlock
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.networks.residual.skipping import mask_block
from dynalay_gym.predictor.parts import FirstObservation, Part, example
from dynalay_gym.sessions.features import skip_features
from dynalay_gym.sessions.skip.decisions import ACTION_NAMES

_BRANCH = ("conv1", "norm1", "conv2", "norm2")


class Shortcut(nn.Module):
    """A block without its branch.

    Args:
        block: The block; its shortcut is copied, so that no file holds the branch.
    """

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.block = copy.deepcopy(block)
        for part in _BRANCH:
            delattr(self.block, part)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, C_in, H, W] to [n, C_out, H', W']."""
        return self.block.merge(self.block.shortcut(x))


class GatedBlock(nn.Module):
    """A whole block, multiplied by its gates.

    Args:
        block: The block, frozen.
    """

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.block = block

    def forward(
        self, x: Tensor, layer: Tensor, channels: Tensor | None = None
    ) -> Tensor:
        """Map [n, C_in, H, W], with the gates that `Gates` returns."""
        return mask_block(self.block, x, layer, channels)


class Gates(nn.Module):
    """The gates of one block.

    Args:
        network: The network, frozen.
        level: Number of the block, from 0.
    """

    def __init__(self, network: GatedNetwork, level: int) -> None:
        super().__init__()
        self.gating = network.gating
        self.layer_scores, self.channel_scores, self.sliced_channels = (
            network.gate_parts(level)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return factors of the branch [n] and of inner channels, if they have gates.

        Args:
            x: What enters the block [n, C_in, H, W].
        """
        scores = self.layer_scores, self.channel_scores, self.sliced_channels
        gate = find_gate(x, self.gating, *scores)
        return (gate.layer,) if gate.channels is None else (gate.layer, gate.channels)


class SkippedPass(nn.Module):
    """Stem, shortcuts, head: logits [n, K] and the first observation [n, D].

    Args:
        network: The network, frozen.
        penalty_unit: Penalty that is shown as 1/2.
    """

    def __init__(
        self, network: ResidualNetwork | GatedNetwork, penalty_unit: float = 1.0
    ) -> None:
        super().__init__()
        blocks = network.blocks
        self.stem, self.head = network.stem, network.head
        self.shortcuts = nn.Sequential(*map(Shortcut, blocks))
        self.gates = Gates(network, 0) if isinstance(network, GatedNetwork) else None
        self.widest = max(blocks[-1].out_channels, *(b.in_channels for b in blocks))
        self.observe = FirstObservation(len(ACTION_NAMES), penalty_unit)
        self.register_buffer("next_block", torch.eye(len(blocks))[:1])

    def forward(self, images: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
        """Run over images [n, C, H, W] with penalties [n]."""
        x = self.stem(images)
        logits = self.head(self.shortcuts(x))
        pooled = F.pad(x.mean((2, 3)), (0, self.widest - x.shape[1]))
        ran = torch.zeros_like(penalty)[:, None].expand(-1, len(self.shortcuts))
        next_block = ran + self.get_buffer("next_block")
        seen = [skip_features(pooled, logits, next_block, ran)]
        if self.gates is not None:
            seen.append(self.gates(x)[0][:, None])
        return logits, self.observe(torch.cat(seen, 1), penalty)


def skip_parts(
    network: ResidualNetwork | GatedNetwork, penalty_unit: float
) -> list[Part]:
    """Return the parts of a residual or gated network.

    Args:
        network: The network, frozen, on the CPU.
        penalty_unit: Penalty that is shown as 1/2.
    """
    images = {"images": example(*network.config.in_shape)}
    outputs = ("logits", "observation")
    plain = SkippedPass(network, penalty_unit)
    parts = [
        Part("plain", plain, {**images, "penalty": example()}, outputs),
        Part("stem", plain.stem, images, ("x",)),
    ]
    for level, size in enumerate(network.block_sizes):
        parts += _block_parts(network, level, size)
    block, size = network.blocks[-1], network.block_sizes[-1]
    top = conv2d_size(size, block.stride)
    inputs = {"x": example(block.out_channels, top, top)}
    return [*parts, Part("head", plain.head, inputs, ("logits",))]


def _block_parts(
    network: ResidualNetwork | GatedNetwork, level: int, size: int
) -> Iterator[Part]:
    """Yield the parts of the block `level` (from 0), for maps of a side."""
    block, number = network.blocks[level], level + 1
    inputs = {"x": example(block.in_channels, size, size)}
    yield Part(f"shortcut-{number}", Shortcut(block), inputs, ("y",))
    if not isinstance(network, GatedNetwork):
        yield Part(f"block-{number}", block, inputs, ("y",))
        return
    gates = {"layer": example()}
    if network.gate_config.channels:
        gates["channels"] = example(block.inner_channels)
    yield Part(f"gates-{number}", Gates(network, level), inputs, tuple(gates))
    yield Part(f"block-{number}", GatedBlock(block), {**inputs, **gates}, ("y",))
