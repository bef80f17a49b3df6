"""Validation of an agent in its training."""

from dataclasses import dataclass, field

from gymnasium.vector import VectorEnv
from torch import Tensor

from agents.base import Agent
from dynalay_gym.evaluation.evaluate import EvaluationResult, evaluate


@dataclass
class Validation:
    """Evaluates an agent at equal intervals and keeps its best weights.

    An agent that sees few inputs learns them by heart: its return on the split that it
    learns from rises while that on others falls. The weights with the best validation
    return are early stopping without a decision on when to stop.

    Attributes:
        agent: The agent.
        envs: The validation split, in DISABLED mode.
        penalty: Penalty that policies are compared at.
        total_timesteps: Timesteps of the training.
        times: Evaluations in the training, at least 1.
        best_return: Best mean return so far.
        best_step: Timesteps at which it was reached.
    """

    agent: Agent
    envs: VectorEnv
    penalty: float
    total_timesteps: int
    times: int = 10
    best_return: float = float("-inf")
    best_step: int = 0
    _taken: int = 0
    _best: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def after(self, taken: int) -> EvaluationResult | None:
        """Return the result of an evaluation, or None while none is due.

        Args:
            taken: Timesteps so far.
        """
        before, self._taken = self._taken, taken
        times, total = self.times, self.total_timesteps
        if times * taken // total == times * before // total:
            return None
        result = evaluate(self.envs, self.agent.policy, penalty=self.penalty)
        if result.mean_return > self.best_return:
            self.best_return, self.best_step = result.mean_return, taken
            weights = self.agent.module.state_dict()
            self._best = {name: part.clone() for name, part in weights.items()}
        return result

    def restore(self) -> None:
        """Give the agent its best weights back, if it was evaluated at all."""
        if self._best:
            self.agent.module.load_state_dict(self._best)
