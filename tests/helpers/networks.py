"""Small random networks and data, cheap enough to run every rule on."""

from functools import cache
from typing import Any

import torch
from torch import nn

from dynalay_gym.data.splits import Split
from dynalay_gym.envs.process import LiveProcess
from dynalay_gym.envs.single_env import DynaLayEnv
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.layers.norm import PatternNorm
from dynalay_gym.networks.main_network import MainNetwork

NUM_CLASSES = 3


def tiny_config(form: str = "wide", **changes: Any) -> MainNetworkConfig:
    """Three layers (8x8, 4x4, 4x4) over images of shape [1, 8, 8]."""
    options: dict[str, Any] = {
        "in_shape": (1, 8, 8),
        "num_classes": NUM_CLASSES,
        "form": form,
        "stem": 0,
        "stem_stride": 1,
        "channels": (2, 3, 4),
        "strides": (1, 2, 1),
        "kappa": 0.9,
        "rtol": 0.1,
        "max_steps": 20,
    }
    if form == "wide":
        options |= {"hidden": (4, 5, 6), "pools": (2, 1, 1), "unshuffle": 2}
    return MainNetworkConfig(**options | changes)


def random_model(config: MainNetworkConfig, seed: int = 0) -> MainNetwork:
    """Network in evaluation mode whose every pattern has its own statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MainNetwork(config)
        for module in model.modules():
            if isinstance(module, PatternNorm):
                _randomise(module)
    return model.eval()


def _randomise(norm: PatternNorm) -> None:
    for part in (norm.running_mean, norm.bias):
        nn.init.normal_(part, std=0.3)
    for part in (norm.running_var, norm.weight):
        nn.init.uniform_(part, 0.5, 1.5)


def random_images(config: MainNetworkConfig, num: int, seed: int = 0) -> torch.Tensor:
    """Images [num, C, H, W], normally distributed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, *config.in_shape, generator=generator)


def random_split(config: MainNetworkConfig, num: int = 24, seed: int = 0) -> Split:
    """Random images with labels in turn."""
    return own_split(random_images(config, num, seed), config.num_classes)


def own_split(images: torch.Tensor, num_classes: int = NUM_CLASSES) -> Split:
    """Split of one's own images [n, C, H, W], with labels in turn."""
    number = torch.arange(len(images))
    return Split(inputs=images, labels=number % num_classes, groups=number, name="own")


@cache
def shared_model(form: str = "wide") -> MainNetwork:
    """One network for many tests; environments freeze it."""
    return random_model(tiny_config(form))


@cache
def shared_split() -> Split:
    """Its 24 samples."""
    return random_split(tiny_config())


def tiny_kwargs(form: str = "wide", **changes: Any) -> dict[str, Any]:
    """Keywords of an environment over the shared network and samples."""
    own: dict[str, Any] = {
        "checkpoint": shared_model(form),
        "split": shared_split(),
        "penalty": 0.25,
        "device": "cpu",
    }
    return own | changes


def make_vec(num_envs: int, form: str = "wide", **changes: Any) -> DynaLayVectorEnv:
    """Batched environment over the shared network and samples."""
    return DynaLayVectorEnv(num_envs, **tiny_kwargs(form, **changes))


def live_state(envs: DynaLayVectorEnv) -> Any:
    """Networks in progress behind a live environment."""
    process = envs.process
    assert isinstance(process, LiveProcess)
    return process.state


def make_single(form: str = "wide", **changes: Any) -> DynaLayEnv:
    """Single environment over the shared network and samples."""
    return DynaLayEnv(**tiny_kwargs(form, **changes))
