"""What a policy is, and the policy that an AgentNet makes.

Axes: N sub-environments, D observation features, A actions.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorEnv
from torch import Tensor

from dynalay_gym.errors import ConfigError, DynaLayError
from dynalay_gym.networks.agent_net import AgentNet
from dynalay_gym.utils.metrics import MetricWriter

Array = TypeVar("Array", np.ndarray, Tensor)
Infos = dict[str, Any]
Progress = Callable[[int], None]


class DivergedError(DynaLayError):
    """A training whose numbers are no longer finite.

    Args:
        algo: Name of the algorithm, for the flag in the message.
    """

    def __init__(self, algo: str) -> None:
        super().__init__(
            f"the training of {algo} diverged (a number is not finite); "
            f"lower --{algo}.learning-rate"
        )


class Policy(Protocol):
    """Anything that chooses actions: a learned network or a fixed rule."""

    @property
    def name(self) -> str:
        """Label of its row in tables."""
        ...

    @property
    def macs_per_decision(self) -> int:
        """Multiply-adds of one choice for one input; 0 if it only reads a number."""
        ...

    def act(self, observations: Array, infos: Infos) -> Array:
        """Choose int64 actions [N] for float32 observations [N, D].

        Args:
            observations: The current observations; numpy arrays or tensors.
            infos: The infos that came with them, each value of length N.

        Returns:
            Actions of the same kind (numpy or tensor, same device) as the input.
        """
        ...


class Agent(Protocol):
    """A policy that learns: what the training script and the store need of it."""

    @property
    def algo(self) -> str:
        """Name of the algorithm, as on the command line."""
        ...

    @property
    def config(self) -> Any:
        """The dataclass of hyper-parameters."""
        ...

    @property
    def policy(self) -> Policy:
        """The greedy policy, over the weights as they are now."""
        ...

    @property
    def module(self) -> torch.nn.Module:
        """The network behind the policy: its state dict is what is saved."""
        ...

    @property
    def scorer(self) -> torch.nn.Module:
        """The part of it that scores the actions [N, A] of observations [N, D]."""
        ...

    def learn(
        self,
        total_timesteps: int,
        *,
        writer: MetricWriter | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        """Train for about `total_timesteps` steps of one sub-environment each.

        Args:
            total_timesteps: Steps to take, counted over all sub-environments.
            writer: Where the training's metrics go; None drops them.
            on_progress: Called after every rollout with the steps taken so far.
        """
        ...


@runtime_checkable
class Resumable(Protocol):
    """An agent whose training can be stopped and taken up again."""

    def training_state(self) -> dict[str, Tensor]:
        """Return all that `learn` goes on from, the environment's rows left out.

        Call it from `on_progress`, where a rollout and its update are complete.
        """
        ...

    def load_training_state(
        self, tensors: Mapping[str, Tensor], observations: Any, infos: Infos
    ) -> None:
        """Let the next `learn` go on from what `training_state` returned.

        That call's `total_timesteps` counts from the beginning of the training.

        Args:
            tensors: From an agent with the same hyper-parameters.
            observations: What the restored environment shows, [N, D]; None where the
                agent never stepped it.
            infos: The infos that belong to them.
        """
        ...


class NetPolicy:
    """Greedy or sampling policy over an AgentNet.

    Args:
        net: The network; shared, so that training it changes the policy.
        greedy: Take the most probable action; otherwise sample.
        generator: Source of the samples, on the network's device.
        name: Label of the policy in tables.
    """

    def __init__(
        self,
        net: AgentNet,
        *,
        greedy: bool = True,
        generator: torch.Generator | None = None,
        name: str = "policy-gradient",
    ) -> None:
        self.net = net
        self._weight = next(net.parameters())  # to look for it takes time
        self.name = name
        self.greedy = greedy
        self.generator = generator
        self.epsilon = 0.0

    @property
    def macs_per_decision(self) -> int:
        """Multiply-adds of one choice for one input."""
        return self.net.macs

    def log_probs(self, observations: Tensor, mask: Tensor) -> Tensor:
        """Return the log-probabilities [N, A] that actions are drawn from.

        Masked actions have probability 0; then a share `epsilon` of the probability
        is spread evenly over the allowed ones (epsilon-greedy exploration, applied
        to a stochastic policy).

        Args:
            observations: Float32 [N, D].
            mask: Bool or int8 [N, A], not 0 where an action is allowed; at least one
                per row.
        """
        return mix_epsilon(self.net(observations), mask, self.epsilon)

    def act(self, observations: Array, infos: Infos) -> Array:
        """Choose actions [N]; see `Policy.act`."""
        device = self._weight.device
        inputs = as_tensor(observations, device)
        mask = as_tensor(infos["action_mask"], device)
        with torch.inference_mode():
            log_probs = self.log_probs(inputs, mask)
        # Outside of it, because a loss may have to remember the actions.
        return like(self.choose(log_probs), observations)

    def choose(self, log_probs: Tensor) -> Tensor:
        """Return one action per row [N] of log-probabilities [N, A]."""
        if self.greedy:
            return log_probs.argmax(dim=-1)
        return sample(log_probs, self.generator)


def mix_epsilon(log_probs: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    """Mask log-probabilities [N, A] and mix in a uniform share `epsilon`.

    p = (1 - epsilon) * masked p + epsilon / (number of allowed actions)
    """
    forbidden = mask.logical_not()
    masked = log_probs.masked_fill(forbidden, -torch.inf)
    if epsilon == 0.0:
        return masked.log_softmax(dim=-1)
    allowed = mask.float()
    uniform = allowed / allowed.sum(dim=-1, keepdim=True)
    mixed = masked.softmax(dim=-1).lerp(uniform, epsilon)
    if not mixed.requires_grad:
        return mixed.log()
    # log(0) would turn the gradient of the masked entries into 0 / 0.
    return mixed.masked_fill(forbidden, 1.0).log().masked_fill(forbidden, -torch.inf)


def sample(log_probs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw one index per row [N] from log-probabilities [N, A].

    The first of exponential clocks that tick at the rates p: what torch.multinomial
    does, without its checks, which take longer than the draw.
    """
    clocks = torch.empty_like(log_probs).exponential_(generator=generator)
    return (log_probs - clocks.log_()).argmax(dim=-1)


def sizes(envs: VectorEnv) -> tuple[int, int]:
    """Return (D, A): features of one observation, number of actions.

    Raises:
        ConfigError: If observations are not flat or actions not discrete.
    """
    observations, actions = envs.single_observation_space, envs.single_action_space
    flat = isinstance(observations, Box) and len(observations.shape) == 1
    if not flat or not isinstance(actions, Discrete):
        raise ConfigError(
            "agents need flat observations and discrete actions; "
            "pass observation='flat' to gym.make_vec"
        )
    assert observations.shape is not None
    return observations.shape[0], int(actions.n)


def as_tensor(values: Any, device: torch.device | str) -> Tensor:
    """Return an array or tensor as a tensor on the device."""
    return torch.as_tensor(values, device=device)


def as_numpy(values: Any) -> np.ndarray:
    """Return an array or tensor as a numpy array on the host."""
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(values)


def like(values: Tensor | np.ndarray, reference: Array) -> Array:
    """Return values as the same kind (and on the same device) as the reference."""
    if isinstance(reference, Tensor):
        return as_tensor(values, reference.device)
    return as_numpy(values)
