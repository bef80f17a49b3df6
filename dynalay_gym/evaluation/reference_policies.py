"""Reference policies: what a learned policy has to be better than.

They read the observation through `observation_layout` and the documented info keys
only, and remember nothing; *best-fixed* and *oracle* are found by enumeration
(`dynalay_gym.envs.oracle`).

Axes: N sub-environments, n samples, T decisions, A actions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from dynalay_gym.envs.oracle import best_fixed_plan, optimum
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.networks.policy import Array, Infos, PlanPolicy, Policy, as_numpy, like


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

    def act(self, observations: Array, infos: Infos) -> Array:
        """Choose actions [N]; see `Policy.act`."""
        last = as_numpy(observations)[:, self._last_action][:, self._choices]
        position = last.argmax(axis=1)  # 0 where no action was taken yet
        useful = as_numpy(infos["action_mask"])[:, self._choices] != 0
        ahead = np.arange(len(self._choices)) >= position[:, None]
        return like(self._choices[(useful & ahead).argmax(axis=1)], observations)


class OncePolicy(SweepPolicy):
    """Decides once, at the start: stop, or sweep the network's full plan.

    Subclasses say which rows stop.
    """

    def __init__(self, envs: VectorEnv, *, name: str) -> None:
        base: Any = envs.unwrapped
        super().__init__(envs, base.full_plan, name=name)

    def stops(self, observations: np.ndarray) -> np.ndarray:
        """Return which rows stop, bool [N]; it counts for fresh episodes only."""
        raise NotImplementedError

    def act(self, observations: Array, infos: Infos) -> Array:
        """Choose actions [N]; see `Policy.act`."""
        fresh = as_numpy(infos["decisions"]) == 0
        stop = fresh & self.stops(as_numpy(observations))
        actions = as_numpy(super().act(observations, infos))
        return like(np.where(stop, self._choices[-1], actions), observations)


class ThresholdPolicy(OncePolicy):
    """Stops at once where the network is confident enough, else sweeps the full plan.

    Args:
        envs: An environment of the network.
        feature: Name of a number in the observation's layout: `max_prob`, `entropy`.
        sign: 1 if a large value is confident (max_prob), -1 if a small one (entropy).
        threshold: Least confidence, sign * feature, at which to stop.
        name: Label of the policy in tables.
    """

    def __init__(
        self, envs: VectorEnv, feature: str, sign: int, threshold: float, *, name: str
    ) -> None:
        super().__init__(envs, name=name)
        base: Any = envs.unwrapped
        self._column, self._sign = base.observation_layout[feature].start, sign
        self.threshold = threshold

    def confidence(self, observations: np.ndarray) -> np.ndarray:
        """Return sign * feature of observations [N, D], float32 [N]."""
        values: np.ndarray = self._sign * observations[:, self._column]
        return values

    def stops(self, observations: np.ndarray) -> np.ndarray:
        """Return which rows are confident enough, bool [N]."""
        return self.confidence(observations) >= self.threshold


class RandomMixPolicy(OncePolicy):
    """Sweeps the full plan with a fixed probability: compute without looking.

    Args:
        envs: An environment of the network.
        probability: Of sweeping, in [0, 1].
        seed: Seed of the draws.
    """

    def __init__(self, envs: VectorEnv, probability: float, seed: int = 0) -> None:
        super().__init__(envs, name="random-mix")
        self._probability = probability
        self._rng = np.random.default_rng(seed)

    def stops(self, observations: np.ndarray) -> np.ndarray:
        """Return which rows stop, bool [N], by a draw for every row."""
        return self._rng.random(len(observations)) >= self._probability


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


def make_reference_policies(
    envs: VectorEnv, validation_envs: VectorEnv, penalty: float, seed: int = 0
) -> list[Policy]:
    """Return every reference policy but random-mix, which needs a result to match.

    Args:
        envs: Environment over the split that will be evaluated (the oracle's).
        validation_envs: Environment in DISABLED mode over the split that thresholds and
            the best fixed plan are chosen on.
        penalty: Penalty that they are chosen for.
        seed: Seed of the random policy.

    Returns:
        nop, always, layer-k for every action of the full plan, random, max-prob,
        entropy, best-fixed, oracle: in this order.
    """
    base: Any = envs.unwrapped
    validation_base: Any = validation_envs.unwrapped
    nop = SweepPolicy(envs, (), name="nop")
    always = SweepPolicy(envs, base.full_plan, name="always")
    return [
        nop,
        always,
        *(SweepPolicy(envs, [k], name=f"layer-{k}") for k in base.full_plan),
        RandomPolicy(base.num_actions, seed),
        *_tuned_thresholds(validation_envs, penalty, nop, always),
        PlanPolicy(best_fixed_plan(validation_base, penalty), name="best-fixed"),
        PlanPolicy(optimum(base, penalty).plans, name="oracle"),
    ]


def make_random_mix(
    envs: VectorEnv, extra_macs: float, always_macs: float, seed: int = 0
) -> RandomMixPolicy:
    """Return NOP or always, mixed to the compute of another policy.

    Args:
        envs: An environment of the network.
        extra_macs: Mean extra multiply-adds of the other policy.
        always_macs: Mean extra multiply-adds of *always* on the same samples.
        seed: Seed of the draws.
    """
    return RandomMixPolicy(envs, extra_macs / always_macs, seed)


def _tuned_thresholds(
    envs: VectorEnv, penalty: float, nop: Policy, always: Policy
) -> list[Policy]:
    """Return max-prob and entropy, tuned for return on the environment's split."""
    stop, go = (evaluate(envs, policy, penalty=penalty) for policy in (nop, always))
    first = first_observations(envs, penalty)
    policies: list[Policy] = []
    for name, sign in (("max-prob", 1), ("entropy", -1)):
        feature = name.replace("-", "_")
        policy = ThresholdPolicy(envs, feature, sign, np.inf, name=name)
        confidence = policy.confidence(first)
        policy.threshold = best_threshold(confidence, stop.returns, go.returns)
        policies.append(policy)
    return policies


def first_observations(envs: VectorEnv, penalty: float) -> np.ndarray:
    """Return what each sample of the split shows at the start, float32 [n, D].

    Args:
        envs: Environment in any mode; it is left reset.
        penalty: Penalty to show in the observations.
    """
    base: Any = envs.unwrapped
    batches = []
    for begin in range(0, base.num_samples, envs.num_envs):
        rows = np.arange(begin, begin + envs.num_envs) % base.num_samples
        observations, _ = envs.reset(options={"index": rows, "penalty": penalty})
        batches.append(as_numpy(observations))
    return np.concatenate(batches)[: base.num_samples]


def best_threshold(
    confidence: np.ndarray, stop_returns: np.ndarray, go_returns: np.ndarray
) -> float:
    """Return the threshold of the highest mean return: stop where confidence >= it.

    Args:
        confidence: One number per sample [n].
        stop_returns: Return of stopping at once [n].
        go_returns: Return of the full plan [n].

    Returns:
        Midpoint between two confidences; infinity where no sample should stop, minus
        infinity where all should.
    """
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
