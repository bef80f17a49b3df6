"""Exported parts of a residual or gated network, put together again."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

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
from helpers.residual import FORMS, random_gated, random_residual
from torch import Tensor

from dynalay_gym.networks.lcnet.policy import GatesPolicy
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.predictor.export import export_parts, parts_of
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.skip.decisions import RUN, SKIP

pytestmark = pytest.mark.filterwarnings(EXPORTERS_WARN)
NUM_BLOCKS = 3
BATCHES = (1, 2, 9)
ALWAYS = ("plain", "begin", "stem", "head", "policy", "decide")
GATES: dict[str, dict[str, Any]] = {
    "layers": {"form": "pad", "channels": False},
    "channels": {"form": "project", "layers": False, "kind": "binary"},
    "both": {"form": "fast"},
    "slices": {"form": "fast", "slices": True, "backbone": {"widths": (4, 16)}},
    "static": {"form": "pad", "per_input": False},
}
CLOSE: Any = {"rtol": 1e-5, "atol": 1e-5}
# Gates standardise means that hardly vary, which blows rounding up.
ROUGHLY: Any = {"rtol": 1e-3, "atol": 1e-3}


class Files:
    """The parts of a predictor, exported and opened again.

    Args:
        predictor: What is exported.
        form: ``torch``, ``onnx``, or ``module``: as they are before they are exported.
        folder: Where the files are.
    """

    def __init__(self, predictor: DynaLayPredictor, form: str, folder: Path) -> None:
        self.predictor = predictor
        self.parts: dict[str, Runner]
        if form == "module":
            parts = parts_of(predictor)
            self.parts = {part.name: open_module(part.module) for part in parts}
            return
        if form == "onnx":
            require_onnx()
        open_part = open_torch if form == "torch" else open_onnx
        files = export_parts(predictor, folder, form)
        self.parts = {path.stem: open_part(path) for path in files}

    def run(self, name: str, **inputs: Tensor) -> Tensor:
        """Run a part of one output."""
        (output,) = self.parts[name](**inputs)
        return output


def cases(kinds: Iterable[str], quick: str) -> list[Any]:
    """Every kind in every form; of the files, which take time, one kind is quick."""
    return [
        pytest.param(
            (kind, form),
            id=f"{kind}-{form}",
            marks=[] if form == "module" or kind == quick else pytest.mark.slow,
        )
        for kind, form in itertools.product(kinds, ("module", "torch", "onnx"))
    ]


@pytest.fixture(scope="module", params=cases(FORMS, "fast"))
def residual(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Files:
    kind, form = request.param
    predictor = decided(random_residual(kind), penalty_unit=0.5)
    return Files(predictor, form, tmp_path_factory.mktemp("residual"))


@pytest.fixture(scope="module", params=cases(GATES, "slices"))
def gated(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Files:
    kind, form = request.param
    predictor = decided(random_gated(**GATES[kind]), seed=1, penalty_unit=0.5)
    return Files(predictor, form, tmp_path_factory.mktemp("gated"))


def batches(*shape: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for rows in BATCHES:
        yield torch.randn(rows, *shape, generator=generator)


def names(*kinds: str) -> set[str]:
    return {f"{kind}-{level}" for kind in kinds for level in range(1, NUM_BLOCKS + 1)}


def answer(files: Files, images: Tensor, plan: Any) -> Tensor:
    """Run or skip the blocks of a residual network by its parts alone."""
    x = files.run("stem", images=images)
    for level, action in enumerate(plan, start=1):
        x = files.run(f"{'block' if action == RUN else 'shortcut'}-{level}", x=x)
    return files.run("head", x=x)


def test_all_parts_together_are_the_network(residual: Files) -> None:
    network = residual.predictor.session.network  # type: ignore[attr-defined]
    for images in batches(1, 8, 8):
        found = answer(residual, images, [RUN] * NUM_BLOCKS)
        torch.testing.assert_close(found, network(images), **CLOSE)


def test_shortcuts_skip_as_the_session_does(residual: Files) -> None:
    network = residual.predictor.session
    for images in batches(1, 8, 8):
        for plan in itertools.product((RUN, SKIP), repeat=NUM_BLOCKS):
            policy = PlanPolicy(plan)
            expected = DynaLayPredictor(network, policy, penalty=0.1).infer(images)
            found = answer(residual, images, plan).softmax(1)
            torch.testing.assert_close(found, expected.probabilities, **CLOSE)


def test_a_residual_network_has_these_parts(residual: Files) -> None:
    assert set(residual.parts) == {*ALWAYS, *names("block", "shortcut", "look")}


def gates_and_answer(
    files: Files, images: Tensor, *, skips: bool
) -> tuple[list[list[Tensor]], Tensor]:
    """Run a gated network by its parts alone; shut blocks whole, or by the shortcut."""
    x, gates = files.run("stem", images=images), []
    for level in range(1, NUM_BLOCKS + 1):
        gates.append(files.parts[f"gates-{level}"](x=x))
        factors = dict(zip(("layer", "channels"), gates[-1], strict=False))
        y = files.run(f"block-{level}", x=x, **factors)
        if skips:
            skipped = files.run(f"shortcut-{level}", x=x)
            y = torch.where(factors["layer"][:, None, None, None] > 0, y, skipped)
        x = y
    return gates, files.run("head", x=x)


@pytest.mark.parametrize("skips", [False, True])
@torch.no_grad()
def test_a_gated_network_follows_its_gates(gated: Files, skips: bool) -> None:
    network = gated.predictor.session.network  # type: ignore[attr-defined]
    for images in batches(1, 8, 8):
        gates, logits = gates_and_answer(gated, images, skips=skips)
        expected = network(images)
        torch.testing.assert_close(logits, expected.logits, **ROUGHLY)
        for found, gate in zip(gates, expected.gates, strict=True):
            known = [part for part in (gate.layer, gate.channels) if part is not None]
            torch.testing.assert_close(found, known, **ROUGHLY)


def test_a_gated_network_has_these_parts(gated: Files) -> None:
    blocks = names("block", "shortcut", "gates", "look")
    assert set(gated.parts) == {*ALWAYS, *blocks}


def assert_plain_is_the_start(files: Files) -> None:
    watcher = Watcher()
    session = files.predictor.session
    watching = DynaLayPredictor(session, watcher, penalty=0.0, penalty_unit=0.5)
    for images in batches(1, 8, 8):
        penalty = torch.linspace(0.0, 1.0, len(images))
        expected = watching.infer(images, penalty=penalty)
        logits, observation = files.parts["plain"](images=images, penalty=penalty)
        torch.testing.assert_close(logits.softmax(1), expected.probabilities, **CLOSE)
        torch.testing.assert_close(observation, watcher.seen[-1], **CLOSE)
        scores = files.run("policy", observation=observation)
        policy = files.predictor.policy
        with torch.no_grad():
            known = policy.net(observation)  # type: ignore[attr-defined]
        torch.testing.assert_close(scores, known, **CLOSE)


def test_plain_shows_what_a_residual_network_begins_with(residual: Files) -> None:
    assert_plain_is_the_start(residual)


def test_plain_shows_what_a_gated_network_begins_with(gated: Files) -> None:
    assert_plain_is_the_start(gated)


def test_a_learned_policy_needs_nothing_but_parts(residual: Files) -> None:
    for images in batches(1, 8, 8):
        assert_runs_alone(residual.predictor, residual.parts, images)


def test_a_learned_policy_may_overrule_the_gates(gated: Files) -> None:
    for images in batches(1, 8, 8):
        assert_runs_alone(gated.predictor, gated.parts, images)


def test_the_gates_are_a_policy_too() -> None:
    network = random_gated("fast")
    column = decided(network).observation_layout["gate"].start
    predictor = DynaLayPredictor(network, GatesPolicy(column), penalty=0.1)
    parts = {part.name: open_module(part.module) for part in parts_of(predictor)}
    assert "policy" not in parts
    *_, images = batches(1, 8, 8)
    actions = assert_runs_alone(predictor, parts, images)
    assert len(actions.unique(dim=0)) > 1


@pytest.mark.parametrize(
    "form", ["module", pytest.param("torch", marks=pytest.mark.slow), "onnx"]
)
def test_sides_that_are_odd_are_halved_as_in_the_network(
    form: str, tmp_path: Path
) -> None:
    network = random_residual("fast", in_shape=(1, 14, 14))  # maps of 7, then 4
    rule = DynaLayPredictor(network, PlanPolicy(()), penalty=0.1)
    files = Files(rule, form, tmp_path)
    for images in batches(1, 14, 14):
        found = answer(files, images, [RUN] * NUM_BLOCKS)
        torch.testing.assert_close(found, network(images), **CLOSE)


def test_parts_hold_nothing_that_they_do_not_run() -> None:
    rule = DynaLayPredictor(random_gated("fast"), PlanPolicy(()), penalty=0.1)
    parts = {part.name: part for part in parts_of(rule)}
    assert "policy" not in parts
    for name, word in (("shortcut-3", "projection"), ("gates-3", "scores")):
        held = parts[name].module.state_dict()
        assert held and all(word in key for key in held)
    held = parts["plain"].module.state_dict()
    assert not any("conv2" in key for key in held)
