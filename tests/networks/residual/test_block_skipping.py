"""Blocks of which each row runs its own part, against the whole block and masks."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from dynalay_gym.networks.residual.blocks import ResidualBlock
from dynalay_gym.networks.residual.skipping import mask_block, run_block
from tests.helpers.flops import FlopCount

SHORTCUTS = ("pad", "project", "pool")
SHAPES = ((8, 8, 1), (8, 8, 2), (6, 10, 1), (6, 10, 2))  # channels in, out, stride
BLOCKS = [
    pytest.param(form, shortcut, shape, id=f"{form}-{shortcut}-{shape}")
    for form, shortcut, shape in itertools.product(
        ("classic", "fast"), SHORTCUTS, SHAPES
    )
]
every_block = pytest.mark.parametrize(("form", "shortcut", "shape"), BLOCKS)


def make_block(form, shortcut, shape) -> ResidualBlock:
    torch.manual_seed(0)
    block = ResidualBlock(*shape, form, shortcut)
    for part in block.modules():
        if isinstance(part, nn.BatchNorm2d):  # unlike in a new network, all matter
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return block.eval()


def inputs(num: int, channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num, channels, 9, 9, generator=generator)


def gates(num: int, channels: int) -> tuple[Tensor, Tensor]:
    """Scales and channel gates of which about half are 0, and some rows alike."""
    generator = torch.Generator().manual_seed(2)
    scale = torch.rand(num, generator=generator)
    gate = torch.rand(num, channels, generator=generator)
    scale, gate = scale * (scale > 0.4), gate * (gate > 0.5)
    gate[1] = gate[0]
    gate[2, 4:] = 0  # the first ones: read in place
    gate[2, :4] = 0.5
    gate[3] = 0
    scale[:4] = torch.tensor([0.3, 1.0, 0.5, 0.7])
    scale[4] = 0
    return scale, gate


def each_row_alone(block, x, scale, gate) -> Iterator[tuple[Tensor, Tensor]]:
    for row in range(len(x)):
        one = slice(row, row + 1)
        own = None if gate is None else gate[one]
        yield run_block(block, x[one], scale[one], own)


@every_block
@torch.no_grad()
def test_open_gates_are_the_block_to_the_bit(form, shortcut, shape) -> None:
    block, x = make_block(form, shortcut, shape), inputs(7, shape[0])
    ones = torch.ones(7, shape[1])
    for num in (1, 7):
        for channels in (None, ones[:num]):
            out, (macs, _, _) = run_block(block, x[:num], torch.ones(num), channels)
            assert torch.equal(out, block(x[:num]))
            counted = block.macs(9)
            assert macs.tolist() == [counted.shortcut + counted.branch] * num


@every_block
@torch.no_grad()
def test_a_closed_gate_leaves_the_shortcut_to_the_bit(form, shortcut, shape) -> None:
    block, x = make_block(form, shortcut, shape), inputs(5, shape[0])
    for part in (block.conv1, block.conv2):  # what runs them sees it
        part.weight.fill_(torch.nan)
    out, (macs, _, _) = run_block(block, x, torch.zeros(5), torch.ones(5, shape[1]))
    assert torch.equal(out, block.merge(block.shortcut(x)))
    assert macs.tolist() == [block.macs(9).shortcut] * 5
    scale = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])
    some, _ = run_block(block, x, scale, None)
    assert torch.equal(some[::2], out[::2]) and some[1::2].isnan().any()


@every_block
@pytest.mark.parametrize("has_channels", [False, True])
@torch.no_grad()
def test_gathered_is_masked(form, shortcut, shape, has_channels) -> None:
    block, x = make_block(form, shortcut, shape).double(), inputs(12, shape[0]).double()
    scale, gate = (each.double() for each in gates(12, shape[1]))
    used = gate if has_channels else None
    out, (macs, _, _) = run_block(block, x, scale, used)
    torch.testing.assert_close(
        out, mask_block(block, x, scale, used), rtol=0, atol=1e-12
    )
    open_channels = (gate != 0).sum(1) if has_channels else shape[1]
    counted = block.macs(9)
    expected = counted.shortcut + (scale != 0) * open_channels * counted.channel
    assert torch.equal(macs, expected)
    if not has_channels:  # the same kernels, bit for bit; PyTorch's double GELU is not
        block, x, scale = block.float(), x.float(), scale.float()
        out, _ = run_block(block, x, scale)
        assert torch.equal(out, mask_block(block, x, scale))


@every_block
@pytest.mark.parametrize("has_channels", [False, True])
@pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"]
)
@torch.no_grad()
def test_a_row_does_not_depend_on_those_beside_it(
    form, shortcut, shape, has_channels, layout
) -> None:
    block = make_block(form, shortcut, shape)
    x = inputs(12, shape[0]).contiguous(memory_format=layout)
    scale, gate = gates(12, shape[1])
    used = gate if has_channels else None
    out, (macs, _, _) = run_block(block, x, scale, used)
    assert out.stride() == block(x).stride()
    for row, (alone, cost) in enumerate(each_row_alone(block, x, scale, used)):
        assert torch.equal(alone[0], out[row]), row
        assert cost[0] == macs[row]
    rows = torch.tensor([11, 3, 5, 0])
    some, _ = run_block(
        block, x[rows], scale[rows], None if used is None else used[rows]
    )
    assert torch.equal(some, out[rows])


@every_block
@torch.no_grad()
def test_what_is_counted_is_what_runs(form, shortcut, shape) -> None:
    block, x = make_block(form, shortcut, shape), inputs(12, shape[0])
    scale, gate = gates(12, shape[1])
    with FlopCount() as ran:
        _, (macs, _, _) = run_block(block, x, scale, gate)
    assert ran.total() == 2 * macs.sum()


def test_the_gates_learn_through_masks() -> None:
    block = make_block("fast", "pool", (6, 10, 2)).double()
    x = inputs(3, 6).double()
    scale, gate = (
        each.double().requires_grad_()
        for each in (torch.tensor([0.0, 0.4, 1.0]), torch.rand(3, 10))
    )
    assert torch.autograd.gradcheck(
        lambda s, c: mask_block(block, x, s, c).mean((2, 3)), (scale, gate)
    )


@torch.no_grad()
def test_no_rows() -> None:
    block = make_block("classic", "pad", (6, 10, 2))
    out, (macs, _, _) = run_block(block, inputs(0, 6), torch.ones(0), torch.ones(0, 10))
    assert out.shape == (0, 10, 5, 5) and macs.shape == (0,)


@every_block
@pytest.mark.parametrize("has_channels", [False, True])
@torch.no_grad()
def test_autocast(form, shortcut, shape, has_channels) -> None:
    block, x = make_block(form, shortcut, shape), inputs(12, shape[0])
    scale, gate = gates(12, shape[1])
    used = gate if has_channels else None
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = run_block(block, x, scale, used)
        masked = mask_block(block, x, scale, used)
    assert out.dtype == masked.dtype
    torch.testing.assert_close(
        out.float(), mask_block(block, x, scale, used), rtol=0.05, atol=0.05
    )
