"""A residual network whose blocks and inner channels run where gates are open.

Axes: n samples, B blocks, C channels, K classes.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.lcnet.config import GateConfig, GatedConfig
from dynalay_gym.networks.lcnet.gates import (
    BinaryGate,
    FixedScores,
    Gate,
    GateScores,
    ScaleGate,
    find_gate,
)
from dynalay_gym.networks.residual.blocks import ResidualBlock
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.networks.residual.skipping import count_macs, mask_block, run_block
from dynalay_gym.utils.device import torch_defaults

_PARTS = ("stem", "blocks", "answer", "block_sizes")


@dataclass(frozen=True)
class GatedOutput:
    """What a gated network returns.

    Attributes:
        logits: Answers [n, K].
        gates: Of each block, bottom up.
        macs: Multiply-adds of each row [n], the gates' own included: int64 in
            evaluation; in training float, with the gradient of what is open, and
            without iterations.
    """

    logits: Tensor
    gates: tuple[Gate, ...]
    macs: Tensor


class GatedNetwork(nn.Module):
    """A residual network with gates, which start open.

    In training everything is computed and multiplied by the gates; in evaluation what
    is shut does not run. With all gates 1 it is the backbone, bit for bit.

    Args:
        backbone: A network of residual blocks; it is used, not copied.
        config: Which gates it gets.

    Raises:
        ConfigError: The backbone has no residual blocks.
    """

    @torch_defaults(device=None)
    def __init__(self, backbone: ResidualNetwork, config: GateConfig) -> None:
        super().__init__()
        if any(not hasattr(backbone, part) for part in _PARTS):
            raise ConfigError(
                f"{type(backbone).__name__} has no residual blocks to put gates on; "
                "give a ResidualNetwork (train_main.py --preset fast, resnet20, ...)"
            )
        self.backbone, self.gate_config = backbone, config
        self.gating = ScaleGate() if config.kind == "scale" else BinaryGate()
        sizes = [(block.in_channels, block.inner_channels) for block in self.blocks]
        first = self.gating.first_score
        make_scores = GateScores if config.per_input else FixedScores
        self.layer_scores = nn.ModuleList(
            make_scores(below, 1, first) for below, _ in sizes if config.layers
        )
        self.channel_scores = nn.ModuleList(
            make_scores(below, 1 if config.slices else inner, first)
            for below, inner in sizes
            if config.channels
        )
        self.to(backbone.head.weight.device)

    @classmethod
    def from_config(cls, config: GatedConfig) -> "GatedNetwork":
        """Return a network of an architecture, with random weights."""
        return cls(ResidualNetwork(config.backbone), config.gates)

    @property
    def config(self) -> GatedConfig:
        """Architecture."""
        return GatedConfig(backbone=self.backbone.config, gates=self.gate_config)

    def forward(
        self,
        images: Tensor,
        iterated: Collection[int] = (),
        masked: bool = False,
    ) -> GatedOutput:
        """Answer images [n, C, H, W].

        Args:
            images: Images.
            iterated: Blocks that are iterated; see `ResidualNetwork.forward`.
            masked: In evaluation, too, run everything and multiply by the gates. The
                answers are the same but for rounding, and multiply-adds are still those
                of what is open, without iterations. It is faster where rows of a large
                batch leave out different channels, above all on a GPU.

        Raises:
            ConfigError: A block cannot be iterated.
        """
        self.backbone.config.check_iterated(iterated)
        x, gates = self.stem(images), []
        fixed = self.stem_macs + self.head_macs
        macs = torch.full((len(images),), fixed, device=x.device)
        for level in range(len(self.blocks)):
            gates.append(self.gate(level, x))
            iterates = level + 1 in iterated
            x, taken = self.run_block(level, x, gates[-1], iterates, masked)
            macs = macs + taken + self.gate_macs(level)
        return GatedOutput(self.answer(x), tuple(gates), macs)

    def gate(self, level: int, x: Tensor) -> Gate:
        """Return the gates of a block.

        Args:
            level: Number of the block, from 0.
            x: What enters it [n, C_in, H, W].
        """
        return find_gate(x, self.gating, *self.gate_parts(level))

    def gate_parts(
        self, level: int
    ) -> tuple[nn.Module | None, nn.Module | None, int | None]:
        """Return what finds the gates of a block, as `find_gate` takes it."""
        config, channels = self.gate_config, self.blocks[level].inner_channels
        return (
            self.layer_scores[level] if config.layers else None,
            self.channel_scores[level] if config.channels else None,
            channels if config.slices else None,
        )

    def gate_macs(self, level: int) -> int:
        """Return the multiply-adds of a block's gates, for one sample."""
        lists = self.layer_scores, self.channel_scores
        return sum(
            cast(GateScores | FixedScores, each[level]).macs
            for each in lists
            if len(each)
        )

    def run_block(
        self,
        level: int,
        x: Tensor,
        gate: Gate,
        iterates: bool = False,
        masked: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Run what the gates leave of a block; return its output and MACs [n].

        Args:
            level: Number of the block, from 0.
            x: What enters it [n, C_in, H, W].
            gate: Its gates.
            iterates: Whether its inner activations are iterated.
            masked: Whether everything runs; see `forward`.
        """
        block, gates = self.blocks[level], (gate.layer, gate.channels)
        if not (self.training or masked):
            out, taken = run_block(block, x, *gates, iterates)
            return out, taken[0]
        out = mask_block(block, x, *gates, iterates)
        if not self.training:
            return out, count_macs(block, x, *gates)
        cost = block.macs(x.shape[-1])
        num: Tensor | int = cost.num_channels
        if gate.channels is not None:
            num = is_open(gate.channels).sum(1)
        return out, cost.shortcut + is_open(gate.layer) * num * cost.channel

    def answer(self, top: Tensor) -> Tensor:
        """Return logits [n, K] of the last block's output [n, C, H, W]."""
        return self.backbone.answer(top)

    @property
    def stem(self) -> nn.Module:
        """What comes below the blocks."""
        return self.backbone.stem

    @property
    def head(self) -> nn.Module:
        """What comes above the blocks."""
        return self.backbone.head

    @property
    def blocks(self) -> Sequence[ResidualBlock]:
        """The residual blocks, bottom up."""
        return self.backbone.blocks

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Side of the maps that enter each block."""
        return self.backbone.block_sizes

    @property
    def stem_macs(self) -> int:
        """Multiply-adds of the stem for one image."""
        return self.backbone.stem_macs

    @property
    def head_macs(self) -> int:
        """Multiply-adds of the head for one image."""
        return self.backbone.head_macs

    @property
    def open_macs(self) -> int:
        """Multiply-adds of the backbone, without gates, for one image."""
        return self.backbone.macs


def is_open(gates: Tensor) -> Tensor:
    """Return 1 where a gate is above 0 and 0 elsewhere, with the gradient of the gate.

    Costs jump at 0, and a gate that is nearly shut costs all: the straight-through
    gradient lets a loss speak about what really runs.
    """
    return gates + ((gates > 0).to(gates) - gates).detach()
