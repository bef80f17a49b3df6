"""How functions are compiled, and where their machine code is kept."""

import hashlib
import os
import pickle
import warnings
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
from numba.core.serialize import dumps
from numba.extending import intrinsic

from dynalay_gym.storage.io import cache_dir, write_file

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

    def ensure_cache_path(self) -> None:
        """Make it; raise an OSError if it cannot be written, or others can."""
        folder = Path(self.get_cache_path())
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _is_private(folder.stat()):
            warnings.warn(
                f"kernels are compiled in every run: others can write to {folder}; "
                "remove it, or point DYNALAY_CACHE_DIR at a folder of your own",
                stacklevel=2,
            )
            raise PermissionError(f"others can write to {folder}")
        super().ensure_cache_path()


class _Implementation(CompileResultCacheImpl):
    """What is kept lies in that folder, never beside the sources."""

    _locator_classes = (_Folder,)


class _Files:
    """One file per function and types: a hash, and what it is the hash of.

    Args:
        prefix: Path of the files, up to what their key adds.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def save(self, key: Any, code: Any) -> None:
        """Write a function's code; raise an OSError if that cannot be done."""
        content = dumps((key, code))

        def write(draft: Path) -> None:
            draft.touch(mode=0o600)  # the user's alone, whatever the umask
            draft.write_bytes(hashlib.sha256(content).digest() + content)

        write_file(self._path(key), write)

    def load(self, key: Any) -> Any:
        """Return a function's code; None unless a whole file of it is there."""
        with suppress(FileNotFoundError), open(self._path(key), "rb") as file:
            kept, is_own = file.read(), _is_private(os.fstat(file.fileno()))
            digest, content = kept[:32], kept[32:]
            # Numba's machine code has no form but pickle, which executes what is in it:
            # only a whole file that this user alone can write gets there.
            if is_own and hashlib.sha256(content).digest() == digest:
                stored, code = pickle.loads(content)
                return code if stored == key else None
        return None

    def _path(self, key: Any) -> str:
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        return f"{self._prefix}-{name}.nbc"


class _Cache(FunctionCache):
    """A cache that may fail: the function is compiled then."""

    _impl_class = _Implementation

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        folder = Path(self.cache_path)
        self._cache_file = _Files(str(folder / self._impl.filename_base))

    def _index_key(self, *args: Any) -> Any:
        source = self._impl.locator.get_source_stamp()
        return *super()._index_key(*args), source, code_version()

    def load_overload(self, *args: Any) -> Any:
        """Return kept code, or None."""
        try:
            return super().load_overload(*args)
        except Exception:  # the code may be whole and still not fit this machine
            return None

    def save_overload(self, *args: Any) -> None:
        """Keep code, if it can be written."""
        with suppress(OSError):
            super().save_overload(*args)


def _is_private(status: os.stat_result) -> bool:
    """Return whether a file or folder is the user's, and nobody else can write it."""
    if not hasattr(os, "getuid"):  # Windows: the profile's folders are private
        return True
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _set_noinline(context: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


# Called in a function, keeps it from being copied into its callers. Copies would take
# minutes to compile, and are slower: in a large function compilers no longer see that
# two arrays do not overlap.
noinline: Any = intrinsic(_set_noinline)
