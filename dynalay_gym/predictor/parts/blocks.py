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
from dynalay_gym.predictor.parts.decisions import Observe, PlainPass
from dynalay_gym.predictor.parts.part import Part, example, integers
from dynalay_gym.sessions.features import skip_features
from dynalay_gym.sessions.skip.decisions import ACTION_NAMES, RUN

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


class Look(nn.Module):
    """What is known once some blocks are decided on: `results`.

    Args:
        network: The network, frozen.
        position: Blocks that are decided on.
    """

    results = ("ran", "logits", "features", "useful")

    def __init__(self, network: ResidualNetwork | GatedNetwork, position: int) -> None:
        super().__init__()
        blocks, self.head = network.blocks, network.head
        self.position, self.is_top = position, position == len(blocks)
        self.is_gated, self.gates = isinstance(network, GatedNetwork), None
        if isinstance(network, GatedNetwork) and not self.is_top:
            self.gates = Gates(network, position)
        self.shortcuts = nn.Sequential(*map(Shortcut, blocks[position:]))
        self.widest = max(blocks[-1].out_channels, *(b.in_channels for b in blocks))
        places = torch.eye(len(blocks) + 1)[:, :-1]
        self.register_buffer("decided", places[position - 1 : position])
        self.register_buffer("next_block", places[position : position + 1])
        num_useful = 1 if self.is_top else len(ACTION_NAMES)
        self.register_buffer("can", torch.arange(len(ACTION_NAMES)) < num_useful)

    def forward(self, x: Tensor, action: Tensor, ran: Tensor) -> tuple[Tensor, ...]:
        """Return the results, in order.

        Args:
            x: What the blocks have made [n, C, H, W].
            action: What the last one was decided to do, int64 [n].
            ran: Which of those below it have run, 0 or 1 [n, B].
        """
        if self.position > 0:
            ran = ran + (action == RUN)[:, None] * self.get_buffer("decided")
        logits = self.head(self.shortcuts(x))
        pooled = F.pad(x.mean((2, 3)), (0, self.widest - x.shape[1]))
        next_block = self.get_buffer("next_block") + torch.zeros_like(ran)
        seen = [skip_features(pooled, logits, next_block, ran)]
        if self.is_gated:
            none = torch.zeros_like(ran[:, 0])
            seen.append((self.gates(x)[0] if self.gates else none)[:, None])
        useful = self.get_buffer("can").expand(x.shape[0], -1)
        return ran, logits, torch.cat(seen, 1), useful.clone()


class Begin(nn.Module):
    """The shortcuts alone: all that is known of images before the first decision.

    Args:
        network: The network, frozen.
    """

    results = ("x", *Look.results)

    def __init__(self, network: ResidualNetwork | GatedNetwork) -> None:
        super().__init__()
        self.stem, self.look = network.stem, Look(network, 0)
        self.num_blocks = len(network.blocks)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the results for images [n, C, H, W], in order."""
        x, none = self.stem(images), torch.zeros(images.shape[0], self.num_blocks)
        return x, *self.look(x, none[:, 0], none)


def skip_parts(network: ResidualNetwork | GatedNetwork, observe: Observe) -> list[Part]:
    """Return the parts of a residual or gated network.

    Args:
        network: The network, frozen, on the CPU.
        observe: What a policy sees.
    """
    images, begin = {"images": example(*network.config.in_shape)}, Begin(network)
    plain = PlainPass(begin, begin.results, observe)
    parts = [
        Part("plain", plain, {**images, "penalty": example()}, PlainPass.results),
        Part("begin", begin, images, begin.results),
        Part("stem", network.stem, images, ("x",)),
    ]
    for level, size in enumerate(network.block_sizes):
        parts += _block_parts(network, level, size)
    top = {"x": parts[-1].inputs["x"]}  # what is seen behind the last block
    return [*parts, Part("head", network.head, top, ("logits",))]


def _block_parts(
    network: ResidualNetwork | GatedNetwork, level: int, size: int
) -> Iterator[Part]:
    """Yield the parts of the block `level` (from 0), for maps of a side."""
    block, number = network.blocks[level], level + 1
    inputs = {"x": example(block.in_channels, size, size)}
    yield Part(f"shortcut-{number}", Shortcut(block), inputs, ("x",))
    if isinstance(network, GatedNetwork):
        gates = {"layer": example()}
        if network.gate_config.channels:
            gates["channels"] = example(block.inner_channels)
        yield Part(f"gates-{number}", Gates(network, level), inputs, tuple(gates))
        yield Part(f"block-{number}", GatedBlock(block), {**inputs, **gates}, ("x",))
    else:
        yield Part(f"block-{number}", block, inputs, ("x",))
    side, blocks = conv2d_size(size, block.stride), len(network.blocks)
    known = {
        "x": example(block.out_channels, side, side),
        "action": integers(),
        "ran": example(blocks),
    }
    yield Part(f"look-{number}", Look(network, number), known, Look.results)
