"""Exported files, opened as functions of their named inputs, and the loop around them.

The loop is that of ``docs/predictor.md``.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynalay_gym.networks.agent_net import AgentNet
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.predictor.export import parts_of
from dynalay_gym.predictor.policies import NetworkPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor

DOCS = Path(__file__).parents[2] / "docs" / "predictor.md"
Runner = Callable[..., list[Tensor]]
EXPORTERS_WARN = "ignore::Warning:(torch|onnx|copyreg|google).*"


def open_module(module: nn.Module) -> Runner:
    """What is exported, before it is."""

    @torch.no_grad()
    def run(**inputs: Tensor) -> list[Tensor]:
        found = module(*inputs.values())
        return list(found) if isinstance(found, tuple) else [found]

    return run


def open_torch(path: Path) -> Runner:
    return open_module(torch.export.load(path).module())


def open_onnx(path: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(**inputs: Tensor) -> list[Tensor]:
        found = session.run(None, {k: v.numpy() for k, v in inputs.items()})
        return [torch.as_tensor(value) for value in found]

    return run


def require_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed (extra [onnx])")


class Watcher:
    """A policy that stops at once; `seen` are the observations that it was given."""

    name = "watcher"
    macs_per_decision = 0

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def act(self, observations: Tensor, infos: dict[str, Any]) -> Tensor:
        self.seen.append(observations)
        return torch.zeros(len(observations), dtype=torch.int64)


def decided(network: Any, seed: int = 0, **options: Any) -> DynaLayPredictor:
    """A predictor whose policy is a network with scores that differ."""
    blank = DynaLayPredictor(network, PlanPolicy(()), penalty=0.1, **options)
    size = max(part.stop for part in blank.observation_layout.values())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = AgentNet(size, len(blank.session.action_names), (8,))
    for weight in net.parameters():
        weight.data.mul_(6 if weight.dim() == 2 else 1)
    return DynaLayPredictor(network, NetworkPolicy(net), penalty=0.1, **options)


def assert_runs_alone(
    predictor: DynaLayPredictor, parts: Mapping[str, Runner], images: Tensor
) -> Tensor:
    """The documented loop answers and decides as the predictor does.

    Returns:
        The predictor's actions, int64 [n, T].
    """
    found = predictor.infer(images, penalty=0.3)
    loop = _loop(predictor, parts)
    with torch.no_grad():
        logits, decisions = loop["infer"](images, 0.3)
    assert torch.equal(decisions, found.decisions)
    for step, actions in enumerate(loop["taken"]):
        there = found.actions[:, step]
        assert torch.equal(actions.sort()[0], there[there >= 0].sort()[0])
    torch.testing.assert_close(
        logits.softmax(1), found.probabilities, rtol=1e-4, atol=1e-5
    )
    return found.actions


def _loop(predictor: DynaLayPredictor, parts: Mapping[str, Runner]) -> dict[str, Any]:
    """Run the documented lines over parts; ``taken`` has the actions of each step."""
    known, taken = {part.name: part for part in parts_of(predictor)}, list[Tensor]()

    def program(name: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        found = parts[name](**dict(zip(known[name].inputs, tensors, strict=True)))
        if name == "decide":
            taken.append(found[0].clone())
        return tuple(found)

    options = getattr(predictor.session, "options", {})
    space: dict[str, Any] = {
        "torch": torch,
        "taken": taken,
        "programs": {name: partial(program, name) for name in parts},
        "files": {
            name: {"inputs": part.inputs, "outputs": part.outputs}
            for name, part in known.items()
        },
        "settings": {
            "penalty": predictor.penalty,
            "max_decisions": predictor.max_decisions,
            "rtol": options.get("rtol"),
        },
    }
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS.read_text("utf-8"), re.M | re.S)
    (around,) = (block for block in blocks if block.startswith("def run("))
    (of_blocks,) = (block for block in blocks if block.startswith("def act(action"))
    exec(around, space)
    if "stem" in parts:
        exec(of_blocks, space)
    return space
