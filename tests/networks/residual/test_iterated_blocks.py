"""Blocks with a fixed point inside: the plain block, or the solution, or part of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.flops import FlopCount
from helpers.residual import random_residual, tiny_residual_config
from torch import Tensor

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.progress import SolverStatus
from dynalay_gym.networks.checkpoint import load_network, save_network
from dynalay_gym.networks.lcnet.config import GateConfig
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.networks.residual.blocks import ResidualBlock
from dynalay_gym.networks.residual.config import ResidualConfig
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.networks.residual.skipping import mask_block, run_block

FORMS = pytest.mark.parametrize("form", ["pad", "fast"])
EXACT: dict[str, Any] = {"rtol": 1e-12, "max_steps": 500}


def make_block(form: str, **solver: Any) -> tuple[ResidualBlock, Tensor]:
    """The last block of a network, which halves the sides, and inputs of it."""
    block = random_residual(form, iterated=(3,), **solver).blocks[2]
    generator = torch.Generator().manual_seed(2)
    size = 8 if form == "pad" else 4
    return block, torch.randn(6, 4, size, size, generator=generator)


def some_gates(num_rows: int, num_channels: int) -> tuple[Tensor, Tensor]:
    """Factors, some 0: a row has no branch, another no channel, two the same ones."""
    generator = torch.Generator().manual_seed(3)
    scale = torch.rand(num_rows, generator=generator)
    channels = torch.rand(num_rows, num_channels, generator=generator)
    channels[channels < 0.4] = 0.0
    scale[1], channels[2], channels[4] = 0.0, 0.0, channels[3]
    return scale, channels


@FORMS
@torch.no_grad()
def test_iterated_activations_solve_the_equation(form: str) -> None:
    block, x = make_block(form, **EXACT)
    block, x = block.double(), x.double()
    assert block.recurrence is not None
    z = block.inner(x, iterates=True)
    u = block.norm1(block.conv1(x))
    right = torch.relu(u + block.recurrence.recur(z, block.recurrence.weight()))
    assert torch.allclose(z, right, rtol=0, atol=1e-10)
    assert torch.equal(block.inner(x), torch.relu(u))  # one application, from zero
    assert (z - torch.relu(u)).abs().max() > 0.1


@torch.no_grad()
def test_not_iterated_it_is_the_network_without_recurrence() -> None:
    network, plain = random_residual(iterated=(1, 3)), random_residual()
    weights = network.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    assert len(weights) > len(plain.state_dict())
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(network(images), plain(images))
    assert network.macs == plain.macs
    assert not torch.equal(network(images, (3,)), plain(images))


@FORMS
@torch.no_grad()
def test_without_a_weight_both_modes_share_all_but_the_last_normalisation(
    form: str,
) -> None:
    """As in a new network, whose statistics are also the same."""
    block, x = make_block(form)
    assert block.recurrence is not None
    block.recurrence.free_weight.zero_()
    assert not torch.equal(block(x, True), block(x))
    block.norm_iterated.load_state_dict(block.norm2.state_dict())
    assert torch.equal(block(x, True), block(x))


@FORMS
@torch.no_grad()
def test_open_gates_give_the_whole_block_to_the_bit(form: str) -> None:
    block, x = make_block(form)
    for channels in (None, torch.ones(6, 8)):
        out, (macs, steps, status) = run_block(
            block, x, torch.ones(6), channels, iterates=True
        )
        assert torch.equal(out, block(x, iterates=True))
        assert (steps > 1).all() and not status.any()
        counted = block.macs(x.shape[-1])
        assert counted.iteration == 9 * (x.shape[-1] // 2) ** 2
        taken = counted.branch + 8 * steps * counted.iteration
        assert torch.equal(macs, counted.shortcut + taken)


@FORMS
@torch.no_grad()
def test_gathered_is_masked(form: str) -> None:
    block, x = make_block(form, **EXACT)
    block, x = block.double(), x.double()
    scale, channels = (each.double() for each in some_gates(6, 8))
    out, (macs, steps, _) = run_block(block, x, scale, channels, iterates=True)
    masked = mask_block(block, x, scale, channels, iterates=True)
    assert torch.allclose(out, masked, rtol=0, atol=1e-10)
    counted, kept = block.macs(x.shape[-1]), channels.count_nonzero(1)
    own = kept * (counted.channel + steps * counted.iteration)
    assert torch.equal(macs, counted.shortcut + (scale != 0) * own)
    assert steps[1] == steps[2] == 0 and (steps[[0, 3, 4, 5]] > 0).all()


@FORMS
@torch.no_grad()
def test_a_row_does_not_depend_on_the_rows_beside_it(form: str) -> None:
    block, x = make_block(form)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        block = block.to(memory_format=memory_format)
        scale, channels = some_gates(6, 8)
        out, cost = run_block(block, x, scale, channels, iterates=True)
        for rows in (*torch.arange(6)[:, None], torch.tensor([5, 3, 0])):
            own, taken = run_block(
                block, x[rows], scale[rows], channels[rows], iterates=True
            )
            assert torch.equal(own, out[rows]) and torch.equal(taken, cost[:, rows])


@torch.no_grad()
def test_multiply_adds_are_those_that_run() -> None:
    """Every row twice: a lone one is convolved beside a copy of itself."""
    block, x = make_block("fast")
    x, scale, channels = (
        each.repeat_interleave(2, 0) for each in (x, *some_gates(6, 8))
    )
    with FlopCount() as ran:
        _, cost = run_block(block, x, scale, channels, iterates=True)
    assert ran.total() == 2 * cost[0].sum()


@torch.no_grad()
def test_a_solve_that_is_cut_short_says_so() -> None:
    block, x = make_block("pad", rtol=1e-6, max_steps=2)
    x[3] = torch.nan
    _, (_, steps, status) = run_block(block, x, torch.ones(6), iterates=True)
    expected = [SolverStatus.MAX_STEPS] * 6
    expected[3] = SolverStatus.NONFINITE
    assert status.tolist() == expected
    assert steps.tolist() == [2, 2, 2, 1, 2, 2]


def test_gates_and_weights_learn_through_the_fixed_point() -> None:
    block, x = make_block("fast", **EXACT)
    block, x = block.double(), x[:2].double()
    layer = block.recurrence
    assert layer is not None
    adjoint = {"adjoint_rtol": 1e-12, "adjoint_max_steps": 500}
    layer.solver = replace(layer.solver, **adjoint)
    gates = torch.rand(2, dtype=torch.float64), torch.rand(2, 8, dtype=torch.float64)
    inputs = *(each.requires_grad_() for each in gates), layer.free_weight

    def outputs(scale: Tensor, channels: Tensor, _: Tensor) -> Tensor:
        return mask_block(block, x, scale, channels, iterates=True).mean((2, 3))

    assert torch.autograd.gradcheck(outputs, inputs)


# --- architectures --------------------------------------------------------------------


def test_only_blocks_with_a_recurrence_can_be_iterated() -> None:
    network, images = random_residual(iterated=(1, 3)), torch.randn(2, 1, 8, 8)
    gated = GatedNetwork(network, GateConfig()).eval()
    for each in (network, gated):
        with pytest.raises(ConfigError, match=r"blocks \[2, 9\] cannot be iterated"):
            each(images, (1, 2, 9))


@pytest.mark.parametrize("iterated", [(0,), (4,), (2, 1), (1, 1), ("1",)])
def test_blocks_that_are_not_there_are_refused(iterated: Any) -> None:
    with pytest.raises(ConfigError, match="iterated"):
        tiny_residual_config(iterated=iterated)


def test_maps_that_are_too_large_to_be_bounded_are_refused() -> None:
    """Before the memory is taken."""
    sizes: dict[str, Any] = {"in_shape": (1, 1024, 1024), "widths": (64,)}
    config = tiny_residual_config(depths=(1,), iterated=(1,), **sizes)
    with pytest.raises(ConfigError, match="too many to iterate"):
        ResidualNetwork(config)


def test_plain_architectures_are_written_as_they_always_were() -> None:
    """Their fingerprints, and the trainings that can be resumed, stay the same."""
    names = {"in_shape", "num_classes", "form", "widths", "depths", "shortcut"}
    plain, mixed = tiny_residual_config(), tiny_residual_config(iterated=[2])
    assert plain.to_dict().keys() == names
    assert mixed.to_dict().keys() == names | {"iterated", "rtol", "max_steps"}
    assert ResidualConfig(**json.loads(json.dumps(mixed.to_dict()))) == mixed


def test_a_folder_brings_it_back(tmp_path: Path) -> None:
    network, images = random_residual(iterated=(1, 2)), torch.randn(3, 1, 8, 8)
    save_network(tmp_path, network, {})
    loaded, facts = load_network(tmp_path)
    assert facts.config == network.config
    with torch.no_grad():
        assert torch.equal(loaded(images, (2,)), network(images, (2,)))


def test_the_same_seed_draws_the_same_other_weights() -> None:
    first, second = [], []
    for iterated, kept in (((), first), ((1, 2, 3), second)):
        torch.manual_seed(0)
        network = ResidualNetwork(tiny_residual_config(iterated=iterated))
        kept.append(network.head.weight)
    assert torch.equal(first[0], second[0])


@torch.no_grad()
def test_what_is_not_iterated_takes_no_iterations() -> None:
    block, x = make_block("pad")
    out, (macs, steps, status) = run_block(block, x, torch.ones(6))
    assert torch.equal(out, block(x)) and not steps.any() and not status.any()
    counted = block.macs(8)
    assert macs.tolist() == [counted.shortcut + counted.branch] * 6
