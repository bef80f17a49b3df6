"""How functions are compiled, and where their machine code is kept."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from dynalay_gym.cache_folder import cache_dir

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a function when it is first called; other threads may run meanwhile."""
    return _compile(function)


def compiled_sum(function: F) -> F:
    """The same; a sum may be taken in an order that suits vectors, always the same."""
    return _compile(function, fastmath={"reassoc", "nsz"})


def _compile(function: F, **options: Any) -> F:
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(Path(before or cache_dir()) / f"kernels-{_version()}")
    try:
        compiler = numba.njit(nogil=True, cache=True, error_model="numpy", **options)
        return cast(F, compiler(function))
    finally:
        config.CACHE_DIR = before


@cache
def _version() -> str:
    """Hash of the compiled functions' sources.

    Kept code is found by the file of its own function. It holds a copy of the functions
    that this one calls, so a change in one file must make all of it new.
    """
    sources = sorted(Path(__file__).parent.glob("*.py"))
    text = b"".join(source.read_bytes() for source in sources)
    return hashlib.sha256(text).hexdigest()[:16]
