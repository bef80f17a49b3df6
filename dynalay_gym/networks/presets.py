"""Named architectures of main networks."""

from typing import Any

from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.residual.config import RESIDUAL_PRESETS, ResidualConfig

PRESETS: dict[str, dict[str, Any]] = {
    # Thin plain pass over 8x8 images; a wider hidden stream at 4x4.
    "digits": {
        "form": "wide",
        "channels": (3, 4, 6),
        "strides": (1, 2, 1),
        "hidden": (8, 12, 16),
        "pools": (2, 1, 1),
        "unshuffle": 2,
    },
    # 16x16, 8x8, 4x4 after a stem of stride 2 (32x32 images).
    "small": {
        "form": "wide",
        "stem": 16,
        "stem_stride": 2,
        "channels": (16, 32, 64),
        "strides": (1, 2, 2),
        "hidden": (48, 64, 96),
        "pools": (2, 2, 1),
        "unshuffle": 4,
    },
    # The paper's three convolutions, 64-128-256, each iterated as z = relu(u + W z).
    "paper": {
        "form": "state",
        "channels": (64, 128, 256),
        "strides": (2, 2, 2),
        "rtol": 1e-2,
        "max_steps": 100,
    },
    # Value iteration near the start, then on the whole map. Values of a far goal are
    # small beside those near it, and so is the relative residual when they arrive.
    "maze": {
        "form": "planner",
        "stem": 8,
        "channels": (2, 2),
        "views": (11, 0),
        "head_width": 48,
        "kappa": 0.97,
        "rtol": 1e-6,
        "max_steps": (16, 64),
    },
    # Two LSTM layers, each of which can read its text again.
    "chains": {
        "form": "text",
        "stem": 32,
        "channels": (48, 48),
        "rtol": 0.05,
        "max_steps": 8,
    },
    # One encoder layer over the cells of a puzzle, read at the one that is asked for.
    "sudoku": {
        "form": "attention",
        "stem": 48,
        "channels": (48,),
        "hidden": (96,),
        "biased": True,
        "asked": "?",
        "rtol": 0.03,
        "max_steps": 16,
    },
    # Three LSTM layers over groups of eight words, each group the mean of its vectors.
    "reviews": {
        "form": "text",
        "stem": 64,
        "stem_stride": 8,
        "stem_std": 0.1,
        "channels": (64, 64, 64),
        "rtol": 0.05,
        "max_steps": 3,
    },
    # Two encoder layers over patches of 4x4 pixels, 64 tokens of an image of side 32.
    "transformer": {
        "form": "attention",
        "stem": 64,
        "stem_stride": 4,
        "channels": (64, 64),
        "hidden": (128, 128),
        "rtol": 0.05,
        "max_steps": 8,
    },
    # One encoder layer over a text, a word a token.
    "text-transformer": {
        "form": "attention",
        "stem": 48,
        "channels": (48,),
        "hidden": (96,),
        "rtol": 0.05,
        "max_steps": 8,
    },
    # Three LSTM layers and an adaptive softmax over the words of WikiText-2.
    "language": {
        "form": "text",
        "stem": 128,
        "channels": (160, 160, 160),
        "cutoffs": (1_000, 6_000),
        "rtol": 0.05,
        "max_steps": 3,
    },
}


def make_config(
    preset: str, in_shape: tuple[int, ...], num_classes: int
) -> MainNetworkConfig:
    """Return the architecture of a main network's preset for a data set.

    That of a text network has no vocabulary yet.

    Args:
        preset: A key of `PRESETS`.
        in_shape: Channels, height and width of an image; words of a text.
        num_classes: Classes K, at least 2.

    Raises:
        ConfigError: The preset is unknown, or does not fit the images.
    """
    if preset not in PRESETS:
        known = sorted(PRESETS | RESIDUAL_PRESETS)
        raise ConfigError(f"unknown preset {preset!r}; choose one of {known}")
    options = PRESETS[preset]
    return MainNetworkConfig(in_shape=in_shape, num_classes=num_classes, **options)


def make_any_config(
    preset: str, in_shape: tuple[int, ...], num_classes: int
) -> MainNetworkConfig | ResidualConfig:
    """Return the architecture of any preset, also a residual one; see `make_config`."""
    if preset in RESIDUAL_PRESETS:
        if len(in_shape) != 3:
            raise ConfigError(
                f"preset {preset!r} is for images, not for texts of shape {in_shape}; "
                "leave --preset out"
            )
        channels, height, width = in_shape
        shape, options = (channels, height, width), RESIDUAL_PRESETS[preset]
        return ResidualConfig(in_shape=shape, num_classes=num_classes, **options)
    return make_config(preset, in_shape, num_classes)
