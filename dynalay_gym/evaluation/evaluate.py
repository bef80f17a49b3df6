"""Evaluating a policy on a whole split, each sample exactly once.

Axes: N sub-environments, n samples, A actions.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.policy import Policy, as_numpy


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What a policy did on n samples, one entry per sample, in the order asked for.

    Attributes:
        policy: Name of the policy.
        action_names: Name of each action.
        indices: Samples of the split, int64 [n].
        returns: Sum of each episode's rewards, float64 [n].
        correct: Whether the answer was right, bool [n].
        macs: Main network's multiply-adds beyond the plain pass, int64 [n].
        actions: How often each action was taken, int64 [n, A].
        confidence: Probability of the answer, the observation's `max_prob` at the end,
            float64 [n]; NaN where there is none.
        difficulty: The data set's measure of how hard a sample is, float64 [n]; NaN
            where it has none.
        plain_macs: Multiply-adds of one plain pass.
        always_extra_macs: Mean extra multiply-adds of *always* on the agent split, the
            unit of the reward's cost.
        macs_per_decision: The policy's own multiply-adds for one decision.
        seconds: Wall-clock time of the whole evaluation: environment and policy.
    """

    policy: str
    action_names: tuple[str, ...]
    indices: np.ndarray
    returns: np.ndarray
    correct: np.ndarray
    macs: np.ndarray
    actions: np.ndarray
    confidence: np.ndarray
    difficulty: np.ndarray
    plain_macs: int
    always_extra_macs: float
    macs_per_decision: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.correct.mean())

    @property
    def mean_return(self) -> float:
        """Mean return of an episode."""
        return float(self.returns.mean())

    @property
    def compute(self) -> float:
        """Mean multiply-adds of the main network in plain passes (plain pass = 1)."""
        return 1.0 + float(self.macs.mean()) / self.plain_macs

    @property
    def extra_share(self) -> float:
        """Mean extra multiply-adds as a share of *always*."""
        return float(self.macs.mean()) / self.always_extra_macs

    @property
    def action_shares(self) -> np.ndarray:
        """Share of each action among all decisions, float64 [A]."""
        shares: np.ndarray = self.actions.sum(axis=0) / self.actions.sum()
        return shares

    @property
    def agent_macs_share(self) -> float:
        """The policy's own multiply-adds as a share of the main network's."""
        own = self.macs_per_decision * self.actions.sum()
        return float(own) / float((self.macs + self.plain_macs).sum())

    @property
    def seconds_per_sample(self) -> float:
        """Wall-clock time of one sample within the batch."""
        return self.seconds / len(self.indices)

    def scalars(self, prefix: str) -> dict[str, float]:
        """Return accuracy, compute and return as metrics `<prefix>/<name>`."""
        return {
            f"{prefix}/accuracy": self.accuracy,
            f"{prefix}/compute": self.compute,
            f"{prefix}/return": self.mean_return,
        }


def evaluate(
    envs: VectorEnv,
    policy: Policy,
    *,
    indices: np.ndarray | None = None,
    penalty: float | np.ndarray | None = None,
) -> EvaluationResult:
    """Let a policy decide on the given samples, each exactly once.

    A row that finishes takes the next sample at once, so rows stay busy until the
    samples run out; from there on finished rows repeat a sample, uncounted.

    Args:
        envs: Environment of this package in DISABLED mode; it is left reset.
        policy: Chooses the actions.
        indices: Samples to decide on, int64 [n]; None takes the whole split.
        penalty: Penalty of every episode, or one per sample [n]; None leaves it to the
            environment.

    Raises:
        ConfigError: The environment resets rows by itself, there are no samples, or not
            one penalty per sample.
    """
    check_autoreset(envs, AutoresetMode.DISABLED, "evaluate")
    base: Any = envs.unwrapped
    samples = np.arange(base.num_samples) if indices is None else np.asarray(indices)
    episodes = _Episodes(samples, penalty, envs)
    start = time.perf_counter()
    observations, infos = envs.reset(options=episodes.options())
    while episodes.remaining > 0:
        actions = policy.act(observations, infos)
        observations, rewards, terminations, truncations, infos = envs.step(actions)
        ended = as_numpy(terminations) | as_numpy(truncations)
        episodes.add_step(actions, rewards, ended, infos, observations)
        if ended.any():
            episodes.assign(ended)
            options = {"reset_mask": ended, **episodes.options()}
            observations, infos = envs.reset(options=options)
    seconds = time.perf_counter() - start
    return EvaluationResult(
        policy=policy.name,
        action_names=base.action_names,
        indices=samples,
        returns=episodes.returns,
        correct=episodes.correct,
        macs=episodes.macs,
        actions=episodes.actions,
        confidence=episodes.confidence,
        difficulty=episodes.difficulty,
        plain_macs=int(base.plain_macs),
        always_extra_macs=float(base.always_extra_macs),
        macs_per_decision=policy.macs_per_decision,
        seconds=seconds,
    )


