"""What people put around environments and predictors: copies, limits, callbacks."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import RecordEpisodeStatistics, RenderCollection
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback

from dynalay_gym.integrations.sb3 import SB3VecEnv
from dynalay_gym.predictor.policies import PlanPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor

DIGITS = "dynalay_gym:DynaLay/Digits-v0"
COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "cloudpickle": lambda x: cloudpickle.loads(cloudpickle.dumps(x)),
}


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("options", [{}, {"iterations_per_action": 1}])
def test_copied_environments_go_on_alike(options: dict[str, Any], kind: str) -> None:
    envs = gym.make_vec(DIGITS, num_envs=3, **options)
    envs.reset(seed=1)
    envs.step(np.array([1, 2, 3]))
    twin = COPIES[kind](envs)
    for actions in ([2, 2, 0], [1, 0, 1], [0, 3, 3], [1, 1, 1]):
        mine, theirs = envs.step(np.array(actions)), twin.step(np.array(actions))
        for part, other in zip(mine[:4], theirs[:4], strict=True):
            assert np.array_equal(part, other)


@pytest.mark.parametrize("kind", COPIES)
def test_copied_predictors_answer_alike(kind: str) -> None:
    envs = gym.make_vec(DIGITS, num_envs=1)
    predictor = DynaLayPredictor.from_env(envs, PlanPolicy((1, 2)))
    images = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    expected = predictor.infer(images)
    found = COPIES[kind](predictor).infer(images)
    for part, other in zip(found, expected, strict=True):
        assert np.array_equal(part, other)


def test_a_time_limit_truncates() -> None:
    env = gym.make(DIGITS, max_episode_steps=2)
    for seed in (0, 1):
        env.reset(seed=seed)
        assert env.step(1)[2:4] == (False, False)
        assert env.step(2)[2:4] == (False, True)


def test_single_episodes_are_recorded() -> None:
    env = RecordEpisodeStatistics(gym.make(DIGITS))
    for length in (1, 3, 2, 4):
        env.reset()
        rewards = [env.step(action)[1] for action in range(1, length)]
        _, reward, _, _, info = env.step(0)
        assert info["episode"]["l"] == length
        assert info["episode"]["r"] == pytest.approx(sum(rewards) + reward, abs=1e-6)


def test_frames_are_collected() -> None:
    env = RenderCollection(gym.make(DIGITS, render_mode="rgb_array"))
    env.reset(seed=0)
    env.step(1)
    assert len(env.render()) == 2  # type: ignore[arg-type]


def test_stable_baselines_evaluates_while_it_learns(tmp_path: Path) -> None:
    envs = SB3VecEnv(gym.make_vec(DIGITS, num_envs=2, split="validation"))
    callback = EvalCallback(
        envs, n_eval_episodes=5, eval_freq=8, log_path=str(tmp_path), verbose=0
    )
    options: dict[str, Any] = {"n_steps": 8, "batch_size": 16, "device": "cpu"}
    model = PPO("MlpPolicy", SB3VecEnv(gym.make_vec(DIGITS, num_envs=4)), **options)
    with pytest.warns(UserWarning, match="Monitor"):
        model.learn(64, callback=callback)
    evaluated = np.load(tmp_path / "evaluations.npz")
    assert evaluated["results"].shape == (2, 5)
    assert (evaluated["ep_lengths"] <= envs.get_attr("max_decisions")[0]).all()


@pytest.mark.parametrize("name", ["Digits", "Maze", "MazeHopeless"])
def test_shipped_networks_are_not_measured_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("dynalay_gym.envs.config.calibrate")
    gym.make_vec(f"dynalay_gym:DynaLay/{name}-v0", num_envs=1)
