"""How functions are compiled, and where their machine code is kept."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import numba

from dynalay_gym.utils.io import cache_dir

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a function when it is first called; other threads may run meanwhile."""
    return _compile(function)


def fast_reduction(function: F) -> F:
    """The same; a sum may be taken in an order that suits vectors, always the same."""
    return _compile(function, fastmath={"reassoc", "nsz"})


def _compile(function: F, **options: Any) -> F:
    config: Any = numba.config
    if config.DISABLE_JIT:
        raise RuntimeError("these functions only run compiled: unset NUMBA_DISABLE_JIT")
    options |= {"nogil": True, "error_model": "numpy"}
    before = config.CACHE_DIR
    config.CACHE_DIR = str(Path(before or cache_dir()) / f"kernels-{code_version()}")
    try:
        return cast(F, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # there is no folder that could be written
        return cast(F, numba.njit(**options)(function))
    finally:
        config.CACHE_DIR = before


@cache
def code_version() -> str:
    """Hash of the compiled functions' sources and of what compiles them.

    Kept code is found by the file of its own function. It holds a copy of the functions
    that this one calls, so a change in one file must make all of it new.
    """
    sources = sorted(Path(__file__).parent.glob("*.py"))
    text = b"".join(source.read_bytes() for source in sources)
    text += f"{numba.__version__} {llvmlite.__version__}".encode()
    return hashlib.sha256(text).hexdigest()[:16]
