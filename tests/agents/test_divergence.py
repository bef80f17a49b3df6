"""No learner learns from a number that is not finite, nor keeps one."""

from itertools import product
from pathlib import Path

import pytest
import torch
from helpers.injection import QUANTITIES, Injection, moments, run

import train_agent

CASES = [(one, what) for one, quantities in QUANTITIES.items() for what in quantities]
VALUES = (float("nan"), float("inf"))


def check(learner: str, quantity: str, value: float, at: int) -> tuple[bool, int]:
    """Inject one number; return whether it was noticed, and the steps after it."""
    injection = Injection(quantity, value, at)
    error, module = run(learner, injection)
    assert injection.fired
    if error is not None and quantity != "weight":
        parts = module.state_dict().items()
        assert not [name for name, part in parts if not part.isfinite().all()]
    if error is not None:
        assert "\n" not in str(error) and ";" in str(error), "one line with a remedy"
    return error is not None, injection.applied


@pytest.mark.parametrize(("learner", "quantity"), CASES)
def test_the_first_number_that_is_not_finite_stops_a_training(
    learner: str, quantity: str
) -> None:
    assert check(learner, quantity, torch.nan, 2) == (True, 0)


def test_a_run_that_diverges_ends_in_one_line_and_keeps_no_agent(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path / "cache"))
    line = "train_agent.py --dataset digits --algo policy-gradient "
    line += "--policy-gradient.learning-rate 1e38 --total-timesteps 512"
    monkeypatch.setattr("sys.argv", line.split())
    assert train_agent.main() == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "--policy-gradient.learning-rate" in error
    kept = [path.name for path in (tmp_path / "runs").rglob("*")]
    assert not {"agent", "predictor", "results.json"} & set(kept)


@pytest.mark.slow
def test_every_injection_is_noticed_and_none_is_applied(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The whole table: learner, quantity, value, and moment, the last one included."""
    lines, all_found = [], []
    for learner, quantity in CASES:
        times = moments(learner, quantity)
        cases = product(VALUES, times.items())
        found = [check(learner, quantity, value, at) for value, (_, at) in cases]
        noticed, applied = sum(each[0] for each in found), sum(x[1] for x in found)
        words = f"{learner:16} {quantity:12} {len(found)} injected, {noticed} noticed"
        lines.append(f"{words}, {applied} applied")
        all_found += found
    with capsys.disabled():
        print("", *lines, f"{len(all_found)} in all", sep="\n")
    assert all(noticed for noticed, _ in all_found)
    assert sum(applied for _, applied in all_found) == 0
