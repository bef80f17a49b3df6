"""The paper's AgentNet: activations in, one probability per layer and NOP out.

Axes: B observations, D observation features, A = L + 1 actions (NOP and L layers).
The network holds no learning rule: `agents/` trains it, a predictor only runs it.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dynalay_gym.utils.device import torch_defaults

HEAD_ACTIONS = 2  # NOP and layer 1: the answers that easy inputs need
TAIL_DIVISOR = 2.0  # the tail looks at the torso through half its width


class AgentNet(nn.Module):
    """Torso, adaptive softmax over the actions, and a value estimate.

    The adaptive softmax is a two-level tree: its head chooses among NOP, layer 1
    and one token for "a deeper layer"; the tail then chooses among those. A network
    with one layer (A = 2) has the head {NOP, token} and a tail of one action, which
    is the ordinary softmax.

    Args:
        observation_size: D, length of the flat observation, at least 1.
        num_actions: A, at least 2.
        hidden: Widths of the torso's layers, at least one.

    Raises:
        ValueError: If a size is too small for the network to exist.

    References:
        Mathur and Plis (2023), DynaLay, appendix A; Grave et al. (2017),
        Efficient softmax approximation for GPUs. The value network has its own torso
        (the paper names no baseline).
    """

    @torch_defaults(device=None)
    def __init__(
        self,
        observation_size: int,
        num_actions: int,
        hidden: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__()
        if observation_size < 1 or num_actions < 2 or not hidden or min(hidden) < 1:
            raise ValueError(
                f"AgentNet needs observation_size >= 1, num_actions >= 2 and hidden "
                f"widths >= 1, got {observation_size}, {num_actions}, {tuple(hidden)}"
            )
        self.observation_size = observation_size
        self.num_actions = num_actions
        self.hidden = tuple(hidden)
        self.torso = _perceptron(observation_size, self.hidden)
        self.policy_head = nn.AdaptiveLogSoftmaxWithLoss(
            self.hidden[-1],
            num_actions,
            cutoffs=[min(HEAD_ACTIONS, num_actions - 1)],
            div_value=TAIL_DIVISOR,
            head_bias=True,
        )
        self.value_head = nn.Sequential(
            _perceptron(observation_size, self.hidden), nn.Linear(self.hidden[-1], 1)
        )
        self._start_uniform()

    def forward(self, observations: Tensor) -> Tensor:
        """Return log-probabilities [B, A] of float32 observations [B, D]."""
        features = self.torso(_centre(observations))
        # What `policy_head.log_prob` gives, bit for bit, without its slice-wise copies.
        head = self.policy_head.head(features).log_softmax(dim=1)
        tail = self.policy_head.tail[0](features).log_softmax(dim=1)
        first = self.policy_head.cutoffs[0]
        return torch.cat([head[:, :first], tail + head[:, first:]], dim=1)

    def value(self, observations: Tensor) -> Tensor:
        """Return the expected return [B] from float32 observations [B, D]."""
        values: Tensor = self.value_head(_centre(observations))
        return values.squeeze(-1)

    @property
    def macs(self) -> int:
        """Multiply-adds of one decision for one input; the value estimate is not run.

        The tail's two matrices count as the one that they amount to, with an output for
        each of its actions; with the head's there are A + 1.
        """
        widths = self.observation_size, *self.hidden, self.num_actions + 1
        return sum(a * b for a, b in pairwise(widths))

    def _start_uniform(self) -> None:
        """Shrink the head's weights and bias its token: all actions start alike.

        Left alone, the tail's actions would share one token: with three layers NOP
        would start at 1/3 and layer 3 at 1/6.
        """
        num_tail = self.num_actions - self.policy_head.cutoffs[0]
        with torch.no_grad():
            for part in self.policy_head.parameters():
                part.mul_(0.1 if part.ndim == 2 else 0.0)  # matrices, the head's bias
            self.policy_head.head.bias[-1] = math.log(num_tail)


def _centre(observations: Tensor) -> Tensor:
    """Map features from [0, 1] to [-1, 1], so that the torso sees both signs."""
    return observations * 2.0 - 1.0


def _perceptron(in_features: int, hidden: Sequence[int]) -> nn.Sequential:
    """Return linear layers of the given widths, each followed by tanh."""
    blocks: list[nn.Module] = []
    for width_in, width_out in pairwise((in_features, *hidden)):
        blocks += [nn.Linear(width_in, width_out), nn.Tanh()]
    return nn.Sequential(*blocks)
