"""Why a policy does as well as it does: confidence, difficulty, what iterating breaks.

Axes: n samples, A actions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynalay_gym.evaluation.evaluate import EvaluationResult
from dynalay_gym.utils.ranks import rank_correlation, ranks

_BINS = 15  # of a calibration
_DIFFICULTY_BINS = 4  # as far as there are so many different difficulties


def diagnose(results: Sequence[EvaluationResult]) -> dict[str, Any]:
    """Return diagnostics of a policy, averaged over its seeds.

    Args:
        results: The policy's evaluations on the same samples, one per seed.

    Returns:
        ``ece`` of the confidence at the stop; ``auroc`` of that confidence as a sign of
        a right answer; ``rank_correlation`` of compute and difficulty, and
        ``by_difficulty`` (see `difficulty_bins`). NaN or empty where the data set has
        no difficulty or the network shows no confidence.
    """
    known = bool(np.isfinite(results[0].difficulty).all())
    numbers = [
        (
            calibration_error(each.confidence, each.correct),
            auroc(each.confidence, each.correct),
            rank_correlation(each.macs, each.difficulty) if known else np.nan,
        )
        for each in results
    ]
    names = ("ece", "auroc", "rank_correlation")
    found: dict[str, Any] = dict(zip(names, np.mean(numbers, axis=0), strict=True))
    return found | {"by_difficulty": difficulty_bins(results) if known else []}


def change_rates(before: NDArray[Any], after: NDArray[Any]) -> dict[str, float]:
    """Return how often more compute spoils an answer, and how often it mends one.

    Args:
        before: Whether the plain pass is right, bool [n].
        after: Whether the full plan is right, bool [n].

    Returns:
        ``breakage``, P(later wrong | now right), and ``repair``, P(later right | now
        wrong); NaN where nothing is right (wrong) at first.
    """
    right, wrong = after[before], after[~before]
    breakage = 1.0 - float(right.mean()) if right.size else np.nan
    return {
        "breakage": breakage,
        "repair": float(wrong.mean() if wrong.size else np.nan),
    }


def calibration_error(confidence: NDArray[Any], correct: NDArray[Any]) -> float:
    """Return the expected calibration error over equally wide bins.

    Args:
        confidence: Probability of the answer [n], in [0, 1].
        correct: Whether it is right [n].

    References:
        Guo et al. (2017), On Calibration of Modern Neural Networks.
    """
    if not np.isfinite(confidence).all():
        return np.nan
    bins = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence)
    return float(np.abs(gaps).sum() / len(confidence))


def auroc(score: NDArray[Any], positive: NDArray[Any]) -> float:
    """Return the probability that a positive scores higher than a negative.

    Args:
        score: One number per sample [n]; equal ones count half.
        positive: Which are positive, bool [n].

    Returns:
        In [0, 1]; NaN without positives, without negatives, or with NaN scores.
    """
    num = int(positive.sum())
    if not 0 < num < len(positive) or not np.isfinite(score).all():
        return np.nan
    mean_rank = ranks(score)[positive.astype(bool)].mean()
    return float((mean_rank - (num + 1) / 2) / (len(positive) - num))


def difficulty_bins(
    results: Sequence[EvaluationResult], num: int | None = None
) -> list[dict[str, Any]]:
    """Return what a policy does in bins of about equally many samples.

    Args:
        results: The policy's evaluations on the same samples, one per seed.
        num: How many bins, as far as there are so many different difficulties; by
            default four.

    Returns:
        Per bin, the easiest first: lowest and highest ``difficulty``, ``num`` samples,
        ``accuracy``, ``compute`` in plain passes and its three ``compute_quartiles``
        over samples and seeds, share of each of the ``actions``.
    """
    difficulty = results[0].difficulty
    inner = np.linspace(0, 1, (num or _DIFFICULTY_BINS) + 1)[1:-1]
    edges = np.quantile(difficulty, inner, method="inverted_cdf")
    bins, rows = np.searchsorted(edges, difficulty), []
    for number in np.unique(bins):
        chosen = bins == number
        actions = np.sum([each.actions[chosen].sum(axis=0) for each in results], axis=0)
        correct = np.mean([each.correct[chosen] for each in results])
        macs = np.stack([each.macs[chosen] for each in results])
        compute = 1.0 + macs / results[0].plain_macs
        rows.append(
            {
                "difficulty": [difficulty[chosen].min(), difficulty[chosen].max()],
                "num": int(chosen.sum()),
                "accuracy": float(correct),
                "compute": float(compute.mean()),
                "compute_quartiles": np.quantile(compute, (0.25, 0.5, 0.75)).tolist(),
                "actions": (actions / actions.sum()).tolist(),
            }
        )
    return rows
