"""How a network is wrapped: the blocks that are decided on, and what can be done."""

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

Mode = Literal["run", "skip", "iterate"]
Names = Annotated[
    tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1, max_length=512)
]
Modes = Annotated[tuple[Mode, ...], Meta(min_length=1, max_length=3)]


@dataclass(frozen=True, kw_only=True)
class WrapConfig:
    """What an agent decides on in somebody's network; JSON-able.

    Attributes:
        layers: Names of the blocks, as in ``named_modules()``. They are decided on in
            the order in which the network runs them.
        modes: What can be done with a block: ``run`` it once, as trained; ``skip`` it;
            ``iterate`` it.
        rest: What is done with blocks that are not decided on, ``skip`` or ``run``.
            None skips them if they can be skipped. To run them, all must be able to be
            iterated.
        iteration: What is iterated, with x the block's input and f the block:
            ``residual``, which is ``z = x + (f(z) - z)``, repeats the branch of a
            residual block; ``plain`` is ``z = f(z)``. Both start at x, so that the
            first step, undamped, is f(x): the block run once.
        damping: Share of the way that an iteration goes, in (0, 1].
        rtol: Relative tolerance of a solve, > 0.
        max_steps: Most iterations of a solve, >= 1.
        channels: Where the channels of a block's input are, ``first`` ([n, C, ...]) or
            ``last`` ([n, ..., C]). Observations hold their means over all other axes.
            None: first in maps [n, C, H, W], last in tokens [n, T, D].

    Raises:
        ConfigError: Fields are out of range or do not fit each other.
    """

    layers: Names
    modes: Modes = ("run", "skip")
    rest: Literal["run", "skip"] | None = None
    iteration: Literal["residual", "plain"] = "residual"
    damping: Annotated[float, Meta(gt=0, le=1)] = 0.5
    rtol: Tolerance = 1e-2
    max_steps: Portion = 30
    channels: Literal["first", "last"] | None = None

    def __post_init__(self) -> None:
        """Check ranges, and what the fields must agree on."""
        lists_to_tuples(self)
        check_fields(self)
        if len(set(self.layers)) < len(self.layers):
            raise ConfigError("a block is named twice in layers; name each once")
        if "run" not in self.modes or len(set(self.modes)) < max(2, len(self.modes)):
            raise ConfigError(
                f"modes={self.modes} leaves nothing to decide; give 'run' and at least "
                "one of 'skip' and 'iterate'"
            )
        if self.rest is None:
            rest = "skip" if "skip" in self.modes else "run"
            object.__setattr__(self, "rest", rest)
        wanted = {"skip": "skip", "run": "iterate"}[self.rest or "skip"]
        if wanted not in self.modes:
            raise ConfigError(
                f"rest={self.rest!r} with modes={self.modes} leaves nothing to gain; "
                f"add {wanted!r} to the modes"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)
