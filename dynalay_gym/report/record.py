"""What a run keeps for its report: its frontier, difficulty, single inputs.

Axes: n samples.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from PIL import Image
from torch import Tensor

from dynalay_gym.data.registry import DatasetSpec
from dynalay_gym.data.splits import Split
from dynalay_gym.envs.render import displayable
from dynalay_gym.evaluation.animation import maze_picture
from dynalay_gym.evaluation.comparison import problem_digest
from dynalay_gym.evaluation.diagnostics import difficulty_bins
from dynalay_gym.evaluation.evaluate import EvaluationResult
from dynalay_gym.evaluation.figures import extremes, follow
from dynalay_gym.evaluation.study import Study
from dynalay_gym.evaluation.walk import Walk
from dynalay_gym.networks.policy import Policy

RECORD = "report.json"
BESIDE = ("nop", "always", "max-prob", "fixed-k")  # policies to compare an agent with
ENTROPY = "entropy of the plain pass"
_TERCILES, _CURVE = 3, 12  # bins of the entropy, and of a curve
_SHOWN = 4  # inputs of each kind


@dataclass(frozen=True, kw_only=True)
class Viewer:
    """A policy at work on single inputs.

    Attributes:
        envs: Environment of one row over the split, in DISABLED mode.
        policy: Chooses the actions.
        penalty: Penalty of the episodes.
        split: The inputs.
        spec: The data set that they are from.
    """

    envs: VectorEnv
    policy: Policy
    penalty: float
    split: Split
    spec: DatasetSpec

    def show(self, index: int) -> dict[str, Any]:
        """Return one input, its right answer, and what was done with it.

        Returns:
            ``index``, ``answer``, ``picture`` (a PNG in base64) or ``text``, the other
            one empty, and ``steps``, the plain pass first: the ``action`` (empty for
            the plain pass), the ``answer`` after it, whether it ``is_right``, and the
            ``compute`` so far in plain passes.
        """
        sample, words = self.split.inputs[index].cpu(), self.split.vocabulary
        return {
            "index": index,
            "answer": self._name(int(self.split.labels[index])),
            "picture": self._picture(sample) if sample.dim() == 3 else "",
            "text": "" if words is None else words.decode(sample[None])[0],
            "steps": self._steps(index),
        }

    def _steps(self, index: int) -> list[dict[str, Any]]:
        base: Any = self.envs.unwrapped
        steps, macs = [], 0
        for moment in follow(self.envs, self.policy, index, self.penalty):
            macs += int(moment.infos["macs"][0])
            taken = moment.action
            step = {
                "action": "" if taken is None else base.action_names[taken],
                "answer": self._name(int(moment.infos["prediction"][0])),
                "is_right": bool(moment.infos["correct"][0]),
                "compute": macs / base.plain_macs,
            }
            steps.append(step)
        return steps

    def _name(self, label: int) -> str:
        """Return the name of a class: a word where words are predicted."""
        words = self.split.vocabulary
        if words is not None and self.spec.num_classes == self.spec.vocabulary:
            return words.words[label]
        return self.spec.classes[label] if self.spec.classes else str(label)

    def _picture(self, image: Tensor) -> str:
        """Return an image [C, H, W] as a PNG in base64."""
        is_maze, file = self.spec.hidden_share is not None, io.BytesIO()
        pixels = maze_picture(image.numpy()) if is_maze else displayable(image)
        Image.fromarray(pixels).save(file, "png")
        return base64.b64encode(file.getvalue()).decode("ascii")


def make_record(
    results: Sequence[EvaluationResult], walk: Walk, study: Study, viewer: Viewer
) -> dict[str, Any]:
    """Return what a report shows of a run beside its table of policies.

    Args:
        results: Of the policy, and of the references beside it, on the same samples in
            the order of the split.
        walk: The full plan over them.
        study: Frontiers of the policy and of the cascades.
        viewer: The policy on single inputs of them.

    Returns:
        JSON-able values; `dynalay_gym.report.files.Record` says which.
    """
    name, ranked = _rank(results, walk, viewer.spec)
    chosen = [ranked[0], *(each for each in ranked if each.policy in BESIDE)]
    num = _TERCILES if name == ENTROPY else None
    difficulty = dict(
        zip(ranked[0].indices.tolist(), ranked[0].difficulty, strict=True)
    )
    summary = study.summary(viewer.split.groups.numpy(force=True))
    return {
        "problem": problem_digest(viewer.envs),
        "actions": results[0].action_names,
        "frontiers": summary["frontiers"],
        "difficulty": name,
        "bins": {each.policy: difficulty_bins([each], num) for each in chosen if name},
        "curves": {
            each.policy: difficulty_bins([each], _CURVE) for each in chosen if name
        },
        "inputs": {
            kind: [viewer.show(k) | {"difficulty": difficulty[k]} for k in samples]
            for kind, samples in extremes(ranked[0], _SHOWN).items()
        },
    }


def _rank(
    results: Sequence[EvaluationResult], walk: Walk, spec: DatasetSpec
) -> tuple[str, Sequence[EvaluationResult]]:
    """Return what tells hard samples from easy ones, and results that have it.

    It is the data set's difficulty or, without one, the entropy of the plain pass's
    answer; where that is not known either, the name is empty.
    """
    if np.isfinite(results[0].difficulty).all():
        return spec.difficulty or "difficulty", results
    first = walk.scores.get("entropy", np.full((1, 1), np.inf))[:, 0]
    if not np.isfinite(first).all():
        return "", results
    return ENTROPY, [replace(each, difficulty=-first) for each in results]
