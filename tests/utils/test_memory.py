"""What may still be taken: by the machine, the container and the process."""

import sys

import pytest

from dynalay_gym.errors import ConfigError
from dynalay_gym.utils import memory

FILES = {
    "/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n",
    "/sys/fs/cgroup/memory.max": "3000000\n",
    "/sys/fs/cgroup/memory.current": "1000000\n",
}
# Files that were read: they make room for what needs it.
CACHED = "anon 90\nfile 900\nactive_file 300\ninactive_file 500\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (FILES, 2_000_000),
        (FILES | {"/sys/fs/cgroup/memory.stat": CACHED}, 2_000_800),
        (FILES | {"/sys/fs/cgroup/memory.max": "max\n"}, 4_096_000),
        ({}, None),
    ],
)
def test_the_tightest_limit_counts(files, expected, monkeypatch) -> None:
    monkeypatch.setattr(memory, "_read", lambda path: files.get(path, ""))
    assert memory.available_memory() == expected


@pytest.mark.skipif(sys.platform == "win32", reason="Unix has this limit")
def test_a_limit_of_the_process_counts(monkeypatch) -> None:
    import resource

    limit = 10 * resource.getpagesize()
    files = FILES | {"/proc/self/statm": "4 3 2 1 0 0 0\n"}
    monkeypatch.setattr(memory, "_read", lambda path: files.get(path, ""))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert memory.available_memory() == 6 * resource.getpagesize()


def test_what_does_not_fit_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 3 * 2**20)
    memory.check_memory(3 * 2**20, "a table", "use less")
    words = "a table would take 4,096 MiB of memory and 3 MiB are free; use less"
    with pytest.raises(ConfigError, match=words):
        memory.check_memory(4 * 2**30, "a table", "use less")
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    memory.check_memory(2**60, "anything", "nobody knows better")
