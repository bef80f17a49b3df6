"""The automaton of stacked layers, against its rule written by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynalay_gym.sessions.states import (
    layer_levels,
    layer_states,
    useful_actions,
)

SIZES = [(layers, levels) for layers in (1, 2, 3, 4) for levels in (1, 2, 3)]


class Layers:
    """The rule itself: choosing a layer raises it and undoes what is above."""

    def __init__(self, num_layers: int, num_levels: int, state: int = 0) -> None:
        self.base = num_levels + 1
        self.levels = [state // self.base**i % self.base for i in range(num_layers)]

    def choose(self, action: int) -> None:
        if action == 0:
            return
        layer = action - 1
        if self.levels[layer] < self.base - 1:
            self.levels[layer] += 1
        for above in range(layer + 1, len(self.levels)):
            self.levels[above] = 0

    @property
    def state(self) -> int:
        return sum(level * self.base**i for i, level in enumerate(self.levels))


@pytest.mark.parametrize(("num_layers", "num_levels"), SIZES)
def test_every_transition_is_that_of_the_rule(num_layers: int, num_levels: int) -> None:
    table = layer_states((num_levels,) * num_layers)
    assert table.shape == ((num_levels + 1) ** num_layers, num_layers + 1)
    assert table.dtype == np.int64
    for state in range(len(table)):
        for action in range(num_layers + 1):
            layers = Layers(num_layers, num_levels, state)
            layers.choose(action)
            assert table[state, action] == layers.state


def test_the_automaton_of_two_layers() -> None:
    expected = [[0, 1, 2], [1, 1, 3], [2, 1, 2], [3, 1, 3]]
    assert layer_states((1, 1)).tolist() == expected


@pytest.mark.parametrize(("num_layers", "num_levels"), SIZES)
def test_levels_are_the_digits_of_a_state(num_layers: int, num_levels: int) -> None:
    levels = layer_levels((num_levels,) * num_layers)
    for state, found in enumerate(levels.tolist()):
        assert found == Layers(num_layers, num_levels, state).levels


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(SIZES), st.data())
def test_any_sequence_of_actions(size: tuple[int, int], data: st.DataObject) -> None:
    actions = data.draw(st.lists(st.integers(0, size[0]), max_size=12))
    start = data.draw(st.integers(0, (size[1] + 1) ** size[0] - 1))
    layers, table, state = (
        Layers(*size, start),
        layer_states((size[1],) * size[0]),
        start,
    )
    for action in actions:
        layers.choose(action)
        state = int(table[state, action])
    assert state == layers.state


@pytest.mark.parametrize(("num_layers", "num_levels"), SIZES)
def test_an_action_is_useful_if_it_changes_the_state(
    num_layers: int, num_levels: int
) -> None:
    table = layer_states((num_levels,) * num_layers)
    useful, levels = useful_actions(table), layer_levels((num_levels,) * num_layers)
    assert useful.shape == table.shape
    for state in range(len(table)):
        assert useful[state, 0]
        for layer in range(num_layers):
            rises = levels[state, layer] < num_levels
            clears = levels[state, layer + 1 :].any()
            assert useful[state, layer + 1] == (rises or clears)
