"""The main network's side of co-training: it learns through the layers chosen for it.

Between two rollouts of an agent the main network has a turn: the agent's policy, as it
is now, decides on samples of the *main* split, and the network takes optimiser steps on
their cross-entropy through the layers that were chosen (DynaLay, equations 4 and 5).
No gradient passes between the two: the policy is called without a graph, and it sees
the network through an environment, which holds a frozen copy (equations 7 and 8).

Axes: n samples of a batch, S states.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.cotraining.collect import collect_states
from dynalay_gym.cotraining.config import CoTrainingConfig
from dynalay_gym.data.splits import Split
from dynalay_gym.envs.process import DecisionProblem
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks import selective
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.overflow import check_loss
from dynalay_gym.networks.policy import Policy
from dynalay_gym.networks.state_losses import loss_of_states, mixed_states
from dynalay_gym.networks.training import change_samples
from dynalay_gym.sessions.fastest import fastest_session
from dynalay_gym.sessions.measure import state_name
from dynalay_gym.storage.training_state import load_training_state, take, training_state
from dynalay_gym.utils.finite import MEND_DATA, FiniteGuard
from dynalay_gym.utils.schedules import LEARNING_RATE_END, linear


class CoTrainer:
    """Trains a main network on what a policy chooses; resumable bit for bit on a CPU.

    Attributes:
        network: The network that learns, at first a copy of the agent's.
        problem: The agent's problem over the main split, with a frozen copy of it.
        steps: Optimiser steps so far.

    Args:
        problem: The agent's problem, over a main network. Cost unit, penalties, reward
            and solver settings stay its.
        split: The main split, on the network's device.
        config: Options.
        seed: Of samples, exploration and kept states.
        augmented: Change the samples that keep every state usable at random. Visited
            ones stay as they are: the policy decides on real ones.

    Raises:
        ConfigError: The problem's network is no `MainNetwork`, or a batch is larger
            than the split.
    """

    def __init__(
        self,
        problem: DecisionProblem,
        split: Split,
        config: CoTrainingConfig,
        *,
        seed: int,
        augmented: bool = False,
    ) -> None:
        session: Any = problem.session
        network = getattr(session, "network", None)
        if not isinstance(network, MainNetwork):
            raise ConfigError(
                "co-training needs the gradients of a MainNetwork, which "
                f"{type(session).__name__} does not run; train its network by itself"
            )
        if session.options["iterations_per_action"] is not None:
            raise ConfigError(
                "co-training iterates every layer to its fixed point, this environment "
                "in portions; choose another data set (--dataset digits), or leave "
                "iterations_per_action out"
            )
        config.check_batch(len(split))
        self.network = copy.deepcopy(network).requires_grad_(True)
        self.problem = replace(
            problem,
            session=fastest_session(network, **session.options),
            inputs=split.inputs,
            labels=split.labels,
            split=split.name,
            table=None,
        )
        self.config, self.steps = config, 0
        self._selective = selective.SelectiveNetwork(self.network)
        self._solver = replace(
            session.solver,
            adjoint_rtol=config.adjoint_rtol,
            adjoint_max_steps=config.adjoint_max_steps,
        )
        self._augmented = augmented
        self._generator = torch.Generator(split.labels.device).manual_seed(seed)
        self._recent = split.labels.new_empty(0, 2)  # latest (sample, state) pairs
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        self._guard = FiniteGuard(
            self.network,
            self._optimizer,
            "the main network diverged: lower --co.learning-rate, or use "
            "--co.precision fp32; --resume continues from the last saved state",
        )

    def weights(self) -> dict[str, Tensor]:
        """Return the network's weights, as environments take them; not a copy."""
        return self.network.state_dict()

    @torch.inference_mode(False)  # a loop may step its environment under it
    def turn(
        self, policy: Policy, decisions: int, share: float = 0.0
    ) -> dict[str, float] | None:
        """Let the network learn for what the agent has decided.

        Args:
            policy: The agent's policy as it is now.
            decisions: The agent's decisions since both learn, in all turns together.
            share: Share of the joint training that is done, in [0, 1].

        Returns:
            The turn's metrics by TensorBoard tag, ``main/...``; None if not even one
            optimiser step is due yet.

        Raises:
            DivergedError: A number is not finite; the step is not taken.

        References:
            Mathur and Plis (2023), DynaLay, equation 3 (``main/total_loss``).
        """
        config = self.config
        steps = int(decisions * config.update_ratio / config.batch_size) - self.steps
        if steps <= 0:
            return None
        epsilon = linear(config.epsilon_start, config.epsilon_end, share)
        rate = config.learning_rate * linear(1.0, LEARNING_RATE_END, share)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        batches, visited, returns, macs = self._batches(policy, steps, epsilon)
        self._guard.check("return", torch.as_tensor(returns), remedy=MEND_DATA)
        losses = []
        for batch in batches:
            with self._guard.keep_statistics():
                losses.append(self._step(batch[:, 0], batch[:, 1]))
        self._guard.check_weights()  # before anybody is given them
        self.problem.session.load_weights(self.weights())
        loss, keep_loss, _ = torch.stack(losses).mean(0).tolist()
        mean_return, num_layers = float(returns.mean()), self.network.num_layers
        shares = torch.bincount(visited, minlength=2**num_layers) / len(visited)
        return {
            f"main/visited/{state_name(state, num_layers)}": visits
            for state, visits in enumerate(shares.tolist())
        } | {
            "main/loss": loss,
            "main/keep_loss": keep_loss,
            "main/return": mean_return,
            "main/lambda_return": config.loss_lambda * mean_return,
            "main/total_loss": loss - config.loss_lambda * mean_return,
            "main/macs": float(macs.mean()),
            "main/grad_norm": losses[-1][2].item(),
            "main/learning_rate": rate,
            "main/epsilon": epsilon,
            "main/steps": self.steps,
        }

    def training_state(self) -> dict[str, Tensor]:
        """Return all that the next turn depends on, the policy left out."""
        tensors = training_state(self.network, self._optimizer, self._generator)
        steps = torch.tensor(self.steps)
        return tensors | {"recent": self._recent, "steps": steps}

    def load_training_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `training_state` returned, in an equal trainer."""
        recent = take(tensors, "recent", torch.int64, (None, 2), least=0)
        numbers = len(self.problem.labels), 2**self.network.num_layers
        for column, number in zip(recent.T, numbers, strict=True):
            take({"recent": column}, "recent", torch.int64, (None,), most=number - 1)
        steps = take(tensors, "steps", torch.int64, least=0)
        load_training_state(tensors, self.network, self._optimizer, self._generator)
        self._recent = recent.to(self._generator.device)
        self.steps = int(steps)
        self.problem.session.load_weights(self.weights())

    def _batches(
        self, policy: Policy, steps: int, epsilon: float
    ) -> tuple[Tensor, Tensor, Any, Any]:
        """Let the policy decide on new samples; add recent ones, in the states of then.

        Returns:
            Samples and states of all steps, int64 [steps, n, 2]; of the new samples:
            states, returns and multiply-adds, see `collect_states`.
        """
        size, num_recent = self.config.batch_size, 0
        if len(self._recent) > 0:
            num_recent = int(size * self.config.replay_share)
        index = self._draw(len(self.problem.labels), steps * (size - num_recent))
        visited, returns, macs = collect_states(
            self.problem, policy, index, epsilon, self._generator
        )
        new = torch.stack([index, visited], 1)
        old = self._recent[self._draw(max(len(self._recent), 1), steps * num_recent)]
        parts = new.view(steps, -1, 2), old.view(steps, num_recent, 2)
        self._recent = torch.cat([self._recent, new])[-self.config.replay_size :]
        return torch.cat(parts, 1), visited, returns, macs

    def _draw(self, high: int, num: int) -> Tensor:
        """Return int64 [num] in 0..high-1, drawn evenly."""
        source = self._generator
        return torch.randint(high, (num,), generator=source, device=source.device)

    def _step(self, index: Tensor, state_ids: Tensor) -> Tensor:
        """Take one optimiser step.

        Args:
            index: Samples, int64 [n].
            state_ids: The states that they were left in, int64 [n].

        Returns:
            Loss of the samples, loss of the kept ones (0 if none), and norm of the
            gradient before clipping: float32 [3].
        """
        config = self.config
        num_kept = round(config.keep_share * len(index))
        num_kept = max(num_kept, 2) if num_kept else 0  # one alone has no statistics
        kept_share = num_kept / (num_kept + len(index))
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._chosen_loss(index, state_ids)
        ((1 - kept_share) * loss).backward()
        keep_loss = torch.zeros_like(loss)
        if num_kept:
            keep_loss = self._keep_loss(num_kept)
            (kept_share * keep_loss).backward()
        total, inputs = loss + keep_loss, self.problem.inputs
        check_loss(self._guard, total, self.network, inputs, index)
        parameters = self.network.parameters()
        norm = nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        self._guard.check("length of the gradient", norm)
        with selective.hold_unused(self.network):
            self._optimizer.step()
        self.steps += 1
        return torch.stack([loss.detach(), keep_loss.detach(), norm.detach()])

    def _chosen_loss(self, index: Tensor, state_ids: Tensor) -> Tensor:
        """Return the mean loss of samples in their states (equations 4 and 5)."""
        inputs, labels = self._samples(index)
        chosen_only = self.config.gradients == "chosen"
        with self._autocast():
            logits = self._selective.logits(
                inputs, state_ids, self._solver, chosen_only=chosen_only
            )
        return F.cross_entropy(logits.float(), labels)

    def _keep_loss(self, num: int) -> Tensor:
        """Return the loss of random samples in the plain, full and a random state."""
        index = self._draw(len(self.problem.labels), num)
        inputs, labels = self._samples(index)
        if self._augmented:
            inputs = change_samples(self.network, inputs, self._generator)
        network = self.network.train()
        weights = mixed_states(2**network.num_layers, self._generator)
        with self._autocast():
            return loss_of_states(network, inputs, labels, weights, self._solver)

    def _samples(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and labels of some samples, int64 [n]."""
        images, labels = self.problem.inputs[index], self.problem.labels[index]
        self._guard.check("image", images, samples=index, remedy=MEND_DATA)
        return images, labels

    def _autocast(self) -> torch.autocast:
        bf16, device = self.config.precision == "bf16", self._generator.device.type
        return torch.autocast(device, torch.bfloat16, enabled=bf16)
