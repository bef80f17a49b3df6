"""The network's own gates as a policy.

Axes: N rows.
"""

import numpy as np

from dynalay_gym.networks.policy import NOP, Array, Infos, as_numpy, like

_RUN, _SKIP = 1, 2  # actions of the sessions of residual networks


class GatesPolicy:
    """Runs the next block if the network's own gate of it is open, else skips it.

    On a gated network this is the network itself.

    Args:
        column: Where the observation has ``gate`` (``observation_layout``).
    """

    name = "gates"
    macs_per_decision = 0

    def __init__(self, column: int) -> None:
        self.column = int(column)

    def act(self, observations: Array, infos: Infos) -> Array:
        """Choose actions [N]; see `Policy.act`."""
        is_open = as_numpy(observations[:, self.column]) > 0
        goes_on = as_numpy(infos["action_mask"])[:, _RUN] != 0
        actions = np.where(is_open, _RUN, _SKIP)
        return like(np.where(goes_on, actions, NOP), observations)
