"""Pictures and texts of one row: input, activations, residuals, decisions, answer.

Pictures need a network that is `Inspectable`; of activations only maps [C, H, W] are
drawn. Pillow draws them in a few milliseconds, so that an episode can be watched.
"""

from math import ceil, floor, isfinite, log10
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dynalay_gym.envs.process import LiveProcess
from dynalay_gym.sessions.protocol import Inspectable

_WIDTH, _HEIGHT, _GAP, _TOP = 640, 256, 10, 72  # pixels; panels begin below the title
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b")
_LOWEST = 1e-8  # residual that can be told from 0
_MOST_LABELS = 20  # classes that are numbered


class _Box(NamedTuple):
    """A panel's corners, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


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
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    middle = _WIDTH / 2, 4
    font = ImageFont.load_default(13)
    title = _title(process, row)
    draw.multiline_text(middle, title, "black", font, "ma", align="center")
    curves = _residual_curves(process, row)
    images = _images(process, row, {name for name, curve in curves.items() if curve})
    boxes = _panels([*images, "residual", "prediction"], draw)
    for box, image in zip(boxes, images.values(), strict=False):
        _paste(picture, image, box)
    _plot_residuals(draw, boxes[-2], curves)
    _plot_answer(draw, boxes[-1], _probabilities(process, row).tolist())
    return np.asarray(picture).copy()


def _panels(names: list[str], draw: ImageDraw.ImageDraw) -> list[_Box]:
    """Write the names of panels side by side; return where they are."""
    width = (_WIDTH - _GAP) // len(names)
    boxes = []
    for number, name in enumerate(names):
        left = _GAP + number * width
        boxes.append(_Box(left, _TOP, left + width - _GAP, _HEIGHT - _GAP))
        place = left + (width - _GAP) / 2, _TOP - 2
        draw.text(place, name, "black", ImageFont.load_default(11), "md")
    return boxes


def _images(process: LiveProcess, row: int, iterated: set[str]) -> dict[str, Any]:
    """Return the input and mean maps by name, uint8 [H, W] or [H, W, 3].

    The names of layers that were iterated have a star.
    """
    sample = process.problem.inputs[process.episode.index[row]]
    found = {} if sample.dim() != 3 else {"input": displayable(sample)}
    if isinstance(process.session, Inspectable):
        maps = process.session.maps(process.state, _index(process, row))
        names = _residual_curves(process, row)
        for name, values in zip(names, maps.values(), strict=False):
            if values.dim() == 4:
                star = "*" if name in iterated else ""
                found[name + star] = displayable(values[0].mean(0, keepdim=True))
    return found


def _paste(picture: Image.Image, pixels: np.ndarray, box: _Box) -> None:
    """Put an image into a panel, enlarged as far as its shape allows."""
    scale = min(
        (box.right - box.left) / pixels.shape[1],
        (box.bottom - box.top) / pixels.shape[0],
    )
    size = max(1, int(scale * pixels.shape[1])), max(1, int(scale * pixels.shape[0]))
    image = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
    picture.paste(image, ((box.left + box.right - size[0]) // 2, box.top))


def _plot_residuals(
    draw: ImageDraw.ImageDraw, box: _Box, curves: dict[str, list[float]]
) -> None:
    """Draw each layer's residual after each iteration, in decades."""
    draw.rectangle(box, outline="grey")
    known = {
        name: [log10(max(x, _LOWEST)) for x in curve if isfinite(x)]
        for name, curve in curves.items()
        if any(map(isfinite, curve))
    }
    if not known:
        return
    font = ImageFont.load_default(9)
    every = [value for curve in known.values() for value in curve]
    low, high = floor(min(every)), max(ceil(max(every)), floor(min(every)) + 1)
    most = max(map(len, known.values()))
    left, right = box.left + 24, box.right - 6

    def height(value: float) -> float:
        share = (high - value) / (high - low)
        return box.top + 14 + share * (box.bottom - box.top - 28)

    for decade in range(low, high + 1):
        y = height(decade)
        draw.line((left, y, right, y), "#dddddd")
        draw.text((left - 2, y), f"1e{decade}", "black", font, "rm")
    for number, (name, curve) in enumerate(known.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        steps = [left + (right - left) * i / max(most - 1, 1) for i in range(most)]
        points = [*zip(steps, map(height, curve), strict=False)]
        draw.line(points, colour, 2)
        for x, y in points:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), colour)
        draw.text((right, box.top + 2 + 10 * number), name, colour, font, "ra")


def _plot_answer(
    draw: ImageDraw.ImageDraw, box: _Box, probabilities: list[float]
) -> None:
    """Draw a bar for the probability of each class."""
    is_numbered = len(probabilities) <= _MOST_LABELS
    left, font = box.left + (16 if is_numbered else 0), ImageFont.load_default(9)
    draw.rectangle((left, *box[1:]), outline="grey")
    thick = (box.bottom - box.top) / len(probabilities)
    for number, share in enumerate(probabilities):
        y = box.top + number * thick
        if is_numbered:
            draw.text((left - 3, y + thick / 2), str(number), "black", font, "rm")
        end = left + share * (box.right - left)
        draw.rectangle((left, y + 0.1 * thick, end, y + 0.9 * thick), _COLOURS[0])


def _residual_curves(process: LiveProcess, row: int) -> dict[str, list[float]]:
    if not isinstance(process.session, Inspectable):
        return {}
    return process.session.residual_curves(process.state, row)


def _probabilities(process: LiveProcess, row: int) -> Tensor:
    logits = process.session.logits(process.state, _index(process, row))
    return logits[0].softmax(0).nan_to_num()


def displayable(image: Tensor) -> np.ndarray:
    """Return an image [C, H, W] stretched to uint8 [H, W, 3], or to grey [H, W]."""
    image = image.nan_to_num()
    low, high = image.min(), image.max()
    stretched = 255 * (image - low) / (high - low).clamp(min=1e-6)
    if len(image) != 3:
        stretched = stretched.mean(0, keepdim=True)
    pixels: np.ndarray = stretched.round().byte().cpu().numpy().transpose(1, 2, 0)
    return pixels if len(image) == 3 else pixels[..., 0].copy()


def _index(process: LiveProcess, row: int) -> Tensor:
    return torch.tensor([row], device=process.session.device)
