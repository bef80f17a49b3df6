"""Architectures of residual networks, and those with a name.

References:
    He et al. (2016), Deep Residual Learning: the CIFAR networks of 20 and 32 layers,
    with shortcuts that are padded, and ResNet-18, in the form for 32 x 32 pixels.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from dynalay_gym.errors import ConfigError
from dynalay_gym.utils.ranges import (
    Portion,
    Tolerance,
    check_fields,
    lists_to_tuples,
)

Side = Annotated[int, Meta(ge=4, le=1024)]
Channels = Annotated[int, Meta(ge=1, le=4096)]
_STAGES = Meta(min_length=1, max_length=8)
Widths = Annotated[tuple[Channels, ...], _STAGES]
Depths = Annotated[tuple[Annotated[int, Meta(ge=1, le=64)], ...], _STAGES]
Blocks = Annotated[tuple[Annotated[int, Meta(ge=1, le=512)], ...], Meta(max_length=512)]
OF_SOLVES = ("iterated", "rtol", "max_steps")  # of no meaning without iterated blocks


@dataclass(frozen=True, kw_only=True)
class ResidualConfig:
    """Architecture of a residual network; JSON-able.

    Attributes:
        in_shape: Channels, height and width of an image (square).
        num_classes: Classes K, at least 2.
        form: ``classic``, the published one: stem of one 3 x 3 convolution,
            ``relu(shortcut + branch)``. ``fast``, for short trainings: a stem that
            whitens patches and halves the sides, GELU, ``shortcut + gelu(branch)``.
        widths: Channels of each stage; each after the first halves the sides.
        depths: Blocks of each stage.
        shortcut: Where sides or channels change: ``pad`` drops pixels and pads channels
            with zeros, ``project`` is a strided 1 x 1 convolution, ``pool`` averages
            pixels before it.
        iterated: Numbers of the blocks, from 1 and ascending, whose inner activations
            can be iterated to a fixed point; see `ResidualBlock`.
        rtol: Relative tolerance of such a solve, > 0.
        max_steps: Most iterations of such a solve, >= 1.

    Raises:
        ConfigError: Fields are out of range or do not fit each other.
    """

    in_shape: tuple[Channels, Side, Side]
    num_classes: Annotated[int, Meta(ge=2, le=2**16)]
    form: Literal["classic", "fast"] = "classic"
    widths: Widths
    depths: Depths
    shortcut: Literal["pad", "project", "pool"] = "pad"
    iterated: Blocks = ()
    rtol: Tolerance = 1e-2
    max_steps: Portion = 30

    def __post_init__(self) -> None:
        """Check ranges, and what the fields must agree on."""
        lists_to_tuples(self)
        check_fields(self)
        if len(self.widths) != len(self.depths):
            raise ConfigError(
                "widths and depths have one entry per stage each; give as many of "
                f"one as of the other, not {len(self.widths)} and {len(self.depths)}"
            )
        if self.in_shape[1] != self.in_shape[2]:
            raise ConfigError(
                f"images must be square, not {self.in_shape[1:]}; pad or crop them"
            )
        if self.shortcut == "pad" and list(self.widths) != sorted(self.widths):
            raise ConfigError(
                "padded shortcuts need widths that do not fall; give them in ascending "
                "order, or shortcut='project'"
            )
        if not _is_ascending(self.iterated, self.num_blocks):
            raise ConfigError(
                f"iterated must be blocks in 1..{self.num_blocks}, in ascending order, "
                f"not {self.iterated}"
            )

    @property
    def num_blocks(self) -> int:
        """Residual blocks B."""
        return sum(self.depths)

    def check_iterated(self, blocks: Collection[int]) -> None:
        """Raise ConfigError unless these blocks can be iterated."""
        unknown = sorted(set(blocks) - set(self.iterated))
        if unknown:
            raise ConfigError(
                f"blocks {unknown} cannot be iterated, only those of this "
                f"architecture's iterated={self.iterated}; choose from them, or train "
                "a network with others (train_main.py --iterated)"
            )

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON, without what only iterated blocks have."""
        values = asdict(self)
        without = () if self.iterated else OF_SOLVES
        return {name: values[name] for name in values if name not in without}


def _is_ascending(numbers: Collection[int], most: int) -> bool:
    return list(numbers) == sorted(set(numbers)) and max(numbers, default=0) <= most


RESIDUAL_PRESETS: dict[str, dict[str, Any]] = {
    "fast": {
        "form": "fast",
        "widths": (48, 96, 192),
        "depths": (2, 2, 2),
        "shortcut": "pool",
    },
    "resnet20": {"widths": (16, 32, 64), "depths": (3, 3, 3)},
    "resnet32": {"widths": (16, 32, 64), "depths": (5, 5, 5)},
    "resnet18": {
        "widths": (64, 128, 256, 512),
        "depths": (2, 2, 2, 2),
        "shortcut": "project",
    },
}
