"""JSON read through declared types: a dataclass says what a file may hold.

Importing it loads no torch.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from dynalay_gym.errors import CheckpointError

T = TypeVar("T")


def parse_json(data: bytes, where: object) -> Any:
    """Return what JSON holds; numbers that are not finite are no JSON.

    Args:
        data: The text, UTF-8.
        where: Where it comes from, for the message.

    Raises:
        CheckpointError: It is malformed, or nested too deeply.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise CheckpointError(
            f"{where} is truncated or corrupt ({error}); copy it again, or make it "
            "again"
        ) from None


def json_digest(value: Mapping[str, Any]) -> str:
    """Return the sha256 of a JSON object; its own field ``sha256`` is left out."""
    rest = {key: each for key, each in value.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_as(value: Any, schema: type[T], where: object) -> T:
    """Return a plain value as a declared type.

    Args:
        value: What `parse_json` returned, or a part of it.
        schema: A type of msgspec's, as a rule a dataclass with ranges in its
            annotations or in ``__post_init__``. Numbers are not converted: 1.0 and
            true are no int.
        where: Where the value comes from, for the message.

    Raises:
        CheckpointError: A field is missing, unknown, of another type, or out of range.
    """
    try:
        found = msgspec.convert(value, schema)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{where} does not hold what this version reads ({reason}); make it again"
        ) from None
    unknown = _first_unknown(value, msgspec.to_builtins(found))
    if unknown is not None:
        raise CheckpointError(
            f"{where} has a field {unknown!r} that this version does not know; make it "
            "again"
        )
    return found


def _first_unknown(given: Any, known: Any) -> str | None:
    """Return a key of a nested value that its declared form has no place for."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            if key not in known:
                return str(key)
            if (found := _first_unknown(value, known[key])) is not None:
                return found
    if isinstance(given, list) and isinstance(known, list | tuple):
        parts = zip(given, known, strict=True)
        return next((f for a, b in parts if (f := _first_unknown(a, b))), None)
    return None
