"""Exported files, opened as functions of their named inputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

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