class _Episodes:
    """Which row decides on which sample, and what has become of each sample.

    Attributes:
        positions: Where in the list of samples each row is, int64 [N]; those from n on
            are repeats, which are not counted.
        remaining: Number of samples without an answer.
    """

    def __init__(
        self,
        samples: np.ndarray,
        penalty: float | np.ndarray | None,
        envs: VectorEnv,
    ) -> None:
        if samples.ndim != 1 or samples.size == 0:
            raise ConfigError(f"indices must be [n] with n > 0, not {samples.shape}")
        num = len(samples)
        if penalty is not None and np.shape(penalty) not in ((), (num,)):
            raise ConfigError(f"penalty must be one number or {num} of them")
        self._samples, self._penalty = samples, penalty
        base: Any = envs.unwrapped
        self._max_prob = base.observation_layout.get("max_prob")
        self._next, self.remaining = envs.num_envs, num
        self.positions = np.arange(envs.num_envs)
        self.returns = np.zeros(num)
        self.correct = np.zeros(num, dtype=bool)
        self.macs = np.zeros(num, dtype=np.int64)
        self.actions = np.zeros((num, base.single_action_space.n), dtype=np.int64)
        self.confidence, self.difficulty = np.full((2, num), np.nan)

    def options(self) -> dict[str, Any]:
        """Return the reset options that give every row its sample and penalty."""
        positions = self.positions % len(self._samples)
        options: dict[str, Any] = {"index": self._samples[positions]}
        if self._penalty is not None:
            penalty = np.asarray(self._penalty)
            options["penalty"] = penalty if penalty.ndim == 0 else penalty[positions]
        return options

    def add_step(
        self, actions: Any, rewards: Any, ended: np.ndarray, infos: Any, seen: Any
    ) -> None:
        """Add one step of every row that counts; `ended` is bool [N]."""
        counted = self.positions < len(self._samples)
        positions = self.positions[counted]
        self.returns[positions] += as_numpy(rewards)[counted]
        self.macs[positions] += as_numpy(infos["macs"])[counted]
        self.correct[positions] = as_numpy(infos["correct"])[counted]
        self.actions[positions, as_numpy(actions)[counted]] += 1
        if "difficulty" in infos:
            self.difficulty[positions] = as_numpy(infos["difficulty"])[counted]
        if self._max_prob is not None:
            flat = seen["flat"] if isinstance(seen, dict) else seen
            confidence = as_numpy(flat[:, self._max_prob])[:, 0]
            self.confidence[positions] = confidence[counted]
        self.remaining -= int((ended & counted).sum())

    def assign(self, ended: np.ndarray) -> None:
        """Give the rows that ended, bool [N], the next samples."""
        num = int(ended.sum())
        self.positions[ended] = np.arange(self._next, self._next + num)
        self._next += num


def check_autoreset(envs: VectorEnv, mode: AutoresetMode, user: str) -> None:
    """Check that a vector environment starts new episodes the way its user expects.

    Args:
        envs: The environment; Gymnasium keeps its mode in ``metadata``.
        mode: The mode that is needed.
        user: Who needs it, for the message.

    Raises:
        ConfigError: The environment has another mode, or names none.
    """
    found = envs.metadata.get("autoreset_mode")
    if found is not mode:
        raise ConfigError(
            f"{user} needs an environment in autoreset mode {mode.value}, got {found}; "
            f"pass autoreset_mode={mode.value!r} to gym.make_vec"
        )
