"""Co-training around an environment, so that neither side knows of it.

What changes under an agent when the main network learns is its environment. So after
every rollout the wrapper gives the network its turn, hands the new weights to the
environment, and returns the step's observations as the new network makes them. No
algorithm, ours, Stable-Baselines3's or a user's own loop, needs a line for it or ever
acts on an observation of old weights, as it would with a callback.

Rows in the middle of an episode stay in their states, under the new weights (a state
depends on the sample and on the actions alone); what an episode was paid for earlier
steps stays.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gymnasium.vector import VectorEnv, VectorWrapper

from dynalay_gym.cotraining.trainer import CoTrainer
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.policy import Policy


class CoTrainingEnv(VectorWrapper):
    """Lets a main network learn between the rollouts of whatever steps it.

    Attributes:
        policy: The agent's policy; set it once the agent exists.
        decisions: Decisions of all rows since the beginning.
        on_turn: Called after every turn with its metrics (see `CoTrainer.turn`) and
            the decisions so far.

    Args:
        envs: Vector environment of this package.
        trainer: The main network's side; None leaves it frozen, and every step is
            then the environment's own.
        every: Steps of every row between two turns, at least 1: a rollout's.
        start: Decisions before both learn (the agent's warm-up).
        total: Decisions at which the schedules end.
        followers: Further environments that the agent learns from (a baseline's):
            they get the new weights too.

    Raises:
        ConfigError: ``every`` is below 1.
    """

    def __init__(
        self,
        envs: VectorEnv,
        trainer: CoTrainer | None,
        *,
        every: int,
        start: int = 0,
        total: int = 0,
        followers: Sequence[VectorEnv] = (),
    ) -> None:
        if every < 1:
            raise ConfigError(f"every must be at least 1, got {every}")
        super().__init__(envs)
        self.trainer, self.start, self.total = trainer, start, total
        self.policy: Policy | None = None
        self.on_turn: Callable[[Mapping[str, float], int], None] | None = None
        self.decisions = 0
        self._per_turn = every * self.num_envs
        self._followers: list[Any] = [each.unwrapped for each in followers]

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take one decision in every row; see ``DynaLayVectorEnv.step``."""
        observations, *outcome, infos = self.env.step(actions)
        self.decisions += self.num_envs
        if self.decisions % self._per_turn == 0 and self._take_turn():
            observations, changed = self._give_weights()
            infos = infos | changed
        rewards, terminations, truncations = outcome
        return observations, rewards, terminations, truncations, infos

    def advance(self, decisions: int) -> bool:
        """Count decisions that were learned from without a step, and take the turns.

        For learning in phases, such as exact learning on a transition table: learn on
        the table, advance, read the next table. The network has a turn for every
        rollout's worth of a phase, so that the policy decides on as few samples at a
        time, under weights as new, as with an ordinary algorithm.

        Args:
            decisions: Decisions since the last call, at least 0.

        Returns:
            Whether the network, and so the table, has changed.
        """
        end, changed = self.decisions + decisions, False
        while self.decisions < end:
            self.decisions = min(self.decisions + self._per_turn, end)
            changed |= self._take_turn()
        if changed:
            self._give_weights()
        return changed

    def resume(self, decisions: int) -> None:
        """Continue after so many decisions, with the trainer's weights as they are."""
        self.decisions = decisions
        if self.trainer is not None:
            self._give_weights()

    def _take_turn(self) -> bool:
        """Let the network learn for the decisions so far; return whether it did."""
        joint = self.decisions - self.start
        if self.trainer is None or joint <= 0:
            return False
        assert self.policy is not None, "set .policy before the first step"
        share = min(joint / max(self.total - self.start, 1), 1.0)
        metrics = self.trainer.turn(self.policy, joint, share)
        if metrics is not None and self.on_turn is not None:
            self.on_turn(metrics, self.decisions)
        return metrics is not None

    def _give_weights(self) -> tuple[Any, dict[str, Any]]:
        """Give all environments the trainer's weights; return what this one shows."""
        assert self.trainer is not None, "a frozen network has no new weights"
        weights, base = self.trainer.weights(), self.unwrapped
        for each in self._followers:
            each.load_weights(weights)
        observations, infos = base.load_weights(weights)  # type: ignore[attr-defined]
        return observations, infos
