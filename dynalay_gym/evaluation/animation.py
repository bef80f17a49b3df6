"""An animation of mazes: the value wave, the moment the agent stops, and the answer.

Axes: S x S pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dynalay_gym.data.maze import DIRECTIONS
from dynalay_gym.evaluation.evaluate import EvaluationResult
from dynalay_gym.evaluation.figures import follow
from dynalay_gym.networks.policy import Policy, as_numpy

FRAMES_PER_SECOND = 3
_LAST_FRAMES = 9  # how long the answers stand
_WALL, _FREE, _WAVE = ((0.15, 0.16, 0.2), (1.0, 1.0, 1.0), (1.0, 0.6, 0.1))
_START, _GOAL, _RIGHT, _WRONG = "#2060d0", "#109040", "#109040", "#c02020"
_FAINTEST = 1e-4  # value that is not drawn any more


@dataclass(frozen=True)
class Scene:
    """A maze after a decision.

    Attributes:
        values: Largest value of any layer, in [0, 1], [S, S].
        compute: Multiply-adds so far; the plain pass is 1.
        decisions: Decisions taken.
        prediction: The answer, an index into `DIRECTIONS`.
        probability: Its probability.
        is_right: Whether it is right, once the agent has stopped; None before.
    """

    values: NDArray[np.float32]
    compute: float
    decisions: int
    prediction: int
    probability: float
    is_right: bool | None


def animate_mazes(
    envs: VectorEnv, policy: Policy, mazes: Sequence[int], penalty: float, path: Path
) -> None:
    """Write a GIF of a policy at work on some mazes, one decision per frame.

    Args:
        envs: Live environment of one row over mazes, in DISABLED mode.
        policy: Chooses the actions.
        mazes: Samples of the split, shown side by side.
        penalty: Penalty of the episodes.
        path: File to write.
    """
    base: Any = envs.unwrapped
    episodes = [record(envs, policy, maze, penalty) for maze in mazes]
    figure = Figure(figsize=(3.4 * len(mazes), 4.0), layout="constrained")
    axes = figure.subplots(1, len(mazes), squeeze=False)[0]
    writer = PillowWriter(fps=FRAMES_PER_SECOND)
    with writer.saving(figure, str(path), dpi=80):
        for frame in range(max(map(len, episodes)) + _LAST_FRAMES):
            for axis, maze, scenes in zip(axes, mazes, episodes, strict=True):
                planes = base.problem.inputs[maze].numpy(force=True)
                steps = int(base.problem.difficulty[maze])
                axis.clear()
                scene = scenes[min(frame, len(scenes) - 1)]
                _draw(axis, planes, scene)
                axis.set_title(_caption(steps, scene), fontsize=10)
            writer.grab_frame()


def choose_mazes(result: EvaluationResult) -> list[int]:
    """Return one of the easiest and one of the hardest quarter of the mazes.

    Three quarters of its quarter took less compute, so that there is something to see.

    Args:
        result: Evaluation of the policy over the split.
    """
    order = np.argsort(result.difficulty, kind="stable")
    size = len(order) // 4
    found = []
    for quarter in (order[:size], order[-size:]):
        by_compute = quarter[np.argsort(result.macs[quarter], kind="stable")]
        found.append(int(result.indices[by_compute[3 * size // 4]]))
    return found


def record(envs: VectorEnv, policy: Policy, maze: int, penalty: float) -> list[Scene]:
    """Return what a policy does on one maze, from the plain pass to the answer.

    Args:
        envs: See `animate_mazes`.
        policy: Chooses the actions.
        maze: Sample of the split.
        penalty: Penalty of the episode.
    """
    base: Any = envs.unwrapped
    scenes, macs = list[Scene](), 0
    for moment in follow(envs, policy, maze, penalty):
        macs += int(moment.infos["macs"][0])
        scenes.append(_scene(base, moment.infos, macs, moment.has_ended))
    return scenes


def _scene(base: Any, infos: Any, macs: int, has_ended: bool) -> Scene:
    session, state = base.problem.session, base.process.state
    row = torch.zeros(1, dtype=torch.int64, device=session.device)
    maps = session.maps(state, row).values()
    values = torch.stack([each[0].amax(0) for each in maps]).amax(0)
    probability = session.logits(state, row).softmax(1).max()
    return Scene(
        values=values.numpy(force=True),
        compute=macs / base.plain_macs,
        decisions=int(as_numpy(infos["decisions"])[0]),
        prediction=int(as_numpy(infos["prediction"])[0]),
        probability=float(probability),
        is_right=bool(infos["correct"][0]) if has_ended else None,
    )


def maze_picture(planes: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a maze [3, S, S] in colours, uint8 [S, S, 3]: start blue, goal green."""
    free, goal, start = planes[:3]
    picture = np.where(free[..., None] > 0, _FREE, _WALL)
    picture[goal > 0], picture[start > 0] = to_rgb(_GOAL), to_rgb(_START)
    return (255 * picture).astype(np.uint8)


def _draw(axis: Axes, planes: NDArray[np.float32], scene: Scene) -> None:
    """Draw a maze [3, S, S], the wave over its free pixels, and the answer."""
    free, goal, start = planes[:3]
    faded = np.log(np.maximum(scene.values, _FAINTEST) / _FAINTEST)
    wave = (faded / -np.log(_FAINTEST))[..., None]
    floor = (1 - wave) * np.array(_FREE) + wave * np.array(_WAVE)
    picture = np.where(free[..., None] > 0, floor, np.array(_WALL))
    axis.imshow(picture, interpolation="nearest")
    axis.set_axis_off()
    for plane, color in ((goal, _GOAL), (start, _START)):
        for row, column in np.argwhere(plane > 0):
            axis.plot(column, row, "s", color=color, markersize=7)
    if scene.is_right is not None:
        row, column = np.argwhere(start > 0)[0]
        down, right = DIRECTIONS[scene.prediction]
        axis.annotate(
            "",
            xy=(column + 2.6 * right, row + 2.6 * down),
            xytext=(column, row),
            arrowprops={
                "color": _RIGHT if scene.is_right else _WRONG,
                "width": 3,
                "headwidth": 10,
            },
        )


def _caption(steps: int, scene: Scene) -> str:
    now = f"{'↑→↓←'[scene.prediction]} {scene.probability:.2f}"
    if scene.is_right is not None:
        now = f"stops: {'right' if scene.is_right else 'wrong'}"
    return f"goal {steps} steps away\ncompute {scene.compute:.1f}, {now}"
