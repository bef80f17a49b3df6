"""Mazes in motion: what is recorded, and that a file comes out."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import VectorEnv
from PIL import Image

from dynalay_gym.data.maze import make_maze_split
from dynalay_gym.evaluation.animation import (
    animate_mazes,
    choose_mazes,
    maze_picture,
    record,
)
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.networks.policy import PlanPolicy


@pytest.fixture(scope="module")
def envs() -> VectorEnv:
    return gym.make_vec(
        "dynalay_gym:DynaLay/Maze-v0",
        num_envs=1,
        split=make_maze_split(16, seed=3, size=19),
        autoreset_mode="Disabled",
        penalty=0.1,
        device="cpu",
    )


def test_scenes_follow_the_decisions(envs: VectorEnv) -> None:
    scenes = record(envs, PlanPolicy([1, 2, 2]), 5, 0.1)
    assert [scene.decisions for scene in scenes] == [0, 1, 2, 3, 4]
    assert [scene.is_right is None for scene in scenes] == [True] * 4 + [False]
    compute = [scene.compute for scene in scenes]
    assert compute[0] == 1.0
    assert all(np.diff(compute)[:3] > 0) and compute[-1] == compute[-2]
    reached = [int((scene.values > 1e-4).sum()) for scene in scenes]
    assert reached[0] == 0, "the plain pass plans nothing"
    assert 0 < reached[2] < reached[3], "the wave spreads"


def test_a_maze_of_each_end_is_chosen(envs: VectorEnv) -> None:
    result = evaluate(envs, PlanPolicy([2]), penalty=0.1)
    easy, hard = choose_mazes(result)
    order = np.argsort(result.difficulty, kind="stable")
    assert easy in order[:4] and hard in order[-4:]


def test_a_picture_per_decision_is_written(envs: VectorEnv, tmp_path: Path) -> None:
    path = tmp_path / "mazes.gif"
    animate_mazes(envs, PlanPolicy([1, 2, 2]), [0, 1], 0.1, path)
    with Image.open(path) as film:
        assert film.n_frames >= 5  # type: ignore[attr-defined]
        assert film.size[0] > film.size[1] > 100


def test_a_maze_has_four_colours() -> None:
    planes = np.zeros((3, 2, 2), dtype=np.float32)
    planes[0] = [[1, 1], [1, 0]]
    planes[1, 0, 1] = planes[2, 1, 0] = 1.0
    assert maze_picture(planes).tolist() == [
        [[255, 255, 255], [16, 144, 64]],
        [[32, 96, 208], [38, 40, 51]],
    ]
