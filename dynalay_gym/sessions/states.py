"""The states of a network as an automaton: one table, from which all rules follow.

Axes: S states, A actions, L layers.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import device
from torch.nn import functional as F

from dynalay_gym.errors import ConfigError
from dynalay_gym.sessions.protocol import FiniteStates, NetworkSession
from dynalay_gym.utils.ranges import Portion, check_value

MOST_STATES = 2**16
Automaton = NDArray[np.int64]  # state that an action leads to, [S, A]


def layer_levels(num_levels: Sequence[int]) -> NDArray[np.int64]:
    """Return the level of each layer in every state, int64 [S, L].

    State 0 has every layer at level 0, applied plainly; the levels are the digits of a
    state's number, layer 1 the lowest.

    Args:
        num_levels: Levels of each layer beside 0; 1 if an action iterates to the end.
    """
    places = _places(num_levels)
    states = np.arange(places[-1])[:, None]
    levels: NDArray[np.int64] = states // places[:-1] % (np.asarray(num_levels) + 1)
    return levels


def layer_states(num_levels: Sequence[int]) -> Automaton:
    """Return the automaton of layers stacked on each other, ``next_state`` [S, A].

    Action l raises the level of layer l, as long as there is one, and returns the
    layers above it to level 0, because their input has changed. Action 0 changes
    nothing.

    Args:
        num_levels: Levels of each layer beside 0; 1 if an action iterates to the end.
            A is the number of layers plus 1.
    """
    levels, places = layer_levels(num_levels), _places(num_levels)[:-1]
    columns = [levels @ places]
    for layer, most in enumerate(num_levels):
        reached = levels.copy()
        reached[:, layer] = np.minimum(reached[:, layer] + 1, most)
        reached[:, layer + 1 :] = 0
        columns.append(reached @ places)
    return np.stack(columns, axis=1)


def _places(num_levels: Sequence[int]) -> NDArray[np.int64]:
    """Return what each digit of a state's number counts, and the number of states."""
    return np.cumprod([1, *(most + 1 for most in num_levels)], dtype=np.int64)


def default_decisions(session: NetworkSession) -> int:
    """Return how many decisions *always* takes at most, the one to stop included.

    A session without finite states says it (``most_decisions``), or gets as many as it
    has actions.
    """
    if not isinstance(session, FiniteStates):
        return int(getattr(session, "most_decisions", len(session.action_names)))
    state, taken = 0, 1
    for action in session.full_plan:
        while session.next_state[state, action] != state:
            state, taken = session.next_state[state, action], taken + 1
    return taken


def useful_actions(next_state: Automaton) -> NDArray[np.bool_]:
    """Return which actions lead to another state, bool [S, A]; 0 always is allowed."""
    useful: NDArray[np.bool_] = next_state != np.arange(len(next_state))[:, None]
    useful[:, 0] = True
    return useful


class Levels:
    """The states of stacked layers whose solves are taken at once or in portions.

    Attributes:
        next_state: State that an action leads to, int64 [S, A], a NumPy array.
        reached: The same as a tensor.
        useful: Which actions lead to another state, bool [S, A].
        level: Portions that each layer has taken, int64 [S, L].
        share: The same as a share of all of its portions, float32 [S, L].
        is_done: Whether an action's layer has taken all of them, bool [S, A].
        pattern: Which layers are iterated, int64 [S]; bit l - 1 is layer l.
        same_cost: State from which an action takes as much, int64 [S, A], NumPy: the
            layers above the action's own are at level 0.
        iterations: Those that each level stands for, one tensor int64 [levels] a layer.

    Args:
        max_steps: Most iterations of a solve, of each layer.
        portion: Iterations of a portion, at least 1; None takes all at once.
        where: Device of the tensors.

    Raises:
        ConfigError: A portion is empty, or there are more than `MOST_STATES` states.
    """

    def __init__(
        self, max_steps: Sequence[int], portion: int | None, where: device
    ) -> None:
        check_value("iterations_per_action", portion, Portion | None)
        ends = [
            [*range(portion or most, most, portion or 1), most] for most in max_steps
        ]
        num_levels = [len(end) for end in ends]
        if math.prod(most + 1 for most in num_levels) > MOST_STATES:
            raise ConfigError(
                f"the network would have more than {MOST_STATES:,} states; give a "
                "larger iterations_per_action, or fewer max_steps"
            )
        self.iterations = [torch.tensor([0, *end], device=where) for end in ends]
        self.next_state = layer_states(num_levels)
        places = _places(num_levels)
        self.same_cost = np.arange(places[-1])[:, None] % np.append(1, places[1:])
        self.reached = torch.from_numpy(self.next_state).to(where)
        self.useful = torch.from_numpy(useful_actions(self.next_state)).to(where)
        self.level = torch.from_numpy(layer_levels(num_levels)).to(where)
        self.share = self.level / torch.tensor(num_levels, device=where)
        self.is_done = F.pad(self.share == 1, (1, 0))  # action 0 finds nothing done
        bits = 2 ** torch.arange(len(num_levels), device=where)
        self.pattern = ((self.level > 0) * bits).sum(1)
