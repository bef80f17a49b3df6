"""Residual networks: published sizes, exact multiply-adds, parts that fit together."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.presets import make_any_config
from dynalay_gym.networks.residual.blocks import ResidualBlock
from dynalay_gym.networks.residual.config import RESIDUAL_PRESETS, ResidualConfig
from dynalay_gym.networks.residual.network import ResidualNetwork, WhiteningStem

SMALL = ("fast", "resnet20", "resnet32")  # of the presets


def network(preset: str, in_shape: tuple[int, int, int]) -> ResidualNetwork:
    torch.manual_seed(0)
    config = make_any_config(preset, in_shape, 10)
    assert isinstance(config, ResidualConfig)
    made = ResidualNetwork(config)
    if isinstance(made.stem, WhiteningStem):
        made.stem.whiten(torch.randn(64, *in_shape))
    return made.eval()


# Multiply-adds in millions, as published for images of 32 x 32 pixels and 10 classes.
@pytest.mark.parametrize(
    ("preset", "macs", "parameters"),
    [
        ("resnet20", 40.55, 0.27),
        ("resnet32", 68.86, 0.46),
        ("resnet18", 555.42, 11.17),
    ],
)
def test_classic_presets_have_the_published_size(
    preset: str, macs: float, parameters: float
) -> None:
    with torch.device("meta"):
        made = ResidualNetwork(
            ResidualConfig(
                in_shape=(3, 32, 32), num_classes=10, **RESIDUAL_PRESETS[preset]
            )
        )
    assert made.macs / 1e6 == pytest.approx(macs, abs=0.01)
    count = sum(weight.numel() for weight in made.parameters())
    assert count / 1e6 == pytest.approx(parameters, abs=0.005)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 9, 9)])
@pytest.mark.parametrize("preset", RESIDUAL_PRESETS)
def test_multiply_adds_are_those_that_pytorch_counts(
    preset: str, shape: tuple[int, int, int]
) -> None:
    made = network(preset, shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made(torch.randn(2, *shape))
    assert made.macs == counter.get_total_flops() / 4  # two samples, two per MAC


@pytest.mark.parametrize("preset", SMALL)
def test_an_answer_does_not_depend_on_the_rows_beside_it(preset: str) -> None:
    made, images = network(preset, (3, 16, 16)), torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        together = made(images)
        alone = torch.cat([made(image[None]) for image in images])
        turned = made(images.flip(0)).flip(0)
    assert torch.equal(together, alone)
    assert torch.equal(together, turned)


@pytest.mark.parametrize("form", ["classic", "fast"])
@pytest.mark.parametrize("shortcut", ["pad", "project", "pool"])
@pytest.mark.parametrize(("channels", "stride"), [((4, 4), 1), ((4, 7), 2)])
def test_a_block_is_its_parts(
    form: Any, shortcut: Any, channels: tuple[int, int], stride: int
) -> None:
    block = ResidualBlock(*channels, stride, form, shortcut).eval()
    x = torch.rand(3, 4, 9, 9)
    kept, inner = block.shortcut(x), block.inner(x)
    assert kept.shape == (3, channels[1], 9 if stride == 1 else 5, kept.shape[-1])
    assert torch.equal(block(x), block.merge(kept, block.outer(inner)))
    if stride == 1 and channels[0] == channels[1]:  # nothing to change on the way
        assert torch.equal(block.merge(kept), x)


def test_a_padded_shortcut_drops_pixels_and_adds_empty_channels() -> None:
    block = ResidualBlock(2, 5, 2, "classic", "pad")
    x = torch.rand(1, 2, 4, 4)
    y = block.shortcut(x)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert not y[:, [0, 3, 4]].any()


def test_patches_of_a_whitened_stem_are_uncorrelated_and_of_equal_size() -> None:
    mix = torch.randn(3, 3)
    images = torch.einsum("ij,njhw->nihw", mix, torch.randn(400, 3, 12, 12))
    stem = WhiteningStem(3, 8)
    stem.whiten(images)
    responses = stem.patches(images).movedim(1, 3).reshape(-1, 24)
    half = responses[:, :12]
    assert torch.allclose(half, -responses[:, 12:])
    assert torch.allclose(half.T.cov(), torch.eye(12), atol=0.05)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"depths": (1,)}, "one entry per stage"),
        ({"in_shape": (3, 8, 9)}, "square"),
        ({"widths": (8, 4)}, "do not fall"),
        ({"form": "slow"}, "'classic', 'fast'"),
        ({"widths": ()}, "widths"),
    ],
)
def test_architectures_that_do_not_fit_are_refused(
    change: dict[str, Any], says: str
) -> None:
    options: dict[str, Any] = {
        "in_shape": (3, 8, 8),
        "num_classes": 10,
        "widths": (4, 8),
        "depths": (1, 1),
    }
    ResidualConfig(**options)
    with pytest.raises(ConfigError, match=says):
        ResidualConfig(**options | change)
