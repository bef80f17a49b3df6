"""Reference policies: what a learned policy has to be better than.

All but *random* walk a plan, and differ in the plan and in where they stop. They read
the observation through `observation_layout` and the documented info keys only.

Axes: N sub-environments, A actions.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.policy import Array, Infos, as_numpy, like

Floats = NDArray[np.float64]
Score = Callable[[NDArray[Any], Infos], Floats]  # observations [N, D], infos -> [N]

# Score by name: the part of the observation, and whether large (1) or small is sure.
_PARTS = {
    "max-prob": ("max_prob", 1),
    "entropy": ("entropy", -1),
    "residual": ("residual", -1),
}


class SweepPolicy:
    """Takes each action of a plan for as long as it can change something, then stops.

    With a session's whole `full_plan` this is *always*, with one action *layer-k*, with
    none *nop*. Where the plan stands is read from the observation's last action.

    Args:
        envs: An environment of the network, for layout and actions.
        plan: The actions in order, each at most once.
        name: Label of the policy in tables.

    Raises:
        ConfigError: An action comes twice: the last action would not say where the
            plan stands.
    """

    macs_per_decision = 0

    def __init__(self, envs: VectorEnv, plan: Sequence[int], *, name: str) -> None:
        if len(set(plan)) < len(plan):
            raise ConfigError(f"a sweep takes every action at most once, got {plan}")
        base: Any = envs.unwrapped
        self.name = name
        self._choices = np.append(np.asarray(plan, np.int64), base.nop_action)
        self._last_action = base.observation_layout["last_action"]

    def stops(self, observations: NDArray[Any], infos: Infos) -> NDArray[np.bool_]:
        """Return which rows stop whatever the plan has left, bool [N]: none."""
        return np.zeros(len(observations), dtype=bool)

    def act(self, observations: Array, infos: Infos) -> Array:
        """Choose actions [N]; see `Policy.act`."""
        seen = as_numpy(observations)
        last = seen[:, self._last_action][:, self._choices]
        position = last.argmax(axis=1)  # 0 where no action was taken yet
        useful = as_numpy(infos["action_mask"])[:, self._choices] != 0
        ahead = np.arange(len(self._choices)) >= position[:, None]
        chosen = (useful & ahead).argmax(axis=1)
        chosen[self.stops(seen, infos)] = -1
        return like(self._choices[chosen], observations)


class ThresholdPolicy(SweepPolicy):
    """Sweeps the full plan and stops as soon as a score reaches a threshold.

    Args:
        envs: An environment of the network.
        score: Says how much there is to be said for stopping; see `make_scores`.
        threshold: Least score to stop at.
        name: Label of the policy in tables.
        once: Look at the score before the first decision only.
    """

    def __init__(
        self,
        envs: VectorEnv,
        score: Score,
        threshold: float,
        *,
        name: str,
        once: bool = False,
    ) -> None:
        base: Any = envs.unwrapped
        super().__init__(envs, base.full_plan, name=name)
        self._score, self.threshold, self._once = score, threshold, once

    def stops(self, observations: NDArray[Any], infos: Infos) -> NDArray[np.bool_]:
        """Return which rows reach the threshold, bool [N]."""
        looks = (as_numpy(infos["decisions"]) == 0) | (not self._once)
        reached: NDArray[np.bool_] = self._score(observations, infos) >= self.threshold
        reached &= looks
        return reached


def make_scores(envs: VectorEnv) -> dict[str, Score]:
    """Return the scores that say where to stop, by the name of their policy.

    Args:
        envs: An environment of the network.

    Returns:
        Where the observation has them: *max-prob*, *entropy* (negated), *residual*
        (mean over the layers, negated); always *patience* and *fixed-k*, the number of
        decisions.
    """
    base: Any = envs.unwrapped
    layout = base.observation_layout
    scores: dict[str, Score] = {
        name: partial(_mean_of_part, layout[part], sign)
        for name, (part, sign) in _PARTS.items()
        if part in layout
    }
    return scores | {"patience": Patience(), "fixed-k": _decisions}


def _mean_of_part(part: slice, sign: int, seen: NDArray[Any], _: Infos) -> Floats:
    # In double precision, a threshold between two values stays between them.
    values: Floats = sign * seen[:, part].mean(axis=1, dtype=np.float64)
    return values


def _decisions(_: NDArray[Any], infos: Infos) -> Floats:
    return as_numpy(infos["decisions"]).astype(np.float64)


class Patience:
    """How many decisions in a row have left the prediction as it was.

    The last prediction of every row is kept and, where an episode starts, forgotten:
    it has to be asked at every decision, once.

    References:
        Zhou et al. (2020), BERT Loses Patience: Fast and Robust Inference with Early
        Exit.
    """

    def __init__(self) -> None:
        self._last = self._unchanged = np.zeros(0)

    def __call__(self, _: NDArray[Any], infos: Infos) -> Floats:
        """Return the count of every row, float64 [N]."""
        prediction, decisions = map(as_numpy, (infos["prediction"], infos["decisions"]))
        going = decisions > 0
        if going.any():
            going &= prediction == self._last
            self._unchanged = (self._unchanged + 1.0) * going
        else:  # all rows are new, and maybe as many as never before
            self._unchanged = np.zeros(len(prediction))
        self._last = prediction
        return self._unchanged


def make_random_mix(
    envs: VectorEnv, extra_macs: float, always_macs: float, seed: int = 0
) -> ThresholdPolicy:
    """Return NOP or always by a coin, mixed to the compute of another policy.

    Args:
        envs: An environment of the network.
        extra_macs: Mean extra multiply-adds of the other policy.
        always_macs: Mean extra multiply-adds of *always* on the same samples.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)

    def coin(observations: NDArray[Any], _: Infos) -> Floats:
        return rng.random(len(observations))

    share = extra_macs / always_macs
    return ThresholdPolicy(envs, coin, share, name="random-mix", once=True)


class RandomPolicy:
    """Draws every action with the same probability, NOP and masked ones among them.

    Args:
        num_actions: A.
        seed: Seed of the draws.
    """

    name = "random"
    macs_per_decision = 0

    def __init__(self, num_actions: int, seed: int = 0) -> None:
        self._num_actions = num_actions
        self._rng = np.random.default_rng(seed)

    def act(self, observations: Array, infos: Infos) -> Array:
        """Choose actions [N]; see `Policy.act`."""
        actions = self._rng.integers(self._num_actions, size=len(observations))
        return like(actions, observations)
