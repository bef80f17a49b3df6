"""The states of a network as an automaton: one table, from which all rules follow.

Axes: S states, A actions, L layers.
"""

import numpy as np
from numpy.typing import NDArray

Automaton = NDArray[np.int64]  # state that an action leads to, [S, A]


def layer_levels(num_layers: int, num_levels: int = 1) -> NDArray[np.int64]:
    """Return the level of each layer in every state, int64 [S, L].

    State 0 has every layer at level 0, applied plainly; layer 1 is the lowest digit of
    a state's number in base ``num_levels + 1``.
    """
    base = num_levels + 1
    states = np.arange(base**num_layers)[:, None]
    return states // base ** np.arange(num_layers) % base


def layer_states(num_layers: int, num_levels: int = 1) -> Automaton:
    """Return the automaton of layers stacked on each other, ``next_state`` [S, A].

    Action l raises the level of layer l, up to `num_levels`, and returns the layers
    above it to level 0, because their input has changed. Action 0 changes nothing.

    Args:
        num_layers: Layers L; A = L + 1.
        num_levels: Levels of a layer beside 0; 1 if an action iterates to the end.
    """
    levels = layer_levels(num_layers, num_levels)
    digits = (num_levels + 1) ** np.arange(num_layers)
    columns = [levels @ digits]
    for layer in range(num_layers):
        reached = levels.copy()
        reached[:, layer] = np.minimum(reached[:, layer] + 1, num_levels)
        reached[:, layer + 1 :] = 0
        columns.append(reached @ digits)
    return np.stack(columns, axis=1)


def useful_actions(next_state: Automaton) -> NDArray[np.bool_]:
    """Return which actions lead to another state, bool [S, A]; 0 always is allowed."""
    useful: NDArray[np.bool_] = next_state != np.arange(len(next_state))[:, None]
    useful[:, 0] = True
    return useful
