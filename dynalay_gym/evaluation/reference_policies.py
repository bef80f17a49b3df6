"""Reference policies: what a learned policy has to be better than.

They read the observation through `observation_layout` and the documented info keys
only; `best-fixed` and `oracle` also read the exact table of `dynalay_gym.envs.oracle`.

Axes: N sub-environments, n samples, A = L + 1 actions, P = 2^L plans.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from agents.base import Array, Infos, as_numpy, like
from dynalay_gym.envs.oracle import PlanTable, plan_table
from dynalay_gym.evaluation.evaluate import first_observations


class PlanPolicy:
    """Follows a list of actions, then stops: one list for all, or one per sample.

    Args:
        name: Label of the policy.
        plans: One list of actions, or with `per_sample` one for every sample.
        nop_action: Action that stops.
        per_sample: Take the list at `infos["index"]` instead of the only one.
    """

    macs_per_decision = 0

    def __init__(
        self,
        name: str,
        plans: Sequence[Sequence[int]],
        nop_action: int,
        *,
        per_sample: bool = False,
    ) -> None:
        self.name = name
        self._per_sample = per_sample
        longest = max(len(plan) for plan in plans)
        self._table = np.full((len(plans), longest + 1), nop_action, dtype=np.int64)
        for row, plan in zip(self._table, plans, strict=True):
            row[: len(plan)] = plan

    def act(self, observations: Array, infos: Infos) -> Array:
        """Choose actions [N]; see `Policy.act`."""
        position = as_numpy(infos["decisions"])
        sample = as_numpy(infos["index"]) * self._per_sample
        position = np.minimum(position, self._table.shape[1] - 1)
        return like(self._table[sample, position], observations)


class RandomPolicy:
    """Draws every action with the same probability, NOP among them."""

    name = "random"
    macs_per_decision = 0

    def __init__(self, num_actions: int, seed: int = 0) -> None:
        self._num_actions = num_actions
        self._rng = np.random.default_rng(seed)

    def act(self, observations: Array, infos: Infos) -> Array:
        """Choose actions [N]; see `Policy.act`."""
        actions = self._rng.integers(self._num_actions, size=len(observations))
        return like(actions, observations)


class StopOrAllPolicy:
    """Decides once, at the start: stop, or follow the whole plan.

    Subclasses say which rows stop.
    """

    macs_per_decision = 0

    def __init__(self, name: str, plan: Sequence[int], nop_action: int) -> None:
        self.name = name
        self._nop_action = nop_action
        self._plan = PlanPolicy(name, [plan], nop_action)

    def stops(self, observations: np.ndarray) -> np.ndarray:
        """Return which rows stop, bool [N]; only fresh episodes are asked for."""
        raise NotImplementedError

    def act(self, observations: Array, infos: Infos) -> Array:
        """Choose actions [N]; see `Policy.act`."""
        fresh = as_numpy(infos["decisions"]) == 0
        stop = fresh & self.stops(as_numpy(observations))
        actions = as_numpy(self._plan.act(observations, infos))
        return like(np.where(stop, self._nop_action, actions), observations)


class RandomMixPolicy(StopOrAllPolicy):
    """Follows the plan with a fixed probability: compute without looking."""

    def __init__(
        self, plan: Sequence[int], nop_action: int, probability: float, seed: int = 0
    ) -> None:
        super().__init__("random-mix", plan, nop_action)
        self._probability = probability
        self._rng = np.random.default_rng(seed)

    def stops(self, observations: np.ndarray) -> np.ndarray:
        """Return which rows stop, by a draw for every row."""
        return self._rng.random(len(observations)) >= self._probability


class ThresholdPolicy(StopOrAllPolicy):
    """Stops where a feature's confidence reaches a threshold.

    Args:
        name: Label of the policy.
        plan: Followed where it does not.
        nop_action: Action that stops.
        column: The feature's column of the observation.
        sign: 1 if a large value is confident (max-prob), -1 if a small one (entropy).
        threshold: Least confidence, sign * feature, at which to stop.
    """

    def __init__(
        self,
        name: str,
        plan: Sequence[int],
        nop_action: int,
        *,
        column: int,
        sign: float,
        threshold: float,
    ) -> None:
        super().__init__(name, plan, nop_action)
        self._column = column
        self._sign = sign
        self.threshold = threshold

    def stops(self, observations: np.ndarray) -> np.ndarray:
        """Return which rows are confident enough."""
        return self._sign * observations[:, self._column] >= self.threshold


def best_threshold(
    confidence: np.ndarray, stop_returns: np.ndarray, go_returns: np.ndarray
) -> float:
    """Return the threshold of the highest mean return: stop where confidence >= it.

    Args:
        confidence: One number per sample [n].
        stop_returns: Return of stopping at once [n].
        go_returns: Return of the whole plan [n].
    """
    # A plan with too many decisions returns minus infinity, which cannot be summed.
    go_returns = np.maximum(go_returns, np.finfo(np.float32).min)
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    gains = np.cumsum(stop_returns[order] - go_returns[order], dtype=np.float64)
    gains = np.concatenate([[0.0], gains])  # gains[k]: the k most confident stop
    cuts = np.concatenate([[True], ranked[1:] < ranked[:-1], [True]])
    best = int(np.argmax(np.where(cuts, gains, -np.inf)))
    if best == 0:
        return np.inf
    if best == len(ranked):
        return -np.inf
    return float(ranked[best - 1] + ranked[best]) / 2.0


def make_baselines(
    envs: VectorEnv, validation_envs: VectorEnv, penalty: float, seed: int = 0
) -> list[Any]:
    """Return every reference policy but random-mix, which needs a result to match.

    Args:
        envs: Environment over the split that will be walked (the oracle's).
        validation_envs: Environment over the split that thresholds and the best
            fixed plan are chosen on.
        penalty: Penalty that they are chosen for.
        seed: Seed of the random policy.
    """
    base: Any = envs.unwrapped
    validation_base: Any = validation_envs.unwrapped
    nop, layers = base.nop_action, range(1, base.num_layers + 1)
    validation = plan_table(validation_base, penalty)
    best = validation.plans[int(validation.returns.mean(axis=0).argmax())]
    table = plan_table(base, penalty)
    return [
        PlanPolicy("nop", [()], nop),
        PlanPolicy("always", [tuple(layers)], nop),
        *(PlanPolicy(f"layer-{k}", [(k,)], nop) for k in layers),
        RandomPolicy(base.num_layers + 1, seed),
        *make_thresholds(validation_envs, validation, penalty),
        PlanPolicy("best-fixed", [best], nop),
        PlanPolicy(
            "oracle", [table.plans[k] for k in table.best()], nop, per_sample=True
        ),
    ]


def make_thresholds(
    validation_envs: VectorEnv, table: PlanTable, penalty: float
) -> list[ThresholdPolicy]:
    """Return max-prob and entropy, tuned for return on the validation split.

    Args:
        validation_envs: Environment over the validation split.
        table: Its plan table at the penalty.
        penalty: Penalty that they are tuned for.
    """
    base: Any = validation_envs.unwrapped
    first = np.concatenate(
        [batch for _, batch in first_observations(validation_envs, penalty)]
    )
    policies = []
    for name, feature, sign in (
        ("max-prob", "max_prob", 1),
        ("entropy", "entropy", -1),
    ):
        column = base.observation_layout[feature].start
        threshold = best_threshold(
            sign * first[:, column], table.returns[:, 0], table.returns[:, -1]
        )
        policies.append(
            ThresholdPolicy(
                name,
                table.plans[-1],
                base.nop_action,
                column=column,
                sign=sign,
                threshold=threshold,
            )
        )
    return policies


def make_random_mix(
    envs: VectorEnv, extra_macs: float, always_macs: float, seed: int = 0
) -> RandomMixPolicy:
    """Return NOP or always, mixed to the compute of another policy.

    Args:
        envs: Environment that will be walked.
        extra_macs: Mean extra multiply-adds of the other policy.
        always_macs: Mean extra multiply-adds of *always* on the same samples.
        seed: Seed of the draws.
    """
    base: Any = envs.unwrapped
    plan = tuple(range(1, base.num_layers + 1))
    return RandomMixPolicy(plan, base.nop_action, extra_macs / always_macs, seed)
