"""Architecture of a main network: its form, and the sizes of its layers."""

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from msgspec import Meta

from dynalay_gym.data.vocabulary import Vocabulary
from dynalay_gym.errors import ConfigError, brief
from dynalay_gym.utils.ranges import (
    Count,
    Iterations,
    Positive,
    Tolerance,
    check_fields,
    lists_to_tuples,
)

_LAYERS = Meta(max_length=12)  # 4096 states, each with its own statistics
Side = Annotated[int, Meta(ge=1, le=1024)]
InShape = Annotated[tuple[Side, ...], Meta(min_length=1, max_length=3)]
Ratio = Annotated[int, Meta(ge=1, le=64)]
Ratios = Annotated[tuple[Ratio, ...], _LAYERS]
Channels = Annotated[tuple[Annotated[int, Meta(ge=1, le=4096)], ...], _LAYERS]
Views = Annotated[tuple[Annotated[int, Meta(ge=0, le=1023)], ...], _LAYERS]


@dataclass(frozen=True, kw_only=True)
class MainNetworkConfig:
    """Architecture of a main network; JSON-able.

    Attributes:
        in_shape: Channels, height and width of an image (square); words of a text.
        num_classes: Classes K, at least 2.
        form: Layer form, ``state`` (the paper's), ``wide``, ``planner``, ``text`` or
            ``attention``.
        stem: Channels of the stem's convolution; 0 for none (but in the planner form).
            Of a word's embedding or a patch's token in the text and attention forms.
        stem_stride: Its stride (not in the planner form); words that share a position
            of what the layers read; side of a patch in the attention form.
        stem_std: Standard deviation of words' vectors before training, as they are
            read.
        vocabulary: The words that a network of texts knows; None as long as they are
            not known.
        channels: Visible channels of each layer; value channels, the same for all
            layers, in the planner form; hidden units in the text form; the stem's, of
            each layer, in the attention form.
        strides: Stride of each layer's input convolution (not in the planner form).
        hidden: Hidden channels of each layer (wide form); units of the hidden part of
            each layer (attention form).
        heads: Heads of each layer (attention form), a divisor of the channels.
        biased: Whether each pair of positions has a learned bias of its scores, of use
            where positions mean the same in all inputs (attention form).
        asked: Word that marks what a text asks for: its token is read, not the mean of
            all (attention form); empty for none.
        pools: Ratio of the sides of visible and hidden maps (wide form).
        unshuffle: Pixel-unshuffle factor of the image that enters the first hidden
            stream (wide form).
        views: Odd side of the square that each layer sees; 0 for the whole map
            (planner form).
        head_width: Hidden units of the head; 0 for a linear head.
        cutoffs: Of a network that predicts the next word of a text: classes, which are
            the vocabulary's words, at which the clusters of its adaptive softmax begin.
            Words are scored by the vectors that they are read by. Empty for all other
            networks.
        kappa: Bound of every recurrent operator norm, in (0, 1); the discount, which
            bounds the modulus in the sup norm, in the planner form; the modulus in the
            largest norm of a token in the attention form, if certified. The text form
            has no such bound.
        certified: Whether kappa bounds the modulus (attention form); otherwise that
            solves converge is only measured.
        rtol: Relative tolerance of a solve, > 0.
        max_steps: Most iterations of a solve, >= 0: of all layers, or one per layer.

    Raises:
        ConfigError: Fields are out of range or do not fit each other.
    """

    in_shape: InShape
    num_classes: Annotated[int, Meta(ge=2, le=2**16)]
    form: Literal["state", "wide", "planner", "text", "attention"]
    stem: Annotated[int, Meta(ge=0, le=4096)] = 0
    stem_stride: Ratio = 1
    stem_std: Positive = 1.0
    vocabulary: Vocabulary | None = None
    channels: Channels
    strides: Ratios = ()
    hidden: Channels = ()
    heads: Ratio = 4
    biased: bool = False
    asked: Annotated[str, Meta(max_length=100)] = ""
    pools: Ratios = ()
    unshuffle: Ratio = 1
    views: Views = ()
    head_width: Annotated[int, Meta(ge=0, le=2**16)] = 0
    cutoffs: Annotated[tuple[Count, ...], Meta(max_length=8)] = ()
    kappa: Annotated[float, Meta(gt=0, lt=1)] = 0.9
    certified: bool = False
    rtol: Tolerance = 0.1
    max_steps: Iterations | Annotated[tuple[Iterations, ...], _LAYERS] = 20

    def __post_init__(self) -> None:
        """Check ranges, and what the fields must agree on."""
        lists_to_tuples(self)
        check_fields(self)
        self._check_layers()
        self._check_inputs()
        if len(self.layer_steps) != len(self.channels):
            raise ConfigError("max_steps is one number, or one per layer")

    def _check_inputs(self) -> None:
        if self.asked and self.form != "attention":
            raise ConfigError("only networks that attend take asked; leave it out")
        if self.form == "attention" and self.reads_texts and not self.cutoffs:
            return
        if self.form == "text":
            if len(self.in_shape) != 1 or self.stem < 1:
                raise ConfigError(
                    "a text network needs in_shape=(words,) and a stem; set them, or, "
                    "for images, choose another preset (for texts: --dataset chains, "
                    "sudoku, imdb, wikitext2)"
                )
            self._check_cutoffs()
            return
        if self.cutoffs:
            raise ConfigError("only text networks take cutoffs; leave them out")
        if len(self.in_shape) != 3:
            raise ConfigError(
                f"this network is for images, not for texts of shape {self.in_shape}; "
                "choose the preset of the data set (chains, sudoku, reviews, language)"
            )
        _, height, width = self.in_shape
        if height != width:
            raise ConfigError(
                f"images must be square, not {height} x {width}; pad or crop them"
            )
        if height % self.unshuffle:
            raise ConfigError(f"unshuffle {self.unshuffle} does not divide {height}")

    def _check_cutoffs(self) -> None:
        if not self.cutoffs:
            return
        ends = [0, *self.cutoffs, self.num_classes]
        if self.head_width or self.stem_stride > 1 or sorted(set(ends)) != ends:
            raise ConfigError(
                f"cutoffs must rise from 1 to {self.num_classes - 1}, with head_width "
                f"0 and stem_stride 1, not {self.cutoffs}, {self.head_width} and "
                f"{self.stem_stride}"
            )
        if self.vocabulary is not None and len(self.vocabulary) != self.num_classes:
            raise ConfigError(
                f"a network with cutoffs predicts one of its {len(self.vocabulary)} "
                f"words; set num_classes to that, not to {self.num_classes}"
            )

    def _check_layers(self) -> None:
        of_form: dict[str, tuple[str, ...]] = {
            "text": (),
            "attention": ("hidden",),
            "state": ("strides",),
            "wide": ("strides", "hidden", "pools"),
            "planner": ("views",),
        }
        names = "channels", *of_form[self.form]
        lengths = {len(getattr(self, name)) for name in names}
        if len(lengths) != 1 or 0 in lengths:
            raise ConfigError(
                f"{' and '.join(names)} differ in length, or are empty; give one entry "
                "per layer"
            )
        if self.form == "attention":
            self._check_tokens()
        if self.form == "planner":
            is_map = len(self.in_shape) == 3 and self.in_shape[0] >= 3
            if len(set(self.channels)) > 1 or self.stem < 1 or not is_map:
                raise ConfigError(
                    "a planner needs images of three planes, a stem and equal "
                    "channels; choose another preset, or mazes as data (--dataset maze)"
                )
            if any(view and view % 2 == 0 for view in self.views):
                raise ConfigError(f"views must be odd, or 0, not {self.views}")

    def _check_tokens(self) -> None:
        if {*self.channels} != {self.stem} or self.stem % self.heads:
            raise ConfigError(
                "attention layers have the channels of the stem, which the heads "
                f"divide, not {self.channels}, {self.stem} and {self.heads}"
            )
        if len(self.in_shape) == 3 and self.in_shape[1] % self.stem_stride:
            raise ConfigError(
                f"patches of side {self.stem_stride} do not divide images of side "
                f"{self.in_shape[1]}; set stem_stride to a divisor"
            )
        if self.asked and (not self.reads_texts or self.stem_stride > 1):
            raise ConfigError(
                "only networks that read texts word by word (stem_stride 1) are asked "
                "for one; leave asked out"
            )
        if self.asked and self.vocabulary and self.asked not in self.vocabulary.words:
            raise ConfigError(
                f"these texts have no word {brief(self.asked)} that says what they ask "
                "for; choose the preset of the data set, or leave asked out"
            )

    @property
    def reads_texts(self) -> bool:
        """Whether inputs are tokens of texts, and no images."""
        return len(self.in_shape) == 1

    @property
    def layer_steps(self) -> tuple[int, ...]:
        """Most iterations of a solve, of each layer."""
        if isinstance(self.max_steps, int):
            return (self.max_steps,) * len(self.channels)
        return self.max_steps

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self)
