"""A gated network: the backbone when open, masks in training, real skipping."""

import copy
import itertools
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.lcnet.config import GateConfig, GatedConfig
from dynalay_gym.networks.lcnet.gates import BinaryGate
from dynalay_gym.networks.lcnet.network import GatedNetwork
from tests.helpers.flops import FlopCount
from tests.helpers.residual import FORMS, random_residual, with_varied_gates

MODES = [  # gates of layers, of channels, in slices
    (True, False, False),
    (False, True, False),
    (True, True, False),
    (True, True, True),
]
KINDS: tuple[Literal["scale", "binary"], ...] = ("scale", "binary")
every_network = pytest.mark.parametrize(
    ("form", "mode", "kind"), list(itertools.product(FORMS, MODES, KINDS))
)


def make(
    form: str, mode: tuple[bool, bool, bool], kind: Literal["scale", "binary"]
) -> GatedNetwork:
    layers, channels, slices = mode
    config = GateConfig(layers=layers, channels=channels, slices=slices, kind=kind)
    return GatedNetwork(random_residual(form), config).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def gates_macs(network: GatedNetwork) -> int:
    return sum(network.gate_macs(level) for level in range(len(network.blocks)))


@every_network
@torch.no_grad()
def test_it_begins_as_the_backbone_to_the_bit(form, mode, kind, images) -> None:
    network = make(form, mode, kind)
    output = network(images)
    assert torch.equal(output.logits, network.backbone(images))
    expected = network.backbone.macs + gates_macs(network)
    assert output.macs.tolist() == [expected] * 12


@every_network
@torch.no_grad()
def test_skipping_is_masking(form, mode, kind, images) -> None:
    network = with_varied_gates(make(form, mode, kind)).double()
    images = images.double()
    skipped = network(images)
    assert 0 < skipped.macs.double().std()
    in_training = copy.deepcopy(network)
    for part in in_training.modules():  # masked as in training, but nothing else
        part.training = part is in_training
    for whole in (in_training(images), network(images, masked=True)):
        torch.testing.assert_close(skipped.logits, whole.logits)
        assert torch.equal(skipped.macs.double(), whole.macs.double())


@every_network
@torch.no_grad()
def test_what_is_counted_is_what_runs(form, mode, kind, images) -> None:
    network = with_varied_gates(make(form, mode, kind))
    with FlopCount() as ran:
        output = network(images)
    assert ran.total() == 2 * output.macs.sum()


@every_network
@torch.no_grad()
def test_rows_do_not_depend_on_those_beside_them(form, mode, kind, images) -> None:
    network = with_varied_gates(make(form, mode, kind))
    whole = network(images)
    for row in range(12):
        alone = network(images[row : row + 1])
        assert torch.equal(alone.logits[0], whole.logits[row])
        assert alone.macs[0] == whole.macs[row]


@torch.no_grad()
def test_block_by_block_it_is_the_same(images) -> None:
    network = with_varied_gates(make("fast", (True, True, False), "scale"))
    output, x = network(images), network.stem(images)
    for level, (block, expected) in enumerate(
        zip(network.blocks, output.gates, strict=True)
    ):
        gate = network.gate(level, x)
        assert torch.equal(gate.layer, expected.layer)
        x, _ = network.run_block(level, x, gate)
        assert x.shape[1] == block.out_channels
    assert torch.equal(network.answer(x), output.logits)


@pytest.mark.parametrize("kind", KINDS)
def test_costs_have_the_gradient_of_the_gates(kind, images) -> None:
    network = with_varied_gates(make("pad", (True, True, False), kind)).train()
    if isinstance(network.gating, BinaryGate):
        network.gating.noise = 0.0
    output = network(images)
    (grad,) = torch.autograd.grad(output.macs.sum(), output.gates[-1].layer)
    cost = network.blocks[-1].macs(network.block_sizes[-1])
    channels = output.gates[-1].channels
    torch.testing.assert_close(grad, (channels > 0).sum(1) * float(cost.channel))


def test_other_networks_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="Linear has no residual blocks"):
        GatedNetwork(nn.Linear(2, 2), GateConfig())  # type: ignore[arg-type]


def test_gates_of_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="layers or of channels"):
        GateConfig(layers=False, channels=False)
    with pytest.raises(ConfigError, match="slices are of channels"):
        GateConfig(channels=False, slices=True)


def test_an_architecture_makes_the_same_network(images) -> None:
    network = with_varied_gates(make("pad", (True, True, False), "scale"))
    config = network.config
    assert isinstance(config, GatedConfig)
    other = GatedNetwork.from_config(config).eval()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(images).logits, network(images).logits)
