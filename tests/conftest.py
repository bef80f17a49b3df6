"""What every test runs under."""

import os
import signal
import sys
from collections.abc import Iterator

import pytest
import torch

from dynalay_gym.storage.io import cache_dir

# Processes that a test starts with another cache folder need not compile anew.
os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_dir()))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what `make test-plain` runs with."""
    text = "run as if Numba, which is optional, were not installed"
    parser.addoption("--without-numba", action="store_true", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Make Numba unimportable, before anything has imported it."""
    if config.getoption("--without-numba"):
        assert "numba" not in sys.modules
        sys.modules["numba"] = None  # type: ignore[assignment]


@pytest.fixture(autouse=True, scope="session")
def signals_arrive() -> Iterator[None]:
    """Shells ignore SIGINT, and nohup SIGHUP, in what runs in the background."""
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    hang_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGHUP, hang_up)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small tensors are several times slower with a thread per core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
