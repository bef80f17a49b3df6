"""RLlib on a simulated cluster: a killed env runner is replaced, with the weights."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_killed_env_runner_is_replaced_and_gets_the_weights() -> None:
    pytest.importorskip("ray.rllib", exc_type=ImportError)
    line = [sys.executable, "-m", "benchmarks.rllib_cluster"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    numbers = [
        int(found) for found in re.findall(r"(\d) env runners$", done.stdout, re.M)
    ]
    assert (numbers[0], numbers[1], numbers[-1]) == (2, 1, 2)
    assert "sample: [True, True], which is another observation: True" in done.stdout
