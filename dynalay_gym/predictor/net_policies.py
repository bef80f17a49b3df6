"""Networks as policies of a predictor: greedy, frozen, independent of the batch.

Axes: m rows that still run, D observation features, A = L + 1 actions.
"""

from abc import abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.batch_invariant import as_batch_invariant
from dynalay_gym.networks.agent_net import AgentNet
from dynalay_gym.predictor.policies import SavedPolicy
from dynalay_gym.sessions.accel.perceptron import Perceptron, tree_log_probs

_KINDS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


class NetPolicy(SavedPolicy):
    """Greedy choice of a network that scores actions; masked ones are never taken.

    Args:
        net: Maps observations [m, D] to scores [m, A]; copied and frozen, so training
            on does not change the policy.
        observation_size: D.
        num_actions: A.
    """

    def __init__(self, net: nn.Module, observation_size: int, num_actions: int) -> None:
        self.net = as_batch_invariant(net)
        self.observation_size, self.num_actions = observation_size, num_actions
        self._perceptron = self._pack()

    @abstractmethod
    def _pack(self) -> Perceptron:
        """The network for the CPU, down to what ``_scores`` makes scores of."""

    def _scores(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores [m, A] of the perceptron's outputs."""
        return outputs

    def act(self, observations: Tensor, infos: dict[str, Any]) -> Tensor:
        """Choose the allowed action of the highest score."""
        mask = infos["action_mask"]
        if observations.is_cpu:
            scores = self._scores(self._perceptron(observations.detach().numpy()))
            allowed = np.where(mask.numpy() != 0, scores, -np.inf)
            return torch.from_numpy(allowed.argmax(1))
        with torch.no_grad():
            found: Tensor = self.net.to(observations.device)(observations)
        return found.masked_fill(mask == 0, -torch.inf).argmax(1)

    def tensors(self) -> dict[str, Tensor]:
        """Weights of the network."""
        return dict(self.net.state_dict())

    def check_fit(self, observation_size: int, num_actions: int) -> None:
        """Raise ConfigError unless it fits observations and actions."""
        if (self.observation_size, self.num_actions) != (observation_size, num_actions):
            raise ConfigError(
                f"the policy takes {self.observation_size} features and "
                f"{self.num_actions} actions, the main network has {observation_size} "
                f"and {num_actions}; give the policy that was trained on this network"
            )


class AgentNetPolicy(NetPolicy):
    """Greedy choice of the paper's AgentNet.

    Args:
        net: The network; copied.
    """

    kind = "agent-net"

    def __init__(self, net: AgentNet) -> None:
        super().__init__(net, net.observation_size, net.num_actions)
        self.hidden, self.macs_per_decision = net.hidden, net.macs

    def _pack(self) -> Perceptron:
        net = cast(AgentNet, self.net)
        head, tail = net.policy_head.head, cast(Any, net.policy_head.tail[0])
        # The tail's two matrices follow each other, so they are one.
        ends = torch.cat([head.weight, tail[1].weight @ tail[0].weight])
        biases = torch.cat([head.bias, head.bias.new_zeros(tail[1].out_features)])
        layers = [*_linears(net.torso), (ends.cpu().numpy(), biases.cpu().numpy())]
        return Perceptron(layers, "tanh", scale=2.0, shift=-1.0)

    def _scores(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        first = cast(AgentNet, self.net).policy_head.cutoffs[0]
        return tree_log_probs(outputs, first)

    def options(self) -> dict[str, Any]:
        """Sizes of the network."""
        return {
            "observation_size": self.observation_size,
            "num_actions": self.num_actions,
            "hidden": list(self.hidden),
        }

    @classmethod
    def restore(
        cls, options: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> "AgentNetPolicy":
        """Make the policy from what was saved."""
        net = AgentNet(**options)
        net.load_state_dict(dict(tensors))
        return cls(net)


class MLPPolicy(NetPolicy):
    """Greedy choice of a perceptron whose outputs score the actions.

    Args:
        net: Linear layers, each but the last followed by one kind of activation
            (tanh or ReLU); copied.

    Raises:
        ConfigError: if the network is anything else.
    """

    kind = "mlp"

    def __init__(self, net: nn.Sequential) -> None:
        linears, between = list(net)[::2], list(net)[1::2]
        kinds = {type(part) for part in between}
        names = [name for name, kind in _KINDS.items() if kinds <= {kind}]
        alternating = len(linears) == len(between) + 1
        if not (
            alternating
            and names
            and all(isinstance(part, nn.Linear) for part in linears)
        ):
            raise ConfigError(
                "MLPPolicy takes nn.Linear layers with tanh or ReLU between them, not "
                f"{[type(part).__name__ for part in net]}; write a class with act and "
                "macs_per_decision for another network"
            )
        parts = cast(list[nn.Linear], linears)
        self.activation = names[0]
        self.widths = [parts[0].in_features, *(part.out_features for part in parts)]
        self.macs_per_decision = sum(a * b for a, b in pairwise(self.widths))
        super().__init__(net, self.widths[0], self.widths[-1])

    def _pack(self) -> Perceptron:
        return Perceptron(_linears(self.net), self.activation)

    def options(self) -> dict[str, Any]:
        """Sizes of the network."""
        return {"widths": self.widths, "activation": self.activation}

    @classmethod
    def restore(
        cls, options: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> "MLPPolicy":
        """Make the policy from what was saved."""
        activation = _KINDS[options["activation"]]
        parts: list[nn.Module] = []
        for width_in, width_out in pairwise(options["widths"]):
            parts += [nn.Linear(width_in, width_out), activation()]
        net = nn.Sequential(*parts[:-1])
        net.load_state_dict(dict(tensors))
        return cls(net)


def _linears(net: Any) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Weight and bias of the linear layers of a sequence."""
    found = []
    for part in net:
        if isinstance(part, nn.Linear):
            weight = part.weight.detach().cpu().numpy()
            bias = np.zeros(len(weight), dtype=np.float32)
            if part.bias is not None:
                bias = part.bias.detach().cpu().numpy()
            found.append((weight, bias))
    return found


def network_policy(net: nn.Module) -> NetPolicy:
    """Policy of a trained network: an AgentNet, or a perceptron.

    Raises:
        ConfigError: for any other network.
    """
    if isinstance(net, AgentNet):
        return AgentNetPolicy(net)
    if isinstance(net, nn.Sequential):
        return MLPPolicy(net)
    raise ConfigError(
        f"{type(net).__name__} is neither an AgentNet nor an nn.Sequential perceptron; "
        "write a class with act and macs_per_decision"
    )
