"""What every test runs under."""

import os
from collections.abc import Iterator

import pytest
import torch

from dynalay_gym.utils.io import cache_dir

# Processes that a test starts with another cache folder need not compile anew.
os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_dir()))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small tensors are several times slower with a thread per core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
