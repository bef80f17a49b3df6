"""Numbers that are not finite are found in tensors of every size."""

import pytest
import torch

from dynalay_gym.utils.finite import are_finite


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_broken_number_among_many(broken: float, place: int) -> None:
    parts = [torch.zeros(3, 2), torch.ones(2**16 + 1), torch.zeros(5)]
    assert are_finite(parts)
    parts[place].view(-1)[-1] = broken
    assert not are_finite(parts)


def test_nothing_is_finite_and_whole_numbers_are() -> None:
    assert are_finite([]) and are_finite([torch.empty(0)])
    largest = torch.full((3,), torch.finfo(torch.float64).max, dtype=torch.float64)
    assert are_finite([largest, torch.tensor([2**60])])
