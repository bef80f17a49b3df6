"""The full plan over a whole split, recorded at every decision.

One walk says what stopping would have given anywhere, so all thresholds of all scores
are judged without another run of the network.

Axes: N sub-environments, n samples, A actions, T decisions at which a walk can stop.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray

from dynalay_gym.envs.reward import Decision
from dynalay_gym.evaluation.evaluate import EvaluationResult, evaluate
from dynalay_gym.evaluation.reference_policies import Floats, SweepPolicy, make_scores
from dynalay_gym.networks.policy import NOP, Array, Infos, as_numpy


@dataclass(frozen=True, kw_only=True)
class Walk:
    """What stopping at each decision of the full plan gives; the last one is its end.

    Shorter walks are padded with what they ended with.

    Attributes:
        always: The full plan to its end.
        scores: By name, float64 [n, T]; infinite at the end, where the plan stops
            whatever the score.
        returns: Return of stopping there, float64 [n, T].
        correct: Whether the answer is right there, [n, T].
        confidence: Probability of the answer, float64 [n, T].
        macs: Extra multiply-adds so far, [n, T].
        actions: The plan's action there, int64 [n, T]; -1 behind its last one.
    """

    always: EvaluationResult
    scores: dict[str, Floats]
    returns: Floats
    correct: NDArray[Any]
    confidence: Floats
    macs: NDArray[Any]
    actions: NDArray[np.int64]

    def stop(
        self, score: str, threshold: float, *, name: str = "", once: bool = False
    ) -> EvaluationResult:
        """Return what stopping where a score reaches a threshold does.

        Args:
            score: Name of the score.
            threshold: Least score to stop at; minus infinity is *nop*.
            name: Label of the policy; the score's name if empty.
            once: Look at the score before the first decision only.
        """
        scores = self.scores[score]
        reached = scores >= threshold
        if once:
            reached[:, 1:] = scores[:, 1:] == np.inf
        stop = reached.argmax(axis=1)
        at = np.arange(len(stop)), stop
        taken = np.where(np.arange(reached.shape[1]) < stop[:, None], self.actions, -1)
        taken[at] = np.minimum(self.actions[at], NOP)
        choices = np.arange(self.always.actions.shape[1])
        return replace(
            self.always,
            policy=name or score,
            returns=self.returns[at],
            correct=self.correct[at],
            confidence=self.confidence[at],
            macs=self.macs[at],
            actions=(taken[:, :, None] == choices).sum(axis=1),
        )

    def best_threshold(self, score: str, *, once: bool = False) -> float:
        """Return the lowest threshold of the highest mean return; see `stop`."""
        columns = [0, -1] if once else slice(None)
        thresholds, means = sweep_thresholds(
            self.scores[score][:, columns], self.returns[:, columns]
        )
        return float(thresholds[means.argmax()])

    def budget_threshold(self, score: str, extra_macs: float) -> float:
        """Return the highest threshold that costs at most so many extra MACs."""
        thresholds, means = sweep_thresholds(self.scores[score], self.macs)
        return float(thresholds[means <= extra_macs][-1])


def sweep_thresholds(scores: Floats, values: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return what every threshold that makes a difference gives in the mean.

    A sample stops at its first score that reaches the threshold, at the latest at its
    last one.

    Args:
        scores: Float [n, T].
        values: What stopping there gives [n, T].

    Returns:
        Thresholds, ascending from minus infinity (all stop at once) to infinity (none
        stops early), the others midway between two scores; and the mean values.
    """
    # A threshold above all scores so far lets a sample take one more decision.
    peaks = np.maximum.accumulate(scores[:, :-1], axis=1).ravel()
    order = np.argsort(peaks, kind="stable")
    gains = np.diff(values.astype(np.float64), axis=1).ravel()[order]
    means = values[:, 0].mean() + np.append(0.0, np.cumsum(gains)) / len(values)
    peaks = peaks[order]
    middles = (peaks[1:] + peaks[:-1]) / 2.0
    thresholds = np.concatenate([[-np.inf], middles, [np.inf]])
    differs = np.concatenate([[True], peaks[1:] > peaks[:-1], [True]])
    return thresholds[differs], means[differs]


