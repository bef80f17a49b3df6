"""Other values in the manifest of a saved folder, honestly signed."""

from collections.abc import Callable, Iterator
from functools import partial
from operator import mul
from pathlib import Path
from typing import Any

from benchmarks.reliability.variant import (
    Variant,
    other_for,
    read_manifest,
    write_manifest,
)

_HUGE = 10**18

# What is put in the place of every fact.
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    2,
    -1,
    3,
    20.5,
    1e-300,
    1e30,
    -0.5,
    10**6,
    10**9,
    _HUGE,
    -_HUGE,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "1",
    "nul \0 in it",
    "../../etc/passwd",
    "long" * 10_000,
    "lone \ud800 surrogate",
    [],
    [0],
    [-1],
    [10**9],
    [1.5, 2.5],
    ["a"],
    [True],
    [[1]],
    [1] * 27,
    [0] * 10**6,
    {},
    {"a": 1},
)


def of_values(manifest: dict[str, Any]) -> Iterator[Variant]:
    """Yield changes of every value in a manifest."""
    for path in _paths(manifest):
        if path == ("sha256",):
            continue
        name = ".".join(map(str, path))
        old = _at(manifest, path)
        for value in _VALUES:
            if type(value) is not type(old) or value != old:
                shown = str(value)[:20]
                yield _valued(f"{name} = {shown}", path, partial(other_for, value))
        yield _valued(f"{name} as a text", path, str)
        yield _valued(f"{name} in a list", path, lambda value: [value])
        yield _valued(f"{name} missing", path, None)
        if isinstance(old, int | float) and not isinstance(old, bool):
            for factor in (2, 1.001, -1, 1e6):
                yield _valued(f"{name} * {factor}", path, partial(mul, factor))
        if isinstance(old, dict):
            edit = lambda value: value | {"colour": "red"}  # noqa: E731
            yield _valued(f"{name} with a field more", path, edit)
        if isinstance(old, list):
            yield _valued(f"{name} longer", path, lambda value: value + value[-1:])
            yield _valued(f"{name} shorter", path, lambda value: value[:-1])
            yield _valued(f"{name} reversed", path, lambda value: value[::-1])


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value in a nested one; of many alike, of two."""
    if path:
        yield path
    items: Any = []
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    is_alike = isinstance(value, list) or len(path) > 3
    for key, each in list(items)[: 2 if is_alike else None]:
        yield from _paths(each, (*path, key))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _valued(
    name: str, path: tuple[Any, ...], edit: Callable[[Any], Any] | None
) -> Variant:
    def change(folder: Path) -> None:
        manifest = read_manifest(folder)
        *above, key = path
        place = _at(manifest, tuple(above))
        if edit is None:
            del place[key]
        else:
            place[key] = edit(place[key])
        write_manifest(folder, manifest)

    return Variant(f"value: {name}", change, signed=True)
