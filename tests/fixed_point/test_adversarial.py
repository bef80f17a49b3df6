"""Solves that ought to go wrong: whatever is no solution says so in its status.

Maps that contract and maps that expand (norm up to 3, set by hand), hostile inputs, all
types and methods. A value that is called converged is put into the map once more, in
the same arithmetic.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from dynalay_gym.fixed_point.layers import (
    ConvFixedPointLayer,
    DenseFixedPointLayer,
    FixedPointLayer,
)
from dynalay_gym.fixed_point.progress import SolveResult, SolverStatus
from dynalay_gym.fixed_point.rows import channels_last
from dynalay_gym.fixed_point.solve import SolverConfig, SolverMethod

ROWS = 20
SPECIAL = (0.0, 1e30, 3e38, -1e30, 1e-30, 1e-42, torch.nan, torch.inf, -torch.inf)
SPACING = 1.5e-45  # of the smallest numbers in single precision
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-6}


@dataclass
class Case:
    """One batch of solves.

    Attributes:
        layer: Frozen; its weight has the norm `norm`, below or above 1.
        norm: That norm.
        x: Inputs; half of the rows are hostile.
        config: Tolerance, steps and method.
        autocast: Whether products are computed in half precision.
    """

    layer: FixedPointLayer
    norm: float
    x: Tensor
    config: SolverConfig
    autocast: bool

    def solve(self) -> SolveResult:
        with torch.autocast("cpu", torch.bfloat16, self.autocast):
            return self.layer.solve(self.x, solver=self.config)

    def next_residual(self, value: Tensor) -> Tensor:
        x = self.x
        if self.config.method is SolverMethod.ANDERSON:  # as it solves
            x, value = channels_last(x), channels_last(value)
        with torch.autocast("cpu", torch.bfloat16, self.autocast):
            return self.layer.check(x, value, self.config).residual


def draw(rng: np.random.Generator) -> Case:
    torch.manual_seed(int(rng.integers(2**31)))
    dtype = [torch.float32, torch.bfloat16, torch.float64][rng.integers(3)]
    layer: FixedPointLayer = ConvFixedPointLayer(4, 5, 5, kappa=0.9)
    if rng.random() < 0.5:
        layer = DenseFixedPointLayer(9, kappa=0.9)
    norm = float(rng.uniform(0.3, 3.0))
    with torch.no_grad():
        if rng.random() < 0.5:
            layer.free_weight.abs_()
        layer.free_weight.mul_(100)
    layer.kappa = norm  # past what a constructor lets in
    layer.to(dtype).freeze()
    x = torch.randn(ROWS, *layer.state_shape) * 10.0 ** int(rng.integers(-3, 4))
    for row in range(ROWS // 2):
        special = SPECIAL[rng.integers(len(SPECIAL))]
        where = torch.rand(x[row].shape) < rng.choice([0.1, 1.0])
        x[row] = torch.where(where, special, x[row])
    config = SolverConfig(
        rtol=10.0 ** -float(rng.uniform(0.5, 6)),
        max_steps=int(rng.integers(1, 80)),
        method=list(SolverMethod)[rng.integers(2)],
    )
    autocast = dtype is torch.float32 and rng.random() < 0.3
    return Case(layer, norm, x.to(dtype), config, bool(autocast))


def unflagged(case: Case, result: SolveResult) -> Tensor:
    """Which rows are called converged and are not, bool [n]."""
    rtol = case.config.rtol
    found = case.next_residual(result.value)
    limit = rtol
    if case.config.method is SolverMethod.PLAIN:
        # Its test is on the step to the value; the next one is at most `norm` times it.
        grown = case.norm * rtol
        dtype = torch.bfloat16 if case.autocast else case.x.dtype
        limit = max(grown, rtol) / max(1 - grown, 1e-9) + ROUNDING[dtype]
    image = torch.relu(case.x.double()).flatten(1)
    tiny = result.value.double().flatten(1).norm(dim=1) + image.norm(dim=1) < 1e-36
    wrong = ~(found <= limit) & ~tiny
    wrong |= ~result.value.flatten(1).isfinite().all(1)
    return wrong & (result.status == SolverStatus.CONVERGED)


def count(num: int) -> dict[str, int]:
    """Solve num systems; count how they ended, and what is called what it is not."""
    rng = np.random.default_rng(0)
    names = [status.name.lower() for status in SolverStatus]
    total = dict.fromkeys([*names, "unflagged", "solves"], 0)
    with torch.no_grad(), np.errstate(all="raise"):
        for _ in range(num // ROWS):
            case = draw(rng)
            result = case.solve()
            for status in SolverStatus:
                total[names[status]] += int((result.status == status).sum())
            # An input of minus infinity is a unit that stays at 0.
            broken = (case.x.isnan() | case.x.isposinf()).flatten(1).any(1)
            assert (result.status[broken] != SolverStatus.CONVERGED).all()
            total["unflagged"] += int(unflagged(case, result).sum())
            total["solves"] += ROWS
    return total


def test_no_solve_is_called_what_it_is_not() -> None:
    assert count(1_000)["unflagged"] == 0


@pytest.mark.slow
def test_ten_thousand_solves(capsys: pytest.CaptureFixture[str]) -> None:
    total = count(10_000)
    with capsys.disabled():
        print(f"\n{total}")
    assert total["unflagged"] == 0
    assert min(total[name] for name in ("converged", "max_steps", "nonfinite")) > 500
