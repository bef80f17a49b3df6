"""Pictures and texts of one row: input, activations, residuals, decisions, answer.

Pictures need a network that is `Inspectable`; of activations only maps [C, H, W] are
drawn.
"""

from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from dynalay_gym.envs.process import LiveProcess
from dynalay_gym.sessions.protocol import Inspectable

_SIZE_INCHES, _DPI = (8.0, 3.2), 80


def render_row(process: LiveProcess, row: int, mode: str) -> Any:
    """Render one row.

    Args:
        process: The process, after a reset.
        row: Row 0..n-1.
        mode: ``rgb_array`` for uint8 [H, W, 3], ``ansi`` for a text.
    """
    return _text(process, row) if mode == "ansi" else _picture(process, row)


def _title(process: LiveProcess, row: int) -> str:
    episode = process.episode
    names = ("NOP", *process.session.action_names[1:])
    actions = " > ".join(names[a] for a in episode.history[row] if a >= 0)
    label = int(process.problem.labels[episode.index[row]])
    probability = float(_probabilities(process, row).max())
    return (
        f"sample {int(episode.index[row])}, penalty {float(episode.penalty[row]):.3g}\n"
        f"actions: {actions or 'none yet'}\n"
        f"prediction {int(process.prediction[row])} (p = {probability:.2f}), "
        f"label {label}"
    )


def _text(process: LiveProcess, row: int) -> str:
    lines = [_title(process, row)]
    for name, curve in _residual_curves(process, row).items():
        numbers = " ".join(f"{x:.1e}" for x in curve) or "applied once"
        lines.append(f"{name}: residuals {numbers}")
    lines.append(f"macs of the last step: {int(process.episode.macs[row])}")
    return "\n".join(lines)


def _picture(process: LiveProcess, row: int) -> np.ndarray:
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    sample = process.problem.inputs[process.episode.index[row]]
    images = {} if sample.dim() != 3 else {"input": _displayable(sample)}
    curves = _residual_curves(process, row)
    for name, values in zip(curves, _maps(process, row).values(), strict=False):
        if values.dim() == 3:
            mark = "*" if curves[name] else ""
            images[name + mark] = values.mean(0).cpu().numpy()
    axes = np.atleast_1d(figure.subplots(1, len(images) + 2))
    for axis, (name, image) in zip(axes, images.items(), strict=False):
        axis.imshow(image, cmap="gray")
        axis.set_title(name, fontsize=8)
        axis.axis("off")
    _plot_residuals(axes[-2], curves)
    _plot_answer(axes[-1], _probabilities(process, row).cpu().numpy())
    figure.suptitle(_title(process, row), fontsize=9)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _plot_residuals(axis: Any, curves: dict[str, list[float]]) -> None:
    for name, curve in curves.items():
        if curve:
            steps = range(1, len(curve) + 1)
            axis.semilogy(steps, np.maximum(curve, 1e-8), ".-", label=name)
    if axis.lines:
        axis.legend(fontsize=6)
    axis.set_title("residual", fontsize=8)
    axis.tick_params(labelsize=6)


def _plot_answer(axis: Any, probabilities: np.ndarray) -> None:
    axis.barh(np.arange(len(probabilities)), probabilities)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_title("prediction", fontsize=8)
    axis.tick_params(labelsize=6)


def _maps(process: LiveProcess, row: int) -> dict[str, Tensor]:
    """Return the row's activations by name, each [...]."""
    if not isinstance(process.session, Inspectable):
        return {}
    maps = process.session.maps(process.state, _index(process, row))
    return {name: values[0] for name, values in maps.items()}


def _residual_curves(process: LiveProcess, row: int) -> dict[str, list[float]]:
    if not isinstance(process.session, Inspectable):
        return {}
    return process.session.residual_curves(process.state, row)


def _probabilities(process: LiveProcess, row: int) -> Tensor:
    logits = process.session.logits(process.state, _index(process, row))
    return logits[0].softmax(0)


def _displayable(image: Tensor) -> np.ndarray:
    """Return an image [C, H, W] stretched to [0, 1], as [H, W] or [H, W, 3]."""
    low, high = image.min(), image.max()
    stretched = ((image - low) / (high - low).clamp(min=1e-6)).cpu().numpy()
    return stretched.mean(0) if len(stretched) != 3 else stretched.transpose(1, 2, 0)


def _index(process: LiveProcess, row: int) -> Tensor:
    return torch.tensor([row], device=process.session.device)
