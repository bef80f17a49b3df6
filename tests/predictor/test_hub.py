"""A predictor in the Hub's form, written and read without a network."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from dynalay_gym.data.splits import load_split
from dynalay_gym.errors import CheckpointError
from dynalay_gym.predictor.policies import MaxProbPolicy

pytest.importorskip("huggingface_hub")
hub: Any = pytest.importorskip("dynalay_gym.predictor.hub")


@pytest.fixture(scope="module")
def predictor() -> Any:
    env = gym.make_vec("dynalay_gym:DynaLay/Digits-v0", num_envs=1)
    column = env.unwrapped.observation_layout["max_prob"].start  # type: ignore[attr-defined]
    rule = MaxProbPolicy(column, plan=(1, 2, 3), thresholds=[0.9])
    return hub.HubPredictor.from_env(env, rule)


def test_what_was_saved_answers_as_before(predictor: Any, tmp_path: Path) -> None:
    predictor.save_pretrained(tmp_path / "digits")
    loaded = hub.HubPredictor.from_pretrained(tmp_path / "digits", batch_size=100)
    assert isinstance(loaded, hub.HubPredictor) and loaded.batch_size == 100
    inputs = load_split("digits", "test").inputs[:300]
    mine, theirs = predictor.infer(inputs), loaded.infer(inputs)
    assert all(map(torch.equal, mine, theirs))


def test_only_safe_files_are_written(predictor: Any, tmp_path: Path) -> None:
    predictor.save_pretrained(tmp_path / "digits")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    endings = {path.suffix for path in files if path.name != ".lock"}
    assert endings == {".md", ".json", ".safetensors"}


def test_the_card_says_what_it_is(predictor: Any, tmp_path: Path) -> None:
    row = {"policy": "mine", "accuracy": 0.5, "compute": 1.5, "return": 0.25}
    row["accuracy_interval"] = [0.4, 0.6]
    card: Any = {"title": "Digits", "repo_id": "me/digits", "evaluation": [row]}
    predictor.save_pretrained(tmp_path, model_card_kwargs=card)
    text = (tmp_path / "README.md").read_text("utf-8")
    assert text.startswith("---\nlibrary_name: dynalay-gym\n") and "# Digits" in text
    assert 'from_pretrained("me/digits")' in text and "float32 [n, 1, 8, 8]" in text
    assert "7,132 multiply-adds" in text and "of 10 classes" in text
    assert "| mine | 50.0 % (40.0 to 60.0) | 1.50 | 0.2500 |" in text


def test_a_folder_without_a_predictor_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        hub.HubPredictor.from_pretrained(tmp_path)
