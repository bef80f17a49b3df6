"""Walking a policy over a whole split, and what came out of it.

Axes: N sub-environments, n samples, A actions, G groups (original images).
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from agents.base import Policy, as_numpy
from dynalay_gym.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """A policy's walk over n samples, one entry per sample, in the order asked for.

    Attributes:
        policy: Name of the policy.
        indices: Samples of the split, int64 [n].
        returns: Sum of each episode's rewards, float64 [n].
        correct: Whether the answer was right, bool [n].
        macs: Main network's multiply-adds beyond the plain pass, int64 [n].
        actions: How often each action was taken, int64 [n, A].
        plain_macs: Multiply-adds of one plain pass.
        always_extra_macs: Mean extra multiply-adds of *always*, the unit of the
            reward's cost.
        macs_per_decision: The policy's own multiply-adds for one decision.
        seconds: Wall-clock time of the whole walk: environment and policy.
    """

    policy: str
    indices: np.ndarray
    returns: np.ndarray
    correct: np.ndarray
    macs: np.ndarray
    actions: np.ndarray
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
        """Wall-clock time of one sample within the batched walk."""
        return self.seconds / len(self.indices)


def walk(
    envs: VectorEnv,
    policy: Policy,
    *,
    indices: np.ndarray | None = None,
    penalty: float | np.ndarray | None = None,
) -> EvaluationResult:
    """Let a policy decide on the given samples, each exactly once.

    A row that finishes takes the next sample at once, so rows stay busy until the
    samples run out; from there on finished rows repeat their sample, uncounted.

    Args:
        envs: Environment in DISABLED mode.
        policy: Chooses the actions.
        indices: Samples to walk, int64 [n]; None walks the whole split.
        penalty: Penalty of every episode, or one per sample [n]; None is what the
            environment draws.

    Raises:
        ConfigError: If the environment resets rows by itself.
    """
    check_disabled(envs)
    base: Any = envs.unwrapped
    if indices is None:
        indices = np.arange(base.num_samples)
    ledger = _Ledger(indices, penalty, envs.num_envs, int(base.num_layers) + 1)
    began = time.perf_counter()
    observations, infos = envs.reset(options=ledger.first())
    while not ledger.finished:
        actions = policy.act(observations, infos)
        observations, rewards, ends, _, infos = envs.step(actions)
        ended = ledger.record(actions, rewards, ends, infos)
        if ended.any():
            observations, infos = envs.reset(options=ledger.refill(ended))
    seconds = time.perf_counter() - began
    return EvaluationResult(
        policy=policy.name,
        indices=indices,
        returns=ledger.returns,
        correct=ledger.correct,
        macs=ledger.macs,
        actions=ledger.actions,
        plain_macs=int(base.plain_macs),
        always_extra_macs=float(base.always_extra_macs),
        macs_per_decision=policy.macs_per_decision,
        seconds=seconds,
    )


def check_disabled(envs: VectorEnv) -> None:
    """Raise ConfigError unless the environment leaves finished rows alone."""
    mode = envs.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.DISABLED:
        raise ConfigError(
            f"walking a split needs an environment that never resets by itself, got "
            f"{mode}; pass autoreset_mode='Disabled' to gym.make_vec"
        )


def first_observations(
    envs: VectorEnv, penalty: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (indices, observations after reset) over the whole split, in batches.

    Args:
        envs: Environment in any mode; it is left reset.
        penalty: Penalty to show in the observations.
    """
    base: Any = envs.unwrapped
    for begin in range(0, base.num_samples, envs.num_envs):
        rows = np.arange(begin, begin + envs.num_envs)
        options = {"index": rows % base.num_samples, "penalty": penalty}
        observations, _ = envs.reset(options=options)
        inside = rows < base.num_samples
        yield rows[inside], as_numpy(observations)[inside]


def bootstrap_interval(
    values: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return a percentile interval of the mean, resampling whole groups.

    The nine shifts of one digit are not nine independent samples, so the original
    images are drawn, each with all its samples.

    Args:
        values: One number per sample [n]: returns, or paired differences of returns.
        groups: Id of the original image per sample [n]; None: every sample by itself.
        confidence: Probability that the interval is meant to hold.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    References:
        Field and Welsh (2007), Bootstrapping clustered data.
    """
    _, members = np.unique(
        np.arange(len(values)) if groups is None else groups, return_inverse=True
    )
    counts = np.bincount(members)
    sums = np.bincount(members, weights=values.astype(np.float64))
    num = len(counts)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for k in range(resamples):
        drawn = rng.integers(num, size=num)
        means[k] = sums[drawn].sum() / counts[drawn].sum()
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)


class _Ledger:
    """Which row walks which sample, and what each sample has earned so far.

    `slots` [N] is the position in the list of samples that a row works on; positions
    from n on are repeats that nobody counts.
    """

    def __init__(
        self,
        indices: np.ndarray,
        penalty: float | np.ndarray | None,
        num_envs: int,
        num_actions: int,
    ) -> None:
        num = len(indices)
        self._indices = indices
        self._penalty = penalty
        self._next = num_envs
        self._remaining = num
        self.slots = np.arange(num_envs)
        self.returns = np.zeros(num)
        self.correct = np.zeros(num, dtype=bool)
        self.macs = np.zeros(num, dtype=np.int64)
        self.actions = np.zeros((num, num_actions), dtype=np.int64)

    @property
    def finished(self) -> bool:
        """Whether every sample has its answer."""
        return self._remaining == 0

    def first(self) -> dict[str, Any]:
        """Return the options of the first reset, of all rows."""
        return self._options()

    def record(self, actions: Any, rewards: Any, ends: Any, infos: Any) -> np.ndarray:
        """Book one step of every counted row; return which rows ended, bool [N]."""
        counted = self.slots < len(self._indices)
        slots = self.slots[counted]
        self.returns[slots] += as_numpy(rewards)[counted]
        self.macs[slots] += as_numpy(infos["macs"])[counted]
        np.add.at(self.actions, (slots, as_numpy(actions)[counted]), 1)
        ended = as_numpy(ends)
        self.correct[slots] = as_numpy(infos["correct"])[counted]
        self._remaining -= int((ended & counted).sum())
        return ended

    def refill(self, ended: np.ndarray) -> dict[str, Any]:
        """Give the ended rows new samples; return the options that reset them."""
        num = int(ended.sum())
        self.slots[ended] = np.arange(self._next, self._next + num)
        self._next += num
        return {"reset_mask": ended, **self._options()}

    def _options(self) -> dict[str, Any]:
        """Return index (and penalty) of every row."""
        slots = self.slots % len(self._indices)
        options: dict[str, Any] = {"index": self._indices[slots]}
        if isinstance(self._penalty, np.ndarray):
            options["penalty"] = self._penalty[slots]
        elif self._penalty is not None:
            options["penalty"] = self._penalty
        return options
