"""A checkpoint loads whole and as it was written, or not at all."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.networks import (
    make_vec,
    random_images,
    random_model,
    random_split,
    shared_split,
    tiny_config,
)
from helpers.residual import FORMS, random_gated, random_residual
from helpers.saved import edit_manifest

from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.errors import CheckpointError, ConfigError, DynaLayError
from dynalay_gym.networks.checkpoint import (
    kind_of,
    load_main_network,
    load_network,
    load_network_facts,
    save_network,
)
from dynalay_gym.sessions.calibration import calibrate, find_calibration
from dynalay_gym.sessions.fastest import as_session, fastest_session
from dynalay_gym.sessions.measure import export
from dynalay_gym.sessions.skip.session import SkipSession
from dynalay_gym.storage.saved_folder import save_folder, saved_kind


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of a small network."""
    save_network(tmp_path / "network", random_model(tiny_config()), {"note": "kept"})
    return tmp_path / "network"


@pytest.mark.parametrize("form", ["wide", "state"])
def test_a_network_comes_back_with_the_same_answers(form: str, tmp_path: Path) -> None:
    model = random_model(tiny_config(form))
    save_network(tmp_path, model, {"note": 5})
    loaded, facts = load_network(tmp_path)
    assert loaded.config == model.config
    assert facts.about["note"] == 5
    assert not loaded.training
    images = random_images(model.config, 3)
    with torch.no_grad():
        for path in range(8):
            expected = model.forward_path(images, path)
            assert torch.equal(loaded.forward_path(images, path), expected)


def test_an_environment_uses_what_the_checkpoint_stores(tmp_path: Path) -> None:
    model, split = random_model(tiny_config()), random_split(tiny_config())
    stored = calibrate(fastest_session(model), split).to_dict()
    stored |= {"always_extra_macs": 12345.5, "plain_accuracy": 0.25}
    stored |= {"always_accuracy": 0.75}
    save_network(tmp_path, model, {}, (stored,))
    envs = DynaLayVectorEnv(1, checkpoint=tmp_path, split=split)
    assert envs.always_extra_macs == 12345.5
    assert envs.penalty_range == (0.25, 0.25)
    other = DynaLayVectorEnv(1, checkpoint=str(tmp_path), split=split, rtol=0.05)
    assert other.always_extra_macs != 12345.5, "another tolerance is measured anew"


# --- damage ---------------------------------------------------------------------------


def config_of(config: Any, **changes: Any) -> dict[str, Any]:
    return {"config": config.to_dict() | changes}


@pytest.mark.parametrize(
    "facts",
    [
        config_of(tiny_config(channels=(2, 3, 5))),
        config_of(tiny_config("state")),
        config_of(tiny_config(), kappa=2.0),
        config_of(tiny_config(), colour="red"),
        config_of(tiny_config(), max_steps=True),
        config_of(tiny_config(), max_steps=20.5),
        config_of(tiny_config(), in_shape=[1, 8]),
        {"config": None},
        {"config": {}},
        {"calibrations": 3},
        {"about": []},
    ],
)
def test_an_architecture_that_does_not_fit_is_refused(
    facts: dict[str, Any], folder: Path
) -> None:
    edit_manifest(folder, facts)
    with pytest.raises(CheckpointError) as caught:
        load_network(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    with pytest.raises(CheckpointError):
        make_vec(1, checkpoint=folder)


def test_a_network_for_other_images_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"\(1, 8, 8\).*\(2, 8, 8\)"):
        make_vec(1, split=random_split(tiny_config(in_shape=(2, 8, 8))))
    with pytest.raises(CheckpointError, match="classes"):
        make_vec(1, split=random_split(tiny_config(num_classes=9)))


def test_checkpoint_errors_are_errors_of_the_package() -> None:
    assert issubclass(CheckpointError, DynaLayError)


@pytest.mark.parametrize(
    "stored",
    [
        {"rtol": 0.1},
        {"plain_accuracy": 0.5, "always_accuracy": 1.5, "always_extra_macs": 1.0},
        {"plain_accuracy": 0.5, "always_accuracy": 0.7, "always_extra_macs": -1.0},
        {"plain_accuracy": 0.5, "always_accuracy": 0.7, "always_extra_macs": [1.0]},
        {"plain_accuracy": 0.5, "always_accuracy": 0.7, "always_extra_macs": 1e300},
    ],
)
def test_malformed_calibration_is_named(stored: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="calibration"):
        find_calibration([stored], {"rtol": 0.1})


@pytest.mark.parametrize("unit", [0.0, 1e-300])
def test_a_unit_of_cost_that_is_none_is_refused(unit: float, tmp_path: Path) -> None:
    """Dividing by it gave rewards that are NaN."""
    model = random_model(tiny_config())
    stored = calibrate(fastest_session(model), shared_split()).to_dict()
    save_network(tmp_path, model, {}, ({**stored, "always_extra_macs": unit},))
    with pytest.raises(ConfigError, match="nothing to decide"):
        make_vec(1, checkpoint=tmp_path)


