"""Which gates a residual network gets."""

from dataclasses import asdict, dataclass
from typing import Literal

from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.residual.config import ResidualConfig
from dynalay_gym.utils.ranges import check_fields


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Gates of a residual network; JSON-able.

    Attributes:
        layers: A gate for the branch of each block (L-Net).
        channels: A gate for each inner channel (C-Net). With both it is LC-Net.
        slices: Channels are shut from the last one on, by eighths and one score per
            block, so that kernels are read in place and rows with equally many run
            together. Freely chosen channels save multiply-adds, but in batches no time.
        per_input: Gates depend on the input. Otherwise they are learned, but the same
            for all: a pruned network, which is what choosing per input must beat.
        kind: ``scale``: what is open is multiplied by its gate, in (0, 1].
            ``binary``: 0 or 1, chosen with noise in training.

    Raises:
        ConfigError: There is no gate, a value is of the wrong type, or
            slices are asked for without gates of channels.
    """

    layers: bool = True
    channels: bool = True
    slices: bool = False
    per_input: bool = True
    kind: Literal["scale", "binary"] = "scale"

    def __post_init__(self) -> None:
        """Check types, and that there is a gate."""
        check_fields(self)
        if not (self.layers or self.channels):
            raise ConfigError(
                "a gated network needs gates of layers or of channels; set one to True"
            )
        if self.slices and not self.channels:
            raise ConfigError(
                "slices are of channels; set channels=True, or slices=False"
            )


@dataclass(frozen=True, kw_only=True)
class GatedConfig:
    """Architecture of a gated network; JSON-able.

    Attributes:
        backbone: Of the residual network.
        gates: Of its gates.
    """

    backbone: ResidualConfig
    gates: GateConfig

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.backbone.in_shape

    @property
    def num_classes(self) -> int:
        """Classes K."""
        return self.backbone.num_classes

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {"backbone": self.backbone.to_dict(), "gates": asdict(self.gates)}
