"""Fixed-point layers and inputs on which solvers are compared.

``smoothing``: a slow layer. Binomial smoothing of the maps, channels mixed with
positive weights, scaled to the operator norm kappa that it then attains: nothing that a
ReLU lets through dies out quickly, and many modes are slow at once. ``trained``: kernel
and input of a small network after some steps on scikit-learn's digits, the norm limited
to kappa. ``random``: a fresh layer, which contracts much faster than its bound.

Axes: n samples, C channels.
"""

from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.layers import ConvFixedPointLayer
from dynalay_gym.fixed_point.solve import SolverConfig, SolverMethod

KAPPA = 0.95
PRECISE = SolverConfig(
    rtol=1e-9,
    max_steps=2000,
    method=SolverMethod.ANDERSON,
    adjoint_rtol=1e-9,
    adjoint_max_steps=2000,
)
_TRAIN_STEPS = 120


class OpenLayer(ConvFixedPointLayer):
    """Layer whose free weight is ``W`` itself, so that every library has the same."""

    def weight(self) -> Tensor:
        """Return the free weight as it is."""
        return self.free_weight


class Subject(NamedTuple):
    """A layer with its input.

    Attributes:
        layer: The layer; its free weight is W.
        x: Injected input [n, C, H, W].
        labels: Labels of the samples, int64 [n].
    """

    layer: OpenLayer
    x: Tensor
    labels: Tensor


def make_subject(name: str, num_samples: int) -> Subject:
    """Return the subject of a name: kind-channels@side, as in ``smoothing-32@16``.

    Raises:
        ConfigError: for a name that is none.
    """
    kind, _, size = name.partition("-")
    kinds = {"smoothing": _smoothing, "random": _random, "trained": _trained}
    try:
        channels, side = map(int, size.split("@"))
        make = kinds[kind]
    except (KeyError, ValueError):
        raise ConfigError(
            f"unknown layer {name!r}; write one of {sorted(kinds)} and the size, "
            "as in smoothing-32@16"
        ) from None
    images, labels = digits(num_samples, side, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weight, stem = make(channels, side)
    layer = OpenLayer(channels, side, side, kappa=KAPPA)
    layer.load_state_dict({"free_weight": weight})
    with torch.no_grad():
        return Subject(layer, stem(images).contiguous(), labels)


def in_double(layer: OpenLayer) -> OpenLayer:
    """Return the same layer in double precision."""
    double = OpenLayer(*layer.state_shape).double()
    double.load_state_dict(layer.state_dict())
    return double


def digits(num_samples: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return noisy images [n, 1, side, side] of the digits, and their labels."""
    bunch = load_digits()
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(bunch.target), generator=generator)[:num_samples]
    images = torch.tensor(bunch.images, dtype=torch.float32)[rows, None] / 16
    images = F.interpolate(images, size=(side, side), mode="bilinear")
    noise = torch.randn(images.shape, generator=generator)
    return images + 0.1 * noise, torch.tensor(bunch.target)[rows]


def operator_norm(weight: Tensor, side: int, steps: int = 300) -> float:
    """Return the largest singular value of a zero-padded convolution, by powers."""
    kernel, padding = weight.double(), weight.shape[-1] // 2
    v = torch.ones(1, kernel.shape[1], side, side, dtype=torch.float64)
    for _ in range(steps):
        image = F.conv2d(v / v.norm(), kernel, padding=padding)
        v = F.conv_transpose2d(image, kernel, padding=padding)
    return float(v.norm().sqrt())


def _stem(channels: int) -> nn.Sequential:
    """Return convolution and normalisation by the batch: the layer's injected input."""
    norm = nn.BatchNorm2d(channels, track_running_stats=False)
    return nn.Sequential(nn.Conv2d(1, channels, 3, padding=1, bias=False), norm)


def _smoothing(channels: int, side: int) -> tuple[Tensor, nn.Module]:
    mixing = torch.rand(channels, channels)
    mixing = mixing / mixing.sum(1, keepdim=True)
    mixing = 0.5 * torch.eye(channels)[torch.randperm(channels)] + 0.5 * mixing
    line = torch.tensor([0.25, 0.5, 0.25])
    weight = mixing[:, :, None, None] * (line[:, None] * line)
    return weight * (KAPPA / operator_norm(weight, side)), _stem(channels)


def _random(channels: int, side: int) -> tuple[Tensor, nn.Module]:
    layer = ConvFixedPointLayer(channels, side, side, kappa=KAPPA)
    return layer.weight().detach(), _stem(channels)


def _trained(channels: int, side: int) -> tuple[Tensor, nn.Module]:
    solver = SolverConfig(rtol=1e-2, max_steps=60, adjoint_rtol=1e-1)
    layer = ConvFixedPointLayer(channels, side, side, kappa=KAPPA, solver=solver)
    top = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)
    net = nn.Sequential(_stem(channels), layer, *top)
    images, labels = digits(1300, side, seed=2)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(_TRAIN_STEPS):
        rows = torch.randint(0, len(images), (32,))
        optimizer.zero_grad()
        F.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimizer.step()
    return layer.weight().detach(), net[0]