# What an honestly signed manifest may say of an architecture, and must not.
HOSTILE = {
    "in_shape": ([0, 8, 8], [10**6, 10**6, 10**6], [1, 8], "8", [True, 8, 8]),
    "channels": ([2, 3, 10**9], [0, 3, 4], [2] * 27, [2.0, 3, 4], None),
    "strides": ([0, 1, 1], [1, -1, 1], [1, 2]),
    "hidden": ([10**9, 5, 6], ["4", 5, 6]),
    "max_steps": (10**18, True, 20.5, -1, "20", [20]),
    "rtol": (0, -1.0, "tight", None),
    "kappa": (1.0, 0.0, -0.5),
    "form": ("other", 3, None),
    "num_classes": (1, 10**9),
    "colour": ("red",),
}


def test_a_map_too_large_to_bound_a_norm_is_refused(tmp_path: Path) -> None:
    """All its weights have the same shapes; 32 channels would take 14 GB."""
    config = tiny_config("state", channels=(2, 32, 4), strides=(2, 2, 2))
    save_network(tmp_path, random_model(config), {})
    large = {"in_shape": [1, 1024, 1024], "strides": [1, 1, 1]}
    edit_manifest(tmp_path, {"config": config.to_dict() | large})
    with pytest.raises(CheckpointError, match="too many to iterate"):
        load_network(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in HOSTILE.items() for value in values],
)
def test_a_hostile_architecture_is_refused(
    name: str, value: Any, tmp_path: Path
) -> None:
    model = random_model(tiny_config())
    save_network(tmp_path, model, {})
    edit_manifest(tmp_path, {"config": model.config.to_dict() | {name: value}})
    with pytest.raises(CheckpointError) as caught:
        load_network(tmp_path)
    assert "\n" not in str(caught.value)


# --- networks of other kinds ----------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_residual_network_comes_back(form: str, tmp_path: Path) -> None:
    network = random_residual(form)
    save_network(tmp_path, network, {"note": 5})
    assert saved_kind(tmp_path) == kind_of(network) == "residual-network"
    loaded, facts = load_network(tmp_path)
    assert type(loaded) is type(network) and not loaded.training
    assert loaded.config == network.config == facts.config
    assert load_network_facts(tmp_path).about == {"note": 5}
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(loaded(images), network(images))


@pytest.mark.parametrize("layers", [True, False])
def test_a_gated_network_comes_back(layers: bool, tmp_path: Path) -> None:
    network = random_gated(layers=layers)
    save_network(tmp_path, network, {})
    assert saved_kind(tmp_path) == "gated-network"
    loaded, facts = load_network(tmp_path)
    assert loaded.config == network.config == facts.config
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(loaded(images).logits, network(images).logits)


def test_whoever_needs_a_main_network_says_so(folder: Path, tmp_path: Path) -> None:
    assert load_main_network(folder)[0].config == tiny_config()
    save_network(tmp_path / "other", random_residual(), {})
    with pytest.raises(
        CheckpointError, match="a residual-network, whose layers cannot"
    ):
        load_main_network(tmp_path / "other")


def test_what_is_no_network_is_named(tmp_path: Path) -> None:
    save_folder(tmp_path, "agent", {"x": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match="holds 'agent', no network"):
        load_network(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_network(tmp_path / "nowhere")


def test_what_is_exported_is_what_is_found(tmp_path: Path) -> None:
    network, split = random_residual(), shared_split()
    found = export(tmp_path, network, {"agent": split, "test": split}, {"seed": 3})
    measured = calibrate(SkipSession(network), split)
    expected = {
        "no blocks": measured.plain_accuracy,
        "all blocks": measured.always_accuracy,
    }
    assert found["accuracy"] == {"agent": expected, "test": expected}
    assert found["macs"] == network.macs
    assert found["break_even_penalty"] == measured.break_even(0.5)
    facts = load_network_facts(tmp_path)
    assert facts.about["seed"] == 3 and facts.about["macs"] == network.macs
    assert find_calibration(facts.calibrations, {}) == measured


def test_a_gated_network_is_measured_by_its_own_gates(tmp_path: Path) -> None:
    network, split = random_gated(), shared_split()
    found = export(tmp_path, network, {"agent": split}, {})
    with torch.no_grad():
        output = network(split.inputs)
    right = (output.logits.argmax(1) == split.labels).double().mean()
    assert found["accuracy"]["agent"]["gates"] == pytest.approx(float(right))
    share = float(output.macs.double().mean()) / network.open_macs
    assert found["gates"]["agent"]["compute"] == pytest.approx(share)
    assert found["macs"] == network.open_macs
    loaded, facts = load_network(tmp_path)
    measured = calibrate(as_session(loaded), split)
    assert find_calibration(facts.calibrations, {}) == measured


@pytest.mark.parametrize(
    "changes",
    [
        {"widths": [4, 9]},
        {"widths": [8, 4]},
        {"widths": [4, 10**9]},
        {"depths": [2]},
        {"depths": [0, 1]},
        {"depths": [2, 65]},
        {"form": "other"},
        {"shortcut": "project"},
        {"num_classes": 1},
        {"in_shape": [1, 8, 9]},
        {"colour": "red"},
    ],
)
def test_a_hostile_residual_architecture_is_refused(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    network = random_residual()
    save_network(tmp_path, network, {})
    edit_manifest(tmp_path, {"config": network.config.to_dict() | changes})
    with pytest.raises(CheckpointError) as caught:
        load_network(tmp_path)
    assert "\n" not in str(caught.value)