def walk_full_plan(envs: VectorEnv, penalty: float) -> Walk:
    """Take the full plan on every sample of a split.

    Args:
        envs: Environment in DISABLED mode; it is left reset.
        penalty: Penalty of every episode.
    """
    policy = _Recorder(_LastRewards(envs))
    always = evaluate(policy.envs, policy, penalty=penalty)
    taken = always.actions.sum(axis=1)
    end = taken - always.actions[:, NOP]  # the last decision may have been forced
    columns = np.arange(max(end.max(), 1) + 1)
    is_over = columns >= end[:, None]

    def finish(part: NDArray[Any], final: Any) -> NDArray[Any]:
        """Fill in what there is from the end on; the recorder may not see it."""
        return np.where(is_over, np.reshape(final, (-1, 1)), part[:, columns])

    paid = np.cumsum(policy.paid, axis=1) + policy.paid_for_stop
    confidence = policy.scores.get("max-prob", np.full(paid.shape, np.nan))
    return Walk(
        always=always,
        scores={name: finish(part, np.inf) for name, part in policy.scores.items()},
        returns=finish(paid, always.returns),
        correct=finish(policy.correct, always.correct),
        confidence=finish(confidence, always.confidence),
        macs=finish(np.cumsum(policy.macs, axis=1), always.macs),
        actions=policy.actions[:, columns],
    )


class _LastRewards(VectorWrapper):
    """Keeps what the last step paid [N]."""

    rewards: Any = None

    def step(self, actions: Any) -> tuple[Any, ...]:
        result = self.env.step(actions)
        self.rewards = as_numpy(result[1])
        return result


class _Recorder(SweepPolicy):
    """Walks the full plan and writes down what it sees, by sample and decision.

    All that it writes is [n, most decisions + 1].
    """

    def __init__(self, envs: _LastRewards) -> None:
        base: Any = envs.unwrapped
        super().__init__(envs, base.full_plan, name="always")
        self.envs, self._problem = envs, base.problem
        self._score_of, self._layout = make_scores(envs), base.observation_layout
        shape = base.num_samples, base.max_decisions + 1
        self.scores = {name: np.zeros(shape) for name in self._score_of}
        self.correct = np.zeros(shape, dtype=bool)
        self.paid, self.paid_for_stop = np.zeros(shape), np.zeros(shape)
        self.macs = np.zeros(shape, dtype=np.int64)
        self.actions = np.full(shape, -1)

    def act(self, observations: Array, infos: Infos) -> Array:
        """Choose actions [N]; see `Policy.act`."""
        info = {key: as_numpy(value) for key, value in infos.items()}
        at, seen = (info["index"], info["decisions"]), as_numpy(observations)
        for name, score in self._score_of.items():
            self.scores[name][at] = score(seen, info)
        going = info["decisions"] > 0
        if going.any():
            self.paid[at] = self.envs.rewards * going
        self.macs[at] = info["macs"] * going
        self.correct[at] = info["correct"]
        self.paid_for_stop[at] = self._stop_reward(seen, info)
        actions = super().act(observations, infos)
        self.actions[at] = as_numpy(actions)
        return actions

    def _stop_reward(self, seen: NDArray[Any], info: Infos) -> Any:
        """Return what stopping is paid, [N]."""
        iterated = np.zeros(1)
        if self._problem.reward.uses_iterated:
            iterated = seen[:, self._layout["iterated"]].mean(axis=1)
        decision = Decision(
            stop=np.ones(1),
            correct=info["correct"],
            cost=np.zeros(1),
            consecutive=np.ones(1),
            already_iterated=np.zeros(1),
            iterated=iterated,
            log_score_gain=np.zeros(1),
            penalty=info["penalty"],
        )
        return self._problem.reward(decision)
