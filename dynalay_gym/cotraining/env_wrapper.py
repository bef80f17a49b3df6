"""Co-training around an environment, so that neither side knows of it.

Why a wrapper: what changes under an agent when the main network learns is its
environment, and the next observation is the only thing that it sees of it. A wrapper
replaces exactly that: after every so many steps it lets the network have its turn,
gives the environment the new weights, and returns the step's observations as the new
network makes them. So no algorithm, ours, Stable-Baselines3's or a user's own loop,
needs a line for it or ever acts on an observation of weights that are gone. A callback
would have to be built into every algorithm and could not replace the observation that
it already holds; a trainer that owns both loops would have to contain every algorithm.

Consistency: weights change only after the last step of a rollout. Rows in mid-episode
then stand in the state of the same bits under the new weights (a state depends on the
sample and its bits alone), so nothing of an episode is lost; what was paid stays paid.
"""

from collections.abc import Callable, Sequence
from typing import Any

from gymnasium.vector import VectorEnv, VectorWrapper

from dynalay_gym.cotraining.trainer import CoTrainer, TurnReport
from dynalay_gym.cotraining.walk import Chooser
from dynalay_gym.errors import ConfigError

Listener = Callable[[TurnReport, int], None]


class CoTrainingEnv(VectorWrapper):
    """Lets a main network learn between the rollouts of whatever steps it.

    Attributes:
        policy: The agent's policy; set it once the agent exists.
        decisions: Decisions of all rows since the beginning.
        on_turn: Called after every turn with its report and the decisions so far.

    Args:
        envs: Vector environment of this package.
        trainer: The main network's side; None leaves it frozen, and every step is
            then the environment's own.
        every: Steps of every row between two turns: a rollout's.
        start: Decisions before the first turn (the agent's warm-up).
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
        self.trainer, self.every = trainer, every
        self.start, self.total = start, total
        self.followers: list[Any] = [each.unwrapped for each in followers]
        self.policy: Chooser | None = None
        self.on_turn: Listener | None = None
        self.decisions = 0
        self._seen = start  # decisions that the network has had its turns for

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take one decision in every row; see ``DynaLayVectorEnv.step``."""
        outcome = self.env.step(actions)
        self.decisions += self.num_envs
        if self.decisions % (self.every * self.num_envs) or not self.take_turn():
            return outcome
        _, rewards, terminations, truncations, infos = outcome
        observations, fresh = self._hand_over()
        return observations, rewards, terminations, truncations, infos | fresh

    def advance(self, decisions: int) -> bool:
        """Count decisions that were learned from without a step, and take the turns.

        For learning in phases, such as exact learning on a transition table: learn on
        the table, advance (which computes the next table), and so on. An ordinary
        algorithm needs only ``step``. A phase may have many decisions; the network then
        has a turn for as many of them as a rollout has, so that every walk of the
        policy is as short, and sees weights as new, as in an ordinary algorithm.

        Args:
            decisions: Decisions since the last call, at least 0.

        Returns:
            Whether the network, and so the table, has changed.
        """
        end, changed = self.decisions + decisions, False
        while self.decisions < end:
            self.decisions = min(self.decisions + self.every * self.num_envs, end)
            changed |= self.take_turn()
        if changed:
            self._hand_over()
        return changed

    def take_turn(self) -> bool:
        """Let the network learn for the decisions since its last turn.

        Returns:
            Whether its weights have changed.
        """
        if self.trainer is None or self.decisions <= self._seen:
            return False
        assert self.policy is not None, "set .policy before the first step"
        since, self._seen = self.decisions - self._seen, self.decisions
        span = max(self.total - self.start, 1)
        share = (self.decisions - self.start) / span
        report = self.trainer.turn(self.policy, since, share)
        if report is None:
            return False
        if self.on_turn is not None:
            self.on_turn(report, self.decisions)
        return True

    def _hand_over(self) -> tuple[Any, dict[str, Any]]:
        """Give all environments the new weights; what the own one then shows."""
        assert self.trainer is not None, "no turn without a trainer"
        for follower in self.followers:
            follower.set_weights(self.trainer.weights())
        base: Any = self.unwrapped
        observations, infos = base.set_weights(self.trainer.weights())
        return observations, infos

    def load_decisions(self, decisions: int) -> None:
        """Go on after so many decisions."""
        self.decisions, self._seen = decisions, max(decisions, self.start)
