"""The main network's side of co-training: it learns through the layers chosen for it.

Between two rollouts of an agent the main network has a turn: the agent's policy, as it
is now, walks samples of the *main* split, and the network takes optimiser steps on
their cross-entropy through the layers that were chosen (DynaLay, equations 4 and 5).
No gradient passes between the two: the policy is asked without a graph, and it sees
the network through an environment, which holds a frozen copy (equations 7 and 8).

Axes: n samples of a batch, L layers, K classes, S = 2^L states.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynalay_gym.cotraining.config import CoTrainingConfig
from dynalay_gym.cotraining.losses import CoLosses
from dynalay_gym.cotraining.replay import Replay
from dynalay_gym.cotraining.walk import Chooser, Walk, problem_over, walk
from dynalay_gym.cotraining.workers import Workers
from dynalay_gym.data.splits import Split
from dynalay_gym.envs.dynamics import DecisionProblem
from dynalay_gym.errors import ConfigError, DynaLayError
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.selective import hold_unused, pattern_parameters
from dynalay_gym.utils.optimizer_state import flatten, restore, strip_prefix

LEARNING_RATE_END = 0.1  # share of the step size that is left at the end


class DivergedError(DynaLayError):
    """The main network's loss stopped being finite."""

    def __init__(self, step: int) -> None:
        super().__init__(
            f"the main network's loss is not finite at its step {step}; lower "
            "--co.learning-rate, or use --co.precision fp32; --resume goes on from "
            "the last saved state"
        )


def check_batch(config: CoTrainingConfig, data: Split) -> None:
    """Raise ConfigError if a batch is larger than the split."""
    if config.batch_size > len(data):
        raise ConfigError(
            f"--co.batch-size is larger than the {len(data)} samples of the main split"
        )


@dataclass(frozen=True, kw_only=True)
class TurnReport:
    """What one turn of the main network came to.

    Attributes:
        steps: Optimiser steps of the turn, at least 1.
        cross_entropy: Mean loss of the walked samples in their states.
        keep_loss: Mean loss of the samples that keep every state usable; 0 if none.
        mean_return: Mean return R of the walk.
        visited: Share of the walked samples that ended in each state, [S].
        macs: Mean multiply-adds of a walked sample.
        grad_norm: Norm of the last gradient, before clipping.
        learning_rate: Step size.
        epsilon: Share of random decisions.
    """

    steps: int
    cross_entropy: float
    keep_loss: float
    mean_return: float
    visited: list[float]
    macs: float
    grad_norm: float
    learning_rate: float
    epsilon: float


