"""Parts of a predictor as files that run without this package.

``torch.export`` programs (``.pt2``), or ONNX graphs (extra ``[onnx]``). A file has its
batch as a free axis. They give the same values as the package, not the same bits.

Axes: n images [n, C, H, W], K classes, D features, A actions.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynalay_gym.envs.observation import EpisodeState, shown_penalty
from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.layers import FixedPointLayer
from dynalay_gym.fixed_point.progress import relative_residual
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.predictor.policies import NetworkPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.features import network_features
from dynalay_gym.sessions.torch_session import TorchSession
from dynalay_gym.storage.io import write_json

FORMATS = {"torch": "pt2", "onnx": "onnx"}
EXAMPLE_ROWS = 3  # a batch that no exporter takes for a constant


class Part(NamedTuple):
    """One network to export: file name, module, example inputs, names of outputs."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


class PlainPass(nn.Module):
    """Stem, every layer once, head: logits [n, K] and the first observation [n, D].

    Args:
        network: The main network, frozen.
        penalty_unit: Penalty that is shown as 1/2.
    """

    def __init__(self, network: MainNetwork, penalty_unit: float = 1.0) -> None:
        super().__init__()
        self.network, self.penalty_unit = network, penalty_unit
        start = EpisodeState(1, network.num_layers + 1, max_decisions=1).features()
        self.register_buffer("start", torch.from_numpy(start))

    def forward(self, images: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
        """Run over images [n, C, H, W] with penalties [n]."""
        below, pooled = self.network.stem(images), []
        for layer in self.network.main_layers:
            below = layer.plain(below, 0)
            pooled.append(layer.pool(below))
        logits = self.network.classify(below, 0)
        penalty, start = penalty[:, None], self.get_buffer("start")
        zeros = torch.zeros_like(penalty).expand(-1, self.network.num_layers)
        seen = network_features(torch.cat(pooled, 1), logits, zeros + 1, zeros)
        shown = shown_penalty(penalty, self.penalty_unit)
        rest = zeros[:, :1] + start[:, 1:]  # what comes after the penalty
        return logits, torch.cat([seen, shown, rest], 1)


class Iteration(nn.Module):
    """One step of a solve: ``relu(x + W z)`` and its relative residual [n].

    Args:
        layer: The recurrent map, frozen.
    """

    def __init__(self, layer: FixedPointLayer) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("weight", layer.weight().detach().clone())

    def forward(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the map to iterates z under the injected input x, both [n, ...]."""
        new = torch.relu(x + self.layer.recur(z, self.get_buffer("weight")))
        return new, relative_residual(new, z)


def export_parts(
    predictor: DynaLayPredictor, folder: str | Path, format: str = "torch"
) -> list[Path]:
    """Write plain pass, one iteration per layer and, if it is a network, the policy.

    Args:
        predictor: What is exported; of a main network, on the CPU.
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
        ConfigError: The predictor's network is no main network.
    """
    session = predictor.session
    if not isinstance(session, TorchSession):
        raise ConfigError(
            f"only main networks can be exported in parts, not {type(session).__name__}"
        )
    network, policy = session.network, predictor.policy
    inputs = {"images": _example(*network.config.in_shape), "penalty": _example()}
    plain = PlainPass(network, predictor.penalty_unit)
    parts = [Part("plain", plain, inputs, ("logits", "observation"))]
    layers = [part for part in network.modules() if isinstance(part, FixedPointLayer)]
    for number, layer in enumerate(layers, start=1):
        inputs = {name: _example(*layer.state_shape) for name in ("z", "x")}
        outputs = ("z_new", "residual")
        parts.append(Part(f"iteration-{number}", Iteration(layer), inputs, outputs))
    if isinstance(policy, NetworkPolicy):
        inputs = {"observation": _example(policy.sizes[0])}
        parts.append(Part("policy", policy.net, inputs, ("scores",)))
    return parts


def _example(*shape: int) -> Tensor:
    return torch.rand(EXAMPLE_ROWS, *shape, generator=torch.Generator().manual_seed(0))


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
