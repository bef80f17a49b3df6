"""Exported parts give the package's values, at any batch size."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.exported import (
    EXPORTERS_WARN,
    Runner,
    Watcher,
    assert_runs_alone,
    decided,
    open_module,
    open_onnx,
    open_torch,
    require_onnx,
)
from helpers.networks import random_model, shared_model, tiny_config
from torch import Tensor, nn

from dynalay_gym.data.splits import load_split
from dynalay_gym.envs.config import SHIPPED
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.checkpoint import load_network
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.predictor.export import export_parts, parts_of
from dynalay_gym.predictor.policies import MaxProbPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor


@pytest.fixture(scope="module")
def predictor() -> DynaLayPredictor:
    shape = {"channels": (2, 3), "strides": (1, 2), "hidden": (4, 5), "pools": (2, 1)}
    return decided(random_model(tiny_config(**shape)), seed=2)


def some_images(num: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num, *tiny_config().in_shape, generator=generator)


def assert_parts_agree(
    predictor: DynaLayPredictor, files: list[Path], open_part: Callable[[Path], Runner]
) -> None:
    parts = list(parts_of(predictor))
    assert [path.stem for path in files] == [part.name for part in parts]
    generator = torch.Generator().manual_seed(1)
    opened = {path.stem: open_part(path) for path in files}
    assert_runs_alone(predictor, opened, some_images())
    for part, run in zip(parts, opened.values(), strict=True):
        if part.name.startswith("start"):
            continue  # takes states, not any numbers: it is run in the loop
        for rows in (1, 2, 9):
            inputs = {
                name: torch.rand(rows, *x.shape[1:], generator=generator).to(x.dtype)
                for name, x in part.inputs.items()
            }
            with torch.no_grad():
                expected = part.module(*inputs.values())
            expected = expected if isinstance(expected, tuple) else (expected,)
            for got, want in zip(run(**inputs), expected, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings(EXPORTERS_WARN)
def test_torch_programs_agree(predictor: DynaLayPredictor, tmp_path: Path) -> None:
    files = export_parts(predictor, tmp_path / "parts")
    assert_parts_agree(predictor, files, open_torch)
    facts = json.loads((tmp_path / "parts" / "parts.json").read_text())
    assert facts["files"]["plain.pt2"]["inputs"]["images"] == ["n", 1, 8, 8]
    assert list(facts["files"]) == [path.name for path in files]
    assert facts["settings"] == pytest.approx(
        {"penalty": 0.1, "max_decisions": 3, "rtol": 0.1}
    )


@pytest.mark.slow
@pytest.mark.filterwarnings(EXPORTERS_WARN)
def test_the_other_form_agrees(tmp_path: Path) -> None:
    predictor = decided(shared_model("state"))
    assert_parts_agree(predictor, export_parts(predictor, tmp_path), open_torch)


@pytest.mark.filterwarnings(EXPORTERS_WARN)
def test_onnxruntime_agrees(predictor: DynaLayPredictor, tmp_path: Path) -> None:
    require_onnx()
    files = export_parts(predictor, tmp_path, "onnx")
    assert_parts_agree(predictor, files, open_onnx)


def test_the_plain_part_shows_the_first_observation(
    predictor: DynaLayPredictor,
) -> None:
    watcher = Watcher()
    plain = next(iter(parts_of(predictor)))
    images, penalty = torch.randn(5, *tiny_config().in_shape), torch.rand(5)
    watching = DynaLayPredictor(predictor.session, watcher, penalty=0.0)
    found = watching.infer(images, penalty=penalty)
    with torch.no_grad():
        logits, observation = plain.module(images, penalty)
    torch.testing.assert_close(logits.softmax(1), found.probabilities)
    torch.testing.assert_close(observation, watcher.seen[0], rtol=0, atol=1e-5)


def test_iterating_the_part_solves_the_layer(predictor: DynaLayPredictor) -> None:
    parts = {part.name: part for part in parts_of(predictor)}
    assert isinstance(parts["policy"].module, nn.Module)
    part = parts["iteration-2"]
    z, x = part.inputs["z"], part.inputs["x"]
    for _ in range(100):
        z, residual = part.module(z, x)
    assert residual.max() < 1e-5


@pytest.mark.parametrize("portion", [None, 3])
@pytest.mark.parametrize("form", ["wide", "state"])
def test_what_a_policy_decides_is_done_by_parts(form: str, portion: int | None) -> None:
    """Also where it goes back to lower layers, and where solves go on in portions."""
    for seed in range(4):
        predictor = decided(shared_model(form), seed, iterations_per_action=portion)
        assert_runs_alone(predictor, modules_of(predictor), some_images())


@pytest.mark.parametrize("portion", [None, 5])
def test_planners_run_by_parts(portion: int | None) -> None:
    network, mazes = load_network(SHIPPED / "maze")[0], load_split("maze", "validation")
    predictor = decided(network, seed=1, iterations_per_action=portion)
    actions = assert_runs_alone(predictor, modules_of(predictor), mazes.inputs[:60])
    assert len(actions.unique(dim=0)) > 3  # not one way for all


def modules_of(predictor: DynaLayPredictor) -> dict[str, Runner]:
    return {part.name: open_module(part.module) for part in parts_of(predictor)}


def test_impossible_exports_are_refused(
    predictor: DynaLayPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="unknown format"):
        export_parts(predictor, tmp_path / "a", "tflite")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"dynalay-gym\[onnx\]"):
        export_parts(predictor, tmp_path / "a", "onnx")
    assert not (tmp_path / "a").exists()


def test_a_rule_exports_no_policy() -> None:
    predictor = DynaLayPredictor(shared_model(), PlanPolicy((1,)), penalty=0.1)
    assert [part.name for part in parts_of(predictor)] == ["plain", "answer"]


@pytest.mark.filterwarnings(EXPORTERS_WARN)
@pytest.mark.parametrize("plan", [(), (2,), (2, 1, 3), (1, 3, 0, 2)])
def test_a_plan_is_one_program(plan: tuple[int, ...], tmp_path: Path) -> None:
    model, policy = shared_model(), PlanPolicy(plan)
    predictor = DynaLayPredictor(model, policy, penalty=0.1, rtol=1e-3, max_steps=8)
    images = torch.randn(40, *tiny_config().in_shape)
    expected = predictor.infer(images)
    (part,) = (part for part in parts_of(predictor) if part.name == "answer")
    with torch.no_grad():
        logits = part.module(images)
    torch.testing.assert_close(logits.softmax(1), expected.probabilities)
    if plan:  # samples stop at different steps, which the program has to honour
        assert len(expected.solver_steps.unique()) > 1
    if len(plan) > 1:
        export_parts(predictor, tmp_path)
        (again,) = open_torch(tmp_path / "answer.pt2")(images=images)
        torch.testing.assert_close(again, logits)


def test_a_plan_ends_where_the_predictor_has_to_answer() -> None:
    policy, images = PlanPolicy((1, 3, 2)), torch.randn(9, *tiny_config().in_shape)
    for most in (1, 2):
        predictor = DynaLayPredictor(
            shared_model(), policy, penalty=0.1, max_decisions=most
        )
        (part,) = (part for part in parts_of(predictor) if part.name == "answer")
        with torch.no_grad():
            found = part.module(images).softmax(1)
        torch.testing.assert_close(found, predictor.infer(images).probabilities)


def test_a_confidence_rule_is_two_programs() -> None:
    """The plain pass, and where the plan leads for those who are not sure."""
    blank = DynaLayPredictor(shared_model(), PlanPolicy(()), penalty=0.1)
    images = torch.randn(40, *tiny_config().in_shape)
    # Between two images: programs and predictor round differently.
    ranked = blank.infer(images).probabilities.max(1).values.sort().values
    threshold = float(ranked[19:21].mean())
    column = blank.observation_layout["max_prob"].start
    rule = MaxProbPolicy(column, plan=(1, 2), thresholds=[threshold])
    predictor = DynaLayPredictor(shared_model(), rule, penalty=0.1)
    parts = {part.name: part.module for part in parts_of(predictor)}
    with torch.no_grad():
        logits, _ = parts["plain"](images, torch.zeros(40))
        unsure = logits.softmax(1).max(1).values < threshold
        assert 15 <= unsure.sum() <= 25
        logits[unsure] = parts["answer"](images[unsure])
    expected = predictor.infer(images)
    assert torch.equal(unsure, expected.decisions > 1)
    torch.testing.assert_close(logits.softmax(1), expected.probabilities)


def test_what_a_plan_does_not_fix_is_no_single_program() -> None:
    model = shared_model()
    per_sample = PlanPolicy([(1,), (2,)])
    in_portions = {"iterations_per_action": 2}
    for policy, options in ((per_sample, {}), (PlanPolicy((1,)), in_portions)):
        predictor = DynaLayPredictor(model, policy, penalty=0.1, **options)
        assert "answer" not in {part.name for part in parts_of(predictor)}
