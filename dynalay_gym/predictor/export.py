"""Parts of a predictor as files that run without this package.

``torch.export`` programs (``.pt2``), or ONNX graphs (extra ``[onnx]``). A file has its
batch as a free axis. They give the same values as the package, not the same bits.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from dynalay_gym.errors import ConfigError
from dynalay_gym.predictor.main_parts import main_parts
from dynalay_gym.predictor.parts import Part, policy_parts
from dynalay_gym.predictor.plan_parts import plan_parts
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.predictor.skip_parts import skip_parts
from dynalay_gym.sessions.skip.decisions import ACTION_NAMES
from dynalay_gym.sessions.skip.session import SkipSession
from dynalay_gym.sessions.torch_session import TorchSession
from dynalay_gym.storage.io import write_json

FORMATS = {"torch": "pt2", "onnx": "onnx"}


def export_parts(
    predictor: DynaLayPredictor, folder: str | Path, format: str = "torch"
) -> list[Path]:
    """Write the parts of the network and, if it is a network, the policy.

    Args:
        predictor: What is exported; of a main, residual or gated network, on the CPU.
        folder: Made if it is absent.
        format: ``torch`` or ``onnx``.

    Returns:
        The files; ``parts.json`` beside them names inputs, outputs and their shapes.

    Raises:
        ConfigError: Unknown format, ONNX without its packages, or a predictor on
            another device or of another network.
    """
    if format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}; choose one of {sorted(FORMATS)}")
    if predictor.session.device.type != "cpu":
        raise ConfigError("only a predictor on the CPU can be exported: device='cpu'")
    if format == "onnx" and not all(map(find_spec, ("onnx", "onnxscript"))):
        raise ConfigError(
            'ONNX export needs more packages: pip install "dynalay-gym[onnx]"'
        )
    parts, folder, facts = parts_of(predictor), Path(folder), {}
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        name = f"{part.name}.{FORMATS[format]}"
        _write(part, folder / name, format)
        shapes = {key: ["n", *x.shape[1:]] for key, x in part.inputs.items()}
        facts[name] = {"inputs": shapes, "outputs": list(part.outputs)}
    write_json(folder / "parts.json", facts)
    return [folder / name for name in facts]


def parts_of(predictor: DynaLayPredictor) -> list[Part]:
    """Return the parts with example inputs, on the CPU.

    Raises:
        ConfigError: The predictor's network is one of the user's own, one that reads
            texts or attends, or a residual one with blocks that can be iterated.
    """
    session = predictor.session
    if isinstance(session, TorchSession):
        if session.network.config.form in ("text", "attention"):
            raise ConfigError(
                "networks that read texts, or that attend, cannot be exported in "
                "parts; save the predictor (save) and load it where it is needed"
            )
        parts = main_parts(session.network, predictor.penalty_unit)
        parts += plan_parts(session, predictor.policy, predictor.max_decisions)
    elif isinstance(session, SkipSession):
        if session.action_names != ACTION_NAMES:
            raise ConfigError(
                "residual networks with blocks that can be iterated cannot be exported "
                "in parts; export one that was trained without --iterated"
            )
        parts = skip_parts(session.network, predictor.penalty_unit)
    else:
        raise ConfigError(
            "only main, residual and gated networks can be exported in parts, not "
            f"{type(session).__name__}"
        )
    return parts + policy_parts(predictor.policy)


def _write(part: Part, path: Path, format: str) -> None:
    batch = torch.export.Dim("n", min=1)
    free = tuple({0: batch} for _ in part.inputs)
    inputs = tuple(part.inputs.values())
    with torch.no_grad():
        program = torch.export.export(part.module.eval(), inputs, dynamic_shapes=free)
    if format == "torch":
        torch.export.save(program, path)
        return
    names = {"input_names": list(part.inputs), "output_names": list(part.outputs)}
    options: dict[str, Any] = {"external_data": False, "verbose": False, **names}
    torch.onnx.export(program, (), path, dynamo=True, **options)
