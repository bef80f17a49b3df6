"""Nothing of a saved training is used before it is what belongs there."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dynalay_gym.errors import CheckpointError
from dynalay_gym.storage.training_state import load_training_state, take, training_state

Optimizers = {
    "adam": lambda net: torch.optim.Adam(net.parameters()),
    "fused": lambda net: torch.optim.Adam(net.parameters(), fused=True),
    "adamw": lambda net: torch.optim.AdamW(net.parameters()),
    "rmsprop": lambda net: torch.optim.RMSprop(net.parameters(), momentum=0.1),
}
PARTS = "network/weight optimizer/0/step optimizer/1/exp_avg optimizer/1/exp_avg_sq"


def trained(
    make: Callable[[nn.Module], torch.optim.Optimizer],
) -> tuple[nn.Module, torch.optim.Optimizer, dict[str, Tensor]]:
    net = nn.Linear(3, 2)
    optimizer = make(net)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = training_state(net, optimizer, torch.Generator())
    return net, optimizer, {name: part.clone() for name, part in state.items()}


@pytest.mark.parametrize("make", Optimizers.values(), ids=Optimizers)
def test_moments_come_back(make: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
    *_, state = trained(make)
    other = nn.Linear(3, 2)
    fresh = make(other)
    load_training_state(state, other, fresh, torch.Generator())
    found = training_state(other, fresh, torch.Generator())
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], part) for name, part in state.items())


def test_what_has_never_learned_has_no_moments() -> None:
    net, optimizer, state = trained(Optimizers["adam"])
    kept = {k: v for k, v in state.items() if not k.startswith("optimizer/0/")}
    load_training_state(kept, net, optimizer, torch.Generator())
    assert len(optimizer.state) == 1


BAD: dict[str, Callable[[Tensor], Tensor]] = {
    "another shape": lambda part: torch.zeros(7),
    "another type": lambda part: part.to(torch.complex64),
    "a scalar": lambda part: torch.zeros(()) if part.ndim else torch.zeros(1),
}


@pytest.mark.parametrize("part", [*PARTS.split(), "generator"])
@pytest.mark.parametrize("edit", BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused(
    edit: Callable[[Tensor], Tensor], part: str
) -> None:
    net, optimizer, state = trained(Optimizers["adam"])
    before = net.weight.detach().clone()
    for changed in ({part: edit(state[part])}, {part + "x": state[part]}):
        kept = {
            k: v for k, v in state.items() if part + "x" not in changed or k != part
        }
        with pytest.raises(CheckpointError) as caught:
            load_training_state(kept | changed, net, optimizer, torch.Generator())
        assert "\n" not in str(caught.value)
    assert torch.equal(net.weight, before)


@pytest.mark.parametrize("name", ["0/step", "1/exp_avg_sq"])
def test_counts_and_squares_are_not_negative(name: str) -> None:
    net, optimizer, state = trained(Optimizers["adam"])
    changed = state | {f"optimizer/{name}": -state[f"optimizer/{name}"] - 1}
    with pytest.raises(CheckpointError, match="negative"):
        load_training_state(changed, net, optimizer, torch.Generator())


def test_a_generators_state_is_one() -> None:
    net, optimizer, state = trained(Optimizers["adam"])
    changed = state | {"generator": torch.full_like(state["generator"], 255)}
    with pytest.raises(CheckpointError, match="generator"):
        load_training_state(changed, net, optimizer, torch.Generator())


def test_take_by_hand() -> None:
    tensors = {"a": torch.tensor([[1, 2], [3, 4]])}
    assert take(tensors, "a", torch.int64, (None, 2), least=1, most=4) is not None
    for how in (
        {"dtype": torch.int32, "shape": (2, 2)},
        {"dtype": torch.int64, "shape": (2, 3)},
        {"dtype": torch.int64, "shape": (None,)},
        {"dtype": torch.int64, "shape": (2, 2), "least": 2},
        {"dtype": torch.int64, "shape": (2, 2), "most": 3},
    ):
        with pytest.raises(CheckpointError, match="'a' that does not belong there"):
            take(tensors, "a", **how)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="has no 'b'"):
        take(tensors, "b", torch.int64)
