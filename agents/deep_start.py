"""Against agents that collapse to stopping at once: a deep start, a penalty warm-up.

Stopping ends an episode, so an agent that stops early sees little of what the later
decisions earn and soon forgets them. A deep start lets it stop rarely at first; the
warm-up lets it find out what compute is good for before it has to pay for it.
"""

import math
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.policy import NOP


def set_stop_probability(bias: Tensor, probability: float) -> None:
    """Change a softmax layer's bias [A] so that it starts with a probability of NOP.

    All other outputs keep their shares of the rest. It is exact where the weights
    are 0, and close where they are as small as those of a fresh policy.

    Args:
        bias: Bias of the layer, changed in place.
        probability: Above 0, below 1.
    """
    with torch.no_grad():
        others = torch.cat([bias[:NOP], bias[NOP + 1 :]]).logsumexp(0)
        bias[NOP] = others + math.log(probability / (1 - probability))


class PenaltyWarmUp:
    """Raises an environment's `penalty_scale` linearly from 0 to 1, then leaves it.

    Args:
        envs: Environment of this package.
        share: Share of the training over which it rises, in [0, 1]; 0 changes nothing.

    Raises:
        ConfigError: The environment has no `penalty_scale`, and the share is not 0.
    """

    def __init__(self, envs: VectorEnv, share: float) -> None:
        self._base: Any = envs.unwrapped
        self._share = share
        if share > 0 and not hasattr(self._base, "penalty_scale"):
            raise ConfigError(
                f"{type(self._base).__name__} has no penalty_scale; leave the penalty "
                "warm-up at 0"
            )

    def set(self, done: float) -> None:
        """Set the scale of the episodes that begin from now on.

        Args:
            done: Share of the training that is done, in [0, 1].
        """
        if self._share > 0:
            self._base.penalty_scale = min(done / self._share, 1.0)
