"""Recall: the answer is that of the most confident state that an episode visited."""

from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from helpers.networks import make_vec

from dynalay_gym.envs.oracle import optimum
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.testing import check_vector_env

LONG = {"iterations_per_action": 2, "max_decisions": 9}


@pytest.mark.parametrize("transitions", ["live", "table"])
def test_the_most_confident_answer_stands(transitions: str) -> None:
    options: Any = LONG | {"autoreset_mode": "Disabled", "transitions": transitions}
    last, best = (make_vec(16, recall=recall, **options) for recall in (False, True))
    column = last.observation_layout["max_prob"].start
    index = np.arange(16)
    seen, infos = last.reset(seed=0, options={"index": index})
    best.reset(seed=0, options={"index": index})
    sure, answers = [seen[:, column]], [infos["prediction"]]
    changed = False
    for action in (1, 3, 1, 2, 3, 3, 1, 0):
        seen, _, _, _, infos = last.step([action] * 16)
        same, rewards, _, _, recalled = best.step([action] * 16)
        assert np.array_equal(seen, same)
        sure.append(seen[:, column])
        answers.append(infos["prediction"])
        expected = np.array(answers)[np.argmax(sure, axis=0), index]
        assert np.array_equal(recalled["prediction"], expected)
        labels = last.problem.labels.numpy()[index]
        assert np.array_equal(recalled["correct"], (expected == labels).astype(np.int8))
        changed |= bool((expected != infos["prediction"]).any())
    assert changed, "some row was more confident before"
    assert np.allclose(rewards, best.alpha * (expected == labels))


def test_the_batched_checker_and_saved_rows() -> None:
    def make(num_envs: int, mode: str) -> Any:
        return make_vec(num_envs, recall=True, autoreset_mode=mode, **LONG)

    check_vector_env(make, num_envs=3, num_steps=16)
    first, second = make(5, "NextStep"), make(5, "NextStep")
    first.reset(seed=1)
    first.step([1, 2, 3, 1, 2])
    second.set_state(first.get_state())
    for actions in ([3, 3, 1, 2, 1], [1, 1, 1, 0, 1]):
        expected, got = first.step(actions), second.step(actions)
        assert data_equivalence(got, expected, exact=True)


def test_what_it_excludes_is_refused_by_name() -> None:
    envs = make_vec(2, recall=True)
    with pytest.raises(ConfigError, match="recall"):
        optimum(envs)
    with pytest.raises(ConfigError, match="recall"):
        DynaLayPredictor.from_env(envs, PlanPolicy([1]))
