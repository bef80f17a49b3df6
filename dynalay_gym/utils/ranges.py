"""Ranges of options: annotations of dataclass fields, and the check of them.

    batch_size: Count = 128

msgspec reads the same annotations where such a dataclass comes from JSON. A bound that
nobody reaches in earnest keeps a slip from running for ever or taking all memory. NaN
lies in no range.
"""

import re
from collections.abc import Iterator
from dataclasses import fields
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
from msgspec import Meta

from dynalay_gym.errors import ConfigError, brief
from dynalay_gym.utils.flags import flag

Count = Annotated[int, Meta(ge=1, le=10**6)]
BatchSize = Annotated[int, Meta(ge=2, le=10**6)]
CountOrNone = Annotated[int, Meta(ge=0, le=10**6)]
Timesteps = Annotated[int, Meta(ge=0, le=10**12)]
TotalTimesteps = Annotated[int, Meta(ge=1, le=10**12)]
Rows = Annotated[int, Meta(ge=1, le=10**9)]
Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]  # what NumPy's generators take
Threads = Annotated[int, Meta(ge=1, le=1024)]
Iterations = Annotated[int, Meta(ge=0, le=10_000)]
Portion = Annotated[int, Meta(ge=1, le=10_000)]
Tolerance = Annotated[float, Meta(gt=0, le=1)]
Positive = Annotated[float, Meta(gt=0, le=1e9)]
NotNegative = Annotated[float, Meta(ge=0, le=1e9)]
PenaltyUnit = Annotated[float, Meta(ge=1e-9, le=1e9)]
LearningRate = Annotated[float, Meta(gt=0, lt=10)]
Share = Annotated[float, Meta(ge=0, le=1)]
PartOfWhole = Annotated[float, Meta(gt=0, lt=1)]  # not nothing, and not all
Widths = Annotated[
    tuple[Annotated[int, Meta(ge=1, le=2**16)], ...], Meta(min_length=1, max_length=16)
]

_WORDS = {
    "int": "an integer",
    "float": "a number",
    "array": "a list",
    "str": "a text",
    "bool": "true or false",
    "null": "None",
    "|": "or",
    "`": "",
}


def check_fields(config: Any, group: str | None = None, leave_out: str = "") -> None:
    """Check every field of a dataclass against its annotation.

    Args:
        config: The dataclass. NumPy's numbers count as Python's.
        group: First part of the fields' flags, "" for flags without one; None if
            messages name the fields themselves.
        leave_out: Names of fields that are checked elsewhere, separated by spaces.

    Raises:
        ConfigError: A value has the wrong type or is out of range; the message says
            what is allowed.
    """
    schema = _schema(config.__class__, leave_out)
    values = {name: _plain(getattr(config, name)) for name in schema.__struct_fields__}
    try:
        msgspec.convert(values, schema)
    except msgspec.ValidationError as error:
        rule, _, path = str(error).partition(" - at `$.")
        name = re.split(r"[\[.`]", path)[0]
        choices = [*_choices(get_type_hints(schema)[name])]
        shown = name if group is None else flag(name, group)
        allowed = f"one of {', '.join(choices)}" if choices else _describe(rule)
        got = brief(getattr(config, name))
        raise ConfigError(f"{shown} must be {allowed}, not {got}") from None


def lists_to_tuples(config: Any) -> None:
    """Turn the lists of a frozen dataclass, which JSON has, into tuples."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, list):
            object.__setattr__(config, field.name, tuple(value))


def check_value(name: str, value: Any, allowed: Any) -> None:
    """Check one argument against an annotation, as `check_fields` does."""
    try:
        msgspec.convert(_plain(value), allowed)
    except msgspec.ValidationError as error:
        rule = _describe(str(error))
        raise ConfigError(f"{name} must be {rule}, not {brief(value)}") from None


@cache
def _schema(kind: type, leave_out: str) -> type[msgspec.Struct]:
    """Return a struct with the fields of a dataclass, which msgspec checks at once."""
    hints, skipped = get_type_hints(kind, include_extras=True), leave_out.split()
    names = [field.name for field in fields(kind) if field.name not in skipped]
    return msgspec.defstruct(kind.__name__, [(name, hints[name]) for name in names])


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _choices(hint: Any) -> Iterator[str]:
    """Yield the words that a hint allows; none if it is no choice of words."""
    if get_origin(hint) is Literal:
        yield from map(repr, get_args(hint))
    elif isinstance(hint, type) and issubclass(hint, Enum):
        yield from (repr(each.value) for each in hint)
    for part in get_args(hint):
        yield from _choices(part)


def _describe(message: str) -> str:
    """Return what msgspec's message says is expected, in words."""
    rule = message.removeprefix("Expected ").split(", got")[0].split(" - at")[0]
    parts = re.split(r"(`|\||\b\w+\b)", rule)
    return "".join(_WORDS.get(part, part) for part in parts)
