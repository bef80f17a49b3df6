"""Rewards: accuracy minus compute, paid as it falls due.

Every reward is a small object called once per decision, for m rows at a time; what it
pays over an episode is the episode's return (discount 1). All are deterministic and,
because compute is counted in MACs, the same on every platform. They are written with
``+``, ``-`` and ``*`` alone, so they take float32 arrays and tensors alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from dynalay_gym.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What one decision did, per row [m]; float32 tensors or arrays throughout.

    Attributes:
        stop: 1 if the answer is given now, else 0.
        correct: 1 if the current answer is right, else 0.
        cost: MACs taken, as a share of the mean extra MACs of *always*; 0 for NOP.
        consecutive: How often in a row this action was chosen, 1 at first.
        already_iterated: 1 if the action found its work done already, else 0.
        iterated: Mean of the feature ``iterated``, the share of layers that sit on
            their fixed point, in [0, 1]; 0 if the reward does not use it.
        log_score_gain: Change of the true class's log-probability, in nats; 0 if the
            reward does not use it.
        penalty: Weight beta of compute.
    """

    stop: Any
    correct: Any
    cost: Any
    consecutive: Any
    already_iterated: Any
    iterated: Any
    log_score_gain: Any
    penalty: Any


class LayerReward(Protocol):
    """Pays for one decision.

    Attributes:
        uses_log_score: Whether it reads ``log_score_gain``, which is 0 otherwise.
        uses_iterated: Whether it reads ``iterated``, which is 0 otherwise.
    """

    uses_log_score: ClassVar[bool] = False
    uses_iterated: ClassVar[bool] = False

    def __call__(self, decision: Decision) -> Any:
        """Return the reward of each row's decision, [m].

        Use ``+``, ``-`` and ``*`` only: it is called with NumPy arrays [m] (live) and
        with tensors [m, K, A] (oracle).
        """


@dataclass(frozen=True)
class PaperReward(LayerReward):
    """``alpha * correct - beta * sum_t c(a_t) * n_consecutive(a_t)``.

    References:
        Mathur & Plis (2023), DynaLay, eq. 2.
    """

    alpha: float

    def __call__(self, decision: Decision) -> Any:
        """Return the reward of each row's decision, [m]."""
        gain = self.alpha * (decision.stop * decision.correct)
        return gain - decision.penalty * decision.cost * decision.consecutive


@dataclass(frozen=True)
class ThreeTermReward(LayerReward):
    """``alpha * correct - beta * sum_t c(a_t) - gamma * redundant choices``.

    References:
        DynaLay's workshop abstract: accuracy, time, redundant layer selection.
    """

    alpha: float
    gamma: float = 0.2

    def __call__(self, decision: Decision) -> Any:
        """Return the reward of each row's decision, [m]."""
        gain = self.alpha * (decision.stop * decision.correct)
        compute = decision.penalty * decision.cost
        return gain - compute - self.gamma * decision.already_iterated


@dataclass(frozen=True)
class LogScoreReward(LayerReward):
    """``alpha * (log p_end(y) - log p_start(y)) - beta * sum_t c(a_t) * n(a_t)``.

    The log score telescopes: a decision is paid what it improved.
    """

    uses_log_score: ClassVar[bool] = True
    alpha: float

    def __call__(self, decision: Decision) -> Any:
        """Return the reward of each row's decision, [m]."""
        compute = decision.penalty * decision.cost * decision.consecutive
        return self.alpha * decision.log_score_gain - compute


@dataclass(frozen=True)
class BlockDropReward(LayerReward):
    """``2 alpha * (1 - (iterated share)^2)`` if right, else ``-2 alpha``, at the stop.

    The penalty plays no part. With alpha = 0.5 it is the published reward, -1 if wrong.

    References:
        Wu et al. (2018), BlockDrop, section 3.2.
    """

    uses_iterated: ClassVar[bool] = True
    alpha: float

    def __call__(self, decision: Decision) -> Any:
        """Return the reward of each row's decision, [m]."""
        right = 1 - decision.iterated * decision.iterated
        outcome = decision.correct * right + (-1.0 + decision.correct)
        return 2 * self.alpha * outcome * decision.stop


REWARDS: dict[str, Callable[[float], LayerReward]] = {
    "paper": PaperReward,
    "three-term": ThreeTermReward,
    "log-score": LogScoreReward,
    "blockdrop": BlockDropReward,
}


def make_reward(name: str, alpha: float) -> LayerReward:
    """Build a registered reward.

    Raises:
        ConfigError: for an unknown name or a negative alpha.
    """
    if name not in REWARDS:
        raise ConfigError(f"unknown reward {name!r}; choose one of {sorted(REWARDS)}")
    if not 0 <= alpha < float("inf"):
        raise ConfigError(f"alpha must be a finite number of at least 0, not {alpha}")
    return REWARDS[name](alpha)
