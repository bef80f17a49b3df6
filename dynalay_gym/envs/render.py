"""Pictures and texts of one row: input, activations, residual curve, decisions."""

from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from dynalay_gym.envs.dynamics import LayerDynamics
from dynalay_gym.envs.walk import NOP

_SIZE_INCHES, _DPI = (8.0, 3.2), 80


def render_row(dynamics: LayerDynamics, row: int, mode: str) -> Any:
    """Render one row.

    Args:
        dynamics: The process, after a reset.
        row: Row 0..n-1.
        mode: ``rgb_array`` for uint8 [H, W, 3], ``ansi`` for a text.
    """
    return _text(dynamics, row) if mode == "ansi" else _picture(dynamics, row)


def action_name(action: int) -> str:
    """``NOP``, or ``layer k``."""
    return "NOP" if action == NOP else f"layer {action}"


def _title(dynamics: LayerDynamics, row: int) -> str:
    episode = dynamics.episode
    taken = [int(action) for action in dynamics.history[row] if action >= 0]
    actions = " > ".join(map(action_name, taken)) or "none yet"
    answer = int(dynamics.prediction()[row])
    label = int(dynamics.problem.labels[episode.index[row]])
    probability = float(_probabilities(dynamics, row).max())
    return (
        f"sample {int(episode.index[row])}, penalty {float(episode.penalty[row]):.3g}\n"
        f"actions: {actions}\n"
        f"prediction {answer} (p = {probability:.2f}), label {label}"
    )


def _text(dynamics: LayerDynamics, row: int) -> str:
    lines = [_title(dynamics, row)]
    for layer, curve in enumerate(_residual_curves(dynamics, row), start=1):
        numbers = " ".join(f"{x:.1e}" for x in curve) or "applied once"
        lines.append(f"layer {layer}: residuals {numbers}")
    lines.append(f"macs of the last step: {int(dynamics.macs[row])}")
    return "\n".join(lines)


def _picture(dynamics: LayerDynamics, row: int) -> np.ndarray:
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    assert dynamics.state is not None, "reset comes before render"
    num_layers = dynamics.num_actions - 1
    axes = figure.subplots(1, num_layers + 3)
    sample = dynamics.problem.inputs[dynamics.episode.index[row]]
    _show(axes[0], _displayable(sample), "input")
    for layer in range(1, num_layers + 1):
        state = dynamics.state.layers[layer].at(_index(row))
        mark = "*" if bool(dynamics.state.iterated[row, layer - 1]) else ""
        _show(axes[layer], state.y[0].mean(0).cpu().numpy(), f"layer {layer}{mark}")
    _plot_residuals(axes[-2], dynamics, row)
    _plot_answer(axes[-1], dynamics, row)
    figure.suptitle(_title(dynamics, row), fontsize=9)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _show(axis: Any, image: np.ndarray, title: str) -> None:
    axis.imshow(image, cmap="gray")
    axis.set_title(title, fontsize=8)
    axis.axis("off")


def _plot_residuals(axis: Any, dynamics: LayerDynamics, row: int) -> None:
    for layer, curve in enumerate(_residual_curves(dynamics, row), start=1):
        if curve:
            steps = range(1, len(curve) + 1)
            axis.semilogy(steps, np.maximum(curve, 1e-8), ".-", label=str(layer))
    if axis.lines:
        axis.legend(fontsize=6, title="layer", title_fontsize=6)
    axis.set_title("residual", fontsize=8)
    axis.tick_params(labelsize=6)


def _plot_answer(axis: Any, dynamics: LayerDynamics, row: int) -> None:
    probabilities = _probabilities(dynamics, row).cpu().numpy()
    axis.barh(np.arange(len(probabilities)), probabilities)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_title("prediction", fontsize=8)
    axis.tick_params(labelsize=6)


def _residual_curves(dynamics: LayerDynamics, row: int) -> list[list[float]]:
    assert dynamics.state is not None, "reset comes before render"
    return dynamics.problem.session.residual_curves(dynamics.state, row)


def _probabilities(dynamics: LayerDynamics, row: int) -> Tensor:
    assert dynamics.state is not None, "reset comes before render"
    return dynamics.state.logits[row].softmax(0)


def _displayable(image: Tensor) -> np.ndarray:
    """Image [C, H, W] stretched to [0, 1], as [H, W] or [H, W, 3]."""
    low, high = image.min(), image.max()
    stretched = ((image - low) / (high - low).clamp(min=1e-6)).cpu().numpy()
    return stretched.mean(0) if len(stretched) != 3 else stretched.transpose(1, 2, 0)


def _index(row: int) -> Tensor:
    return torch.tensor([row])
