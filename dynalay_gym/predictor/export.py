"""Parts of a predictor as files that run without this package.

``torch.export`` programs (``.pt2``), or ONNX graphs (extra ``[onnx]``). A file has its
batch as a free axis. They give the same values as the package, not the same bits.

Axes: n images [n, C, H, W], K classes, D features, A actions.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dynalay_gym.envs.observation import ActivationObserver, EpisodeState
from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.layers import FixedPointLayer
from dynalay_gym.fixed_point.progress import relative_residual
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.predictor.net_policies import NetPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.protocol import SessionState
from dynalay_gym.utils.io import write_json

FORMATS = {"torch": "pt2", "onnx": "onnx"}
EXAMPLE_ROWS = 3  # a batch that no exporter takes for a constant


class Part(NamedTuple):
    """One network to export.

    Attributes:
        name: Name of the file.
        module: What runs.
        inputs: Example of each input, by name; the first axis is the batch.
        outputs: Names of the outputs.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


class PlainPass(nn.Module):
    """Stem, every layer once, head: logits [n, K] and the first observation [n, D].

    Args:
        model: The main network, frozen.
        observer: Makes the observation.
    """

    def __init__(self, model: MainNetwork, observer: ActivationObserver) -> None:
        super().__init__()
        self.model, self.observer = model, observer

    def forward(self, images: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
        """Run over images [n, C, H, W] with penalties [n]."""
        below, features = self.model.stem(images), []
        for layer in self.model.main_layers:
            below = layer.plain(below, 0)
            features.append(layer.pool(below))
        logits = self.model.classify(below, 0)
        plain = torch.zeros_like(penalty)[:, None].expand(-1, len(features))
        nothing = torch.zeros_like(penalty, dtype=torch.int64)
        state = SessionState([], torch.cat(features, 1), logits, nothing, 1 - plain)
        episode = EpisodeState(nothing, penalty, nothing - 1, nothing, nothing)
        return logits, self.observer(state, episode)


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
        predictor: What is exported; a predictor on the CPU.
        folder: Made if it is absent.
        format: ``torch`` or ``onnx``.

    Returns:
        The files; ``parts.json`` beside them names inputs, outputs and their shapes.

    Raises:
        ConfigError: for an unknown format, or ONNX without its packages.
    """
    if format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}; choose one of {sorted(FORMATS)}")
    if predictor.session.device.type != "cpu":
        raise ConfigError("only a predictor on the CPU can be exported: device='cpu'")
    write = _onnx_writer() if format == "onnx" else _write_torch
    folder, files, facts = Path(folder), [], {}
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts_of(predictor):
        path = folder / f"{part.name}.{FORMATS[format]}"
        write(part, path)
        files.append(path)
        shapes = {name: ["n", *x.shape[1:]] for name, x in part.inputs.items()}
        facts[path.name] = {"inputs": shapes, "outputs": list(part.outputs)}
    write_json(folder / "parts.json", facts)
    return files


def parts_of(predictor: DynaLayPredictor) -> Iterator[Part]:
    """The parts with example inputs, on the CPU."""
    session, layout = predictor.session, predictor.observation_layout
    observer = ActivationObserver(session.feature_sizes, predictor.max_decisions)
    images = torch.rand(EXAMPLE_ROWS, *session.model.config.in_shape)
    inputs = {"images": images, "penalty": torch.rand(EXAMPLE_ROWS)}
    plain = PlainPass(session.model, observer)
    yield Part("plain", plain, inputs, ("logits", "observation"))
    modules = session.model.modules()
    maps = (module for module in modules if isinstance(module, FixedPointLayer))
    for number, layer in enumerate(maps, start=1):
        shape = layer.state_shape
        inputs = {name: torch.rand(EXAMPLE_ROWS, *shape) for name in ("z", "x")}
        outputs = ("z_new", "residual")
        yield Part(f"iteration-{number}", Iteration(layer), inputs, outputs)
    if isinstance(predictor.policy, NetPolicy):
        size = max(part.stop for part in layout.values())
        inputs = {"observation": torch.rand(EXAMPLE_ROWS, size)}
        yield Part("policy", predictor.policy.net, inputs, ("scores",))


def _free_batch(part: Part) -> tuple[dict[int, torch.export.Dim], ...]:
    batch = torch.export.Dim("n", min=1)
    return tuple({0: batch} for _ in part.inputs)


def _write_torch(part: Part, path: Path) -> None:
    torch.export.save(_program(part), path)


def _program(part: Part) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(
            part.module.eval(),
            tuple(part.inputs.values()),
            dynamic_shapes=(_free_batch(part)),
        )


def _onnx_writer() -> Callable[[Part, Path], None]:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ConfigError(
            'ONNX export needs more packages: pip install "dynalay-gym[onnx]"'
        ) from None
    return _write_onnx


def _write_onnx(part: Part, path: Path) -> None:
    torch.onnx.export(
        _program(part),
        (),
        path,
        input_names=list(part.inputs),
        output_names=list(part.outputs),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