class CoTrainer:
    """Optimiser steps of a main network along an agent's choices.

    Equal seeds give equal turns, to the bit on one device: every turn draws from a
    generator that seed, process and number of the turn determine, so nothing but the
    tensors of ``state`` has to be kept to go on.

    Args:
        model: The main network that learns, on its device.
        data: The main split, there too.
        problem: What the agent decides on: reward, cost unit, penalty and solver.
        config: Options.
        seed: Of samples, exploration, kept states and augmentation.
        augmented: Shift and mirror the samples that keep every state usable.
        workers: The processes that learn together; ``batch_size`` is of each.

    Raises:
        ConfigError: The batch is larger than the split.
    """

    def __init__(
        self,
        model: MainNetwork,
        data: Split,
        problem: DecisionProblem,
        config: CoTrainingConfig,
        *,
        seed: int,
        augmented: bool = False,
        workers: Workers | None = None,
    ) -> None:
        check_batch(config, data)
        self.model = model.requires_grad_(True)
        self.data, self.config, self.seed = data, config, seed
        self.workers = workers or Workers()
        acting = copy.deepcopy(model)
        self.problem = problem_over(problem, acting, data)
        self.steps = self.turns = 0
        self._owed = 0.0
        self._losses = CoLosses(model, data, problem.session.solver, config, augmented)
        self._pattern_rows = pattern_parameters(model)
        self._replay = Replay(config.replay_size, data.labels.device)
        self._optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )

    def weights(self) -> dict[str, Tensor]:
        """The network's weights, to hand to environments."""
        return self.model.state_dict()

    def turn(
        self, policy: Chooser, decisions: int, share: float = 0.0
    ) -> TurnReport | None:
        """Let the network learn for what the agent has decided since the last turn.

        Args:
            policy: The agent's policy as it is now.
            decisions: The agent's decisions since the last call.
            share: How much of the joint training is over, in [0, 1].

        Returns:
            What came of it; None if not even one optimiser step is due yet.

        Raises:
            DivergedError: The loss is not finite; the step is not taken.
        """
        self._owed += decisions * self.config.update_ratio / self.config.batch_size
        steps = int(self._owed)
        if steps == 0:
            return None
        self._owed -= steps
        source = self._source()
        epsilon = self._between(
            self.config.epsilon_start, self.config.epsilon_end, share
        )
        rate = self.config.learning_rate * self._between(1.0, LEARNING_RATE_END, share)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        batches, walked = self._batches(policy, steps, epsilon, source)
        losses = [self._step(*batch, source) for batch in batches]
        self.problem.session.set_weights(self.weights())
        chosen, kept, norms = torch.stack(losses).unbind(1)
        self.turns += 1
        return TurnReport(
            steps=steps,
            cross_entropy=chosen.mean().item(),
            keep_loss=kept.mean().item(),
            mean_return=walked.returns.mean().item(),
            visited=self._visited(walked.states),
            macs=walked.macs.double().mean().item(),
            grad_norm=norms[-1].item(),
            learning_rate=rate,
            epsilon=epsilon,
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Everything that going on needs: tensors and numbers."""
        tensors = {f"main/{key}": value for key, value in self.weights().items()}
        tensors |= flatten(self._optimizer, "main-optimizer")
        tensors["replay"] = self.workers.gather(self._replay.kept)
        numbers = {"steps": self.steps, "turns": self.turns, "owed": self._owed}
        return tensors, numbers

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, float]) -> None:
        """Go on from what ``state`` returned."""
        self.model.load_state_dict(strip_prefix("main/", tensors))
        restore(self._optimizer, tensors, "main-optimizer")
        self._replay.kept.copy_(tensors["replay"][self.workers.rank])
        self.steps, self.turns = int(numbers["steps"]), int(numbers["turns"])
        self._owed = numbers["owed"]
        self.problem.session.set_weights(self.weights())

    def _source(self) -> torch.Generator:
        """Generator of this turn, on the data's device."""
        parts = (self.seed, self.workers.rank, self.turns)
        seed = 0
        for part in parts:
            seed = (seed * 1_000_003 + part + 1) % 2**62
        return torch.Generator(self.data.labels.device).manual_seed(seed)

    @staticmethod
    def _between(start: float, end: float, share: float) -> float:
        return start + min(max(share, 0.0), 1.0) * (end - start)

    def _batches(
        self, policy: Chooser, steps: int, epsilon: float, source: torch.Generator
    ) -> tuple[list[tuple[Tensor, Tensor]], Walk]:
        """Walk new samples and mix recent ones in: (samples, states) of every step."""
        size = self.config.batch_size
        old = min(round(size * self.config.replay_share), len(self._replay))
        device = self.data.labels.device
        index = torch.randint(
            len(self.data), (steps * (size - old),), generator=source, device=device
        )
        walked = walk(self.problem, policy, index, epsilon, source)
        fresh = torch.stack([walked.index, walked.states], 1)
        mixed = torch.cat(
            [
                fresh.view(steps, size - old, 2),
                self._replay.draw(steps * old, source).view(steps, old, 2),
            ],
            1,
        )
        self._replay.add(fresh)
        return [(one[:, 0], one[:, 1]) for one in mixed], walked

    def _step(self, index: Tensor, states: Tensor, source: torch.Generator) -> Tensor:
        """One optimiser step; loss of the walked, of the kept, norm of the gradient."""
        num_kept = round(self.config.keep_share * len(index))
        num_kept = max(num_kept, 2) if num_kept else 0  # one alone has no statistics
        part = num_kept / (num_kept + len(index))
        self._optimizer.zero_grad(set_to_none=True)
        chosen = self._losses.chosen(index, states)
        ((1 - part) * chosen).backward()
        kept = torch.zeros_like(chosen)
        if num_kept:
            kept = self._losses.kept(num_kept, source)
            (part * kept).backward()
        if not bool((chosen + kept).isfinite()):
            raise DivergedError(self.steps + 1)
        self.workers.average_gradients(self.model.parameters())
        norm = nn.utils.clip_grad_norm_(
            self.model.parameters(), self.config.max_grad_norm
        )
        with hold_unused(self._pattern_rows):
            self._optimizer.step()
        if num_kept:  # the only ones to move the running statistics
            self.workers.average(list(self.model.buffers()))
        self.steps += 1
        return torch.stack([chosen.detach(), kept.detach(), norm.detach()])

    def _visited(self, states: Tensor) -> list[float]:
        counts = torch.bincount(states, minlength=2**self.model.num_layers)
        shares: list[float] = (counts / len(states)).tolist()
        return shares
