"""How functions are compiled, and where their machine code is kept."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import numba
from numba import types
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    InTreeCacheLocator,
)
from numba.extending import intrinsic

from dynalay_gym.utils.io import cache_dir

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a function when it is first called; other threads may run meanwhile.

    Sums are taken in the order in which they are written (no `fastmath`). Each caller's
    library has its own copy of this function, optimised once more; which copy runs
    depends on whether they were compiled now or kept, and it must not matter.
    """
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    if not numba.config.DISABLE_JIT:
        with suppress(RuntimeError):  # no folder can be written: compile in every run
            dispatcher._cache = _Cache(function)
    return cast(F, dispatcher)


def inlined(function: F) -> F:
    """Compile a function as a part of each of its callers."""
    return cast(F, numba.njit(inline="always", error_model="numpy")(function))


@cache
def code_version() -> str:
    """Return a hash of the compiled functions' sources and of what compiles them.

    Kept code holds copies of the functions that it calls, in whichever file they are.
    """
    sources = sorted(Path(__file__).parent.glob("*.py"))
    text = b"".join(source.read_bytes() for source in sources)
    text += f"{numba.__version__} {llvmlite.__version__}".encode()
    return hashlib.sha256(text).hexdigest()[:16]


class _Folder(InTreeCacheLocator):
    """The folder that keeps this version's machine code."""

    def get_cache_path(self) -> str:
        """Return its path."""
        root = Path(numba.config.CACHE_DIR or cache_dir())
        return str(root / f"kernels-{code_version()}")


class _Files(CompileResultCacheImpl):
    """Files in that folder alone, never beside the sources."""

    _locator_classes = (_Folder,)


class _Cache(FunctionCache):
    """A cache that may fail: the function is compiled then."""

    _impl_class = _Files

    def _index_key(self, *args: Any) -> Any:
        return *super()._index_key(*args), code_version()

    def load_overload(self, *args: Any) -> Any:
        """Return kept code, or None."""
        try:
            return super().load_overload(*args)
        except Exception:  # whatever a damaged file makes of being unpickled
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, *args: Any) -> None:
        """Keep code, if it can be written."""
        with suppress(OSError):
            super().save_overload(*args)


def _set_noinline(context: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


# Called in a function, keeps it from being copied into its callers. Copies would take
# minutes to compile, and are slower: in a large function compilers no longer see that
# two arrays do not overlap.
noinline: Any = intrinsic(_set_noinline)
