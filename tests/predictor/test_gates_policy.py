"""The network's own gates as a predictor's policy: the gated network itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import shared_model
from helpers.residual import look_macs, random_gated, random_residual
from helpers.saved import edit_manifest

from dynalay_gym.errors import CheckpointError, ConfigError
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.networks.lcnet.policy import GatesPolicy
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor

COLUMN = 17  # 8 activations, 3 of the answer, 2 of each of 3 blocks


def images(num: int = 12) -> torch.Tensor:
    return torch.randn(num, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def make_predictor(network: GatedNetwork) -> DynaLayPredictor:
    return DynaLayPredictor(network, GatesPolicy(COLUMN), penalty=0.1)


def test_the_column_is_where_the_layout_has_it() -> None:
    blank = DynaLayPredictor(random_gated(), PlanPolicy(()), penalty=0.1)
    assert blank.observation_layout["gate"] == slice(COLUMN, COLUMN + 1)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_open_blocks_run_and_behind_the_last_one_it_stops(kind: Any) -> None:
    seen = kind(np.array([[0.9, 0.3], [0.9, 0.0], [0.9, 0.3], [0.0, 0.0]], np.float32))
    mask = kind(np.array([[1, 1, 1], [1, 1, 1], [1, 0, 0], [1, 0, 0]], np.int8))
    actions = GatesPolicy(1).act(seen, {"action_mask": mask})
    assert type(actions) is type(seen)
    assert actions.tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize("batch_size", [1, 5, 256])
@pytest.mark.parametrize(
    "options",
    [
        {"form": "pad", "channels": False},
        {"form": "project", "layers": False, "kind": "binary"},
        {"form": "fast"},
        {"form": "fast", "slices": True},
    ],
)
def test_a_saved_predictor_is_the_network(
    options: dict[str, Any], batch_size: int, tmp_path: Path
) -> None:
    network = random_gated(**options)
    make_predictor(network).save(tmp_path)
    predictor = DynaLayPredictor.load(tmp_path, batch_size=batch_size)
    assert isinstance(predictor.policy, GatesPolicy)
    found = predictor.infer(images())
    with torch.no_grad():
        expected = network(images())
    assert torch.equal(found.probabilities, expected.logits.softmax(1))
    is_open = torch.stack([gate.layer for gate in expected.gates], 1) > 0
    assert torch.equal(
        found.actions, torch.cat([2 - is_open.long(), 0 * is_open[:, :1]], 1)
    )
    assert torch.equal(found.macs, expected.macs + look_macs(network, is_open))
    assert not found.policy_macs.any()  # gates are counted with the network


@pytest.mark.parametrize(
    "network", [random_residual(), shared_model()], ids=["residual", "main"]
)
def test_networks_without_gates_are_refused(network: Any) -> None:
    with pytest.raises(ConfigError, match="'gates' does not fit"):
        DynaLayPredictor(network, GatesPolicy(COLUMN), penalty=0.1)


@pytest.mark.parametrize("column", [COLUMN - 1, COLUMN + 1, -1, 10**9])
def test_another_column_is_refused(column: int) -> None:
    with pytest.raises(ConfigError, match="'gates' does not fit"):
        DynaLayPredictor(random_gated(), GatesPolicy(column), penalty=0.1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"column": COLUMN + 1},
        {"column": -1},
        {"column": 10**30},
        {"column": "17"},
        {"column": 17.5},
        {"column": True},
        {"column": None},
        {"column": COLUMN, "run": 2},
    ],
    ids=str,
)
def test_bad_options_in_a_folder_are_refused(
    options: dict[str, Any], tmp_path: Path
) -> None:
    make_predictor(random_gated()).save(tmp_path)
    edit_manifest(tmp_path, {"policy": {"kind": "gates", "options": options}})
    with pytest.raises(CheckpointError):
        DynaLayPredictor.load(tmp_path)


def test_gates_of_a_folder_need_a_network_with_gates(tmp_path: Path) -> None:
    DynaLayPredictor(random_residual(), PlanPolicy(()), penalty=0.1).save(tmp_path)
    saved = {"kind": "gates", "options": {"column": COLUMN}}
    edit_manifest(tmp_path, {"policy": saved})
    with pytest.raises(CheckpointError, match="do not fit"):
        DynaLayPredictor.load(tmp_path)
