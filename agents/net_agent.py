"""What agents share that train one AgentNet."""

from collections.abc import Sequence

import torch
from gymnasium.vector import VectorEnv
from torch import nn

from agents.base import sizes
from dynalay_gym.networks.agent_net import AgentNet


class NetAgent:
    """Has an AgentNet, which is all that is saved and what scores the actions.

    Args:
        envs: Environments with flat observations and discrete actions.
        hidden: Widths of the network's torso.
        seed: Seed of its weights.
    """

    def __init__(self, envs: VectorEnv, hidden: Sequence[int], seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = AgentNet(*sizes(envs), hidden)

    @property
    def module(self) -> nn.Module:
        """The network: its state dict is what is saved."""
        return self.net

    @property
    def scorer(self) -> nn.Module:
        """The network: it scores the actions."""
        return self.net
