"""Memory: how much can still be taken, and a check before much is."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dynalay_gym.errors import ConfigError

if TYPE_CHECKING:
    import torch

# Limit and use of the control group that a container runs in, version 2 and 1.
_GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
_CACHES = ("active_file", "inactive_file")


def check_memory(
    needed: int, what: str, remedy: str, device: "torch.device | None" = None
) -> None:
    """Check that memory is there before it is taken.

    Args:
        needed: Bytes.
        what: What needs them.
        remedy: What to do where they are not free.
        device: Where they are taken; main memory if None.

    Raises:
        ConfigError: Fewer bytes than `needed` are free; the message names what needs
            them, and the remedy.
    """
    if device is not None and device.type == "cuda":
        import torch

        # PyTorch's own pool counts as taken there, and yet can be used.
        pool = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free: int | None = torch.cuda.mem_get_info(device)[0] + pool
    else:
        free = available_memory()
    if free is not None and needed > free:
        raise ConfigError(
            f"{what} would take {needed / 2**20:,.0f} MiB of memory and "
            f"{free / 2**20:,.0f} MiB are free; {remedy}"
        )


def available_memory() -> int | None:
    """Bytes of main memory that can still be taken; None where nobody says."""
    return min(_limits(), default=None)


def _limits() -> Iterator[int]:
    """Yield what machine, container and process may still take, where it is known."""
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024
    for group, *names in _GROUPS:
        most, taken = (_read(f"{group}/{name}").strip() for name in names)
        if most.isdecimal() and taken.isdecimal():
            yield int(most) - int(taken) + _cached(_read(f"{group}/memory.stat"))
    if sys.platform != "win32":
        import resource

        most_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most_bytes != resource.RLIM_INFINITY and (used := _read("/proc/self/statm")):
            yield most_bytes - int(used.split()[0]) * resource.getpagesize()


def _cached(stat: str) -> int:
    """Return the bytes of files that a group keeps until somebody needs the room."""
    lines = (line.split() for line in stat.splitlines())
    return sum(int(number) for name, number in lines if name in _CACHES)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""
