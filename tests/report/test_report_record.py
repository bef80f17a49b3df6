"""What a run keeps for its report, against what its parts say."""

import base64
import io
import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from helpers.networks import shared_split
from helpers.runs import PENALTY, tiny_record, with_difficulty
from PIL import Image

from dynalay_gym.data.chains import make_chains_split
from dynalay_gym.data.maze import make_maze_split
from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.data.splits import Split
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.report.files import Record
from dynalay_gym.report.record import ENTROPY, Viewer
from dynalay_gym.storage.io import plain
from dynalay_gym.storage.schema import read_as


@pytest.fixture(scope="module")
def made() -> Any:
    return tiny_record()


@pytest.fixture(scope="module")
def record(made: Any) -> Record:
    """As it is written and read."""
    return read_as(json.loads(json.dumps(plain(made[0]))), Record, "it")


def test_without_a_difficulty_the_entropy_cuts_inputs_into_thirds(record, made):
    assert record.difficulty == ENTROPY
    assert [each.num for each in record.bins["mine"]] == [8, 8, 8]
    assert list(record.bins) == ["mine", "nop", "always", "max-prob", "fixed-k"]
    assert len(record.curves["mine"]) == 12
    always = next(each for each in made[1] if each.policy == "always")
    means = [each.accuracy for each in record.bins["always"]]
    assert np.mean(means) == pytest.approx(always.accuracy)
    easy, hard = (record.inputs[kind] for kind in ("easiest", "hardest"))
    order = [each.difficulty for each in (*easy, *reversed(hard))]
    assert order == sorted(order)
    assert 0 < order[0] < order[-1] < 1


def test_the_data_sets_own_difficulty_comes_first():
    record, _ = tiny_record(with_difficulty())
    assert record["difficulty"] == "difficulty"
    assert [each["difficulty"] for each in record["bins"]["mine"]] == [
        [0, 5],
        [6, 11],
        [12, 17],
        [18, 23],
    ]
    found = {k: [each["index"] for each in v] for k, v in record["inputs"].items()}
    assert found == {"easiest": [0, 1, 2, 3], "hardest": [23, 22, 21, 20]}


def test_paths_are_those_of_the_evaluation(record, made):
    result = made[1][0]
    for shown in (*record.inputs["easiest"], *record.inputs["hardest"]):
        first, *_, last = shown.steps
        assert [step.action for step in shown.steps] == [
            "",
            "layer 1",
            "layer 2",
            "stop",
        ]
        assert first.compute == 1.0
        assert last.compute == 1 + result.macs[shown.index] / result.plain_macs
        assert last.is_right == result.correct[shown.index]
        assert last.is_right == (last.answer == shown.answer)
        assert shown.answer == str(int(shared_split().labels[shown.index]))


def test_the_agents_frontier_is_the_last(record, made):
    names = [each.policy for each in record.frontiers]
    assert names[:2] == ["nop", "always"] and names[-1] == "mine"
    (point,) = record.frontiers[-1].points
    assert (point.accuracy, point.compute) == (made[1][0].accuracy, made[1][0].compute)
    assert set(record.frontiers[-1].lead) == set(record.frontiers[-1].measures)


def viewer(dataset: str, split: Split) -> Viewer:
    spec = dataset_spec(dataset)
    envs = gym.make_vec(
        f"dynalay_gym:{spec.env_id}",
        num_envs=1,
        split=split,
        penalty=PENALTY,
        autoreset_mode="Disabled",
        device="cpu",
    )
    policy = PlanPolicy((1,))
    return Viewer(envs=envs, policy=policy, penalty=PENALTY, split=split, spec=spec)


def test_a_maze_is_a_picture_and_answers_are_directions():
    split = make_maze_split(4, seed=3)
    shown = viewer("maze", split).show(2)
    names = ("up", "right", "down", "left")
    assert shown["answer"] == names[int(split.labels[2])]
    assert {step["answer"] for step in shown["steps"]} <= set(names)
    with Image.open(io.BytesIO(base64.b64decode(shown["picture"]))) as picture:
        pixels = np.asarray(picture)
    free, goal, start = split.inputs[2].numpy() > 0
    assert pixels.shape == (19, 19, 3)
    assert (pixels[free & ~goal & ~start] == 255).all()
    assert (pixels[~free] < 64).all()
    assert pixels[goal][0].argmax() == 1 and pixels[start][0].argmax() == 2


def test_a_text_is_its_words():
    split = make_chains_split(4, seed=3)
    shown = viewer("chains", split).show(1)
    assert shown["picture"] == ""
    assert shown["text"].endswith("?") and len(shown["text"].split()) == 7
    assert shown["answer"] == str(int(split.labels[1]))
