"""The planning form of a main network's layer: value iteration on a map or part of it.

The stem reads an image of the planes (free, goal, start) as a planning problem: where
reward lies, and where one can pass. Each layer solves it by value iteration on the
square that it sees about the start. A layer starts from the values of the layer below,
so that a small square's plan is a head start of the whole map's. Only what lies at the
start is read: the first step of the plan.

Visible activations side by side: features [F], goal, start, rewards r [C],
passabilities p [C], and the values v [C] of every layer so far; zero if it was not
iterated.

Axes: n samples, S x S pixels, F features, C value channels, V the side of a view.

References:
    Tamar et al. (2016), Value Iteration Networks.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.fixed_point.batch_invariant import conv2d, conv2d_macs
from dynalay_gym.fixed_point.bellman import BellmanLayer
from dynalay_gym.networks.layers.base import LayerMacs, LayerState, MainLayer
from dynalay_gym.networks.layers.conv import conv_weight
from dynalay_gym.networks.layers.norm import Pattern

# What goal and free pixels say of r and p before anything is learned, in logits. With
# less the values of a far goal die on the way, and nothing is learned from them.
_REWARD, _GOAL = -12.0, 15.0
_PASSABLE, _FREE = -4.0, 8.0
_SMALLEST = 1e-9  # of a value whose logarithm is read


class PlannerStem(nn.Module):
    """Two convolutions that read planes as rewards and passabilities.

    Args:
        planes: Planes of an image; the first three are free, goal and start.
        features: Features F.
        channels: Value channels C.
    """

    def __init__(self, planes: int, features: int, channels: int) -> None:
        super().__init__()
        self.first = conv_weight(features, planes)
        self.first_bias = nn.Parameter(torch.zeros(features, 1, 1))
        self.second = conv_weight(features, features)
        self.second_bias = nn.Parameter(torch.zeros(features, 1, 1))
        self.problem = nn.Parameter(torch.zeros(2 * channels, features, 1, 1))
        self.problem_bias = nn.Parameter(torch.zeros(2 * channels, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the visible activations below layer 1, [n, F + 2 + 2C, S, S]."""
        h = torch.relu(conv2d(images, self.first, padding=1) + self.first_bias)
        h = torch.relu(conv2d(h, self.second, padding=1) + self.second_bias)
        free, goal, start = images[:, :3].split(1, dim=1)
        reward, passable = (conv2d(h, self.problem) + self.problem_bias).chunk(2, 1)
        r = torch.sigmoid(reward + _GOAL * goal + _REWARD)
        p = torch.sigmoid(passable + _FREE * free + _PASSABLE)
        return torch.cat([h, goal, start, r, p], 1)

    def macs(self, size: int) -> int:
        """Return the multiply-adds for one image of side `size`."""
        weights = self.first, self.second, self.problem
        return sum(conv2d_macs(weight.shape, size, size) for weight in weights)


class PlannerLayer(MainLayer):
    """Value iteration on the square of side V about the start; see the module.

    Plainly applied it costs nothing and has no values.

    Args:
        features: Features F of the stem.
        channels: Value channels C.
        size: Side S of the map in pixels.
        view: Odd side V of what the layer sees; S for the whole map.
        level: Number l of the layer, from 1.
        is_last: Whether the head reads this layer.
        gamma: Discount, the bound of the contraction's modulus, in (0, 1).
    """

    recurrence: BellmanLayer

    def __init__(
        self,
        features: int,
        channels: int,
        size: int,
        view: int,
        *,
        level: int,
        is_last: bool,
        gamma: float,
    ) -> None:
        super().__init__()
        self.features, self.channels, self.size = features, channels, size
        self.view, self.level, self.is_last = view, level, is_last
        self.recurrence = BellmanLayer(channels, view, view, gamma=gamma)

    @property
    def num_features(self) -> int:
        """What `pool` returns."""
        of_values = self.level * (9 * self.channels + 1)
        return of_values + self.is_last * (2 * self.features + 2)

    def plain(self, below: LayerState, pattern: Pattern) -> LayerState:
        """Add values of zero."""
        y = F.pad(below.y, (0, 0, 0, 0, 0, self.channels))
        return LayerState(y, y)

    def _inject(self, below: LayerState, state: LayerState, pattern: Pattern) -> Tensor:
        first = self.features + 2
        problem = below.y[:, first : first + 2 * self.channels]
        return self._see(problem, state)

    def _start(self, state: LayerState, x: Tensor) -> Tensor | None:
        if self.level == 1:
            return None
        known = self._see(state.u[:, -2 * self.channels : -self.channels], state)
        return torch.maximum(x[:, : self.channels], known)

    def _read(
        self, state: LayerState, x: Tensor, z: Tensor, pattern: Pattern
    ) -> LayerState:
        values = z
        if self.view < self.size:
            values = paste(z, *self._start_pixel(state), self.size)
        y = torch.cat([state.u[:, : -self.channels], values], 1)
        return LayerState(y, state.u, z, x)

    def pool(self, state: LayerState) -> Tensor:
        """Return what lies at the start, float [n, F], >= 0.

        Of each layer's values so far: log v in 3x3 pixels, relative to its maximum, and
        that maximum, each scaled to [0, 1]. The last layer adds the features there,
        their maxima over the map, and the way to the goal as the crow flies.
        """
        where = self._start_pixel(state)
        values = state.y[:, -self.level * self.channels :].split(self.channels, dim=1)
        parts = [_near_values(crop(v, *where, 3)) for v in values]
        if self.is_last:
            h, goal = state.y[:, : self.features], state.y[:, self.features]
            parts += [crop(h, *where, 1)[:, :, 0, 0], h.amax((2, 3))]
            parts.append(_way_to(goal, *where))
        return torch.cat(parts, 1)

    def picture(self, state: LayerState) -> Tensor:
        """Return the layer's values, float [n, C, S, S] in [0, 1]."""
        return state.y[:, -self.channels :]

    def macs(self) -> LayerMacs:
        """Return the cost of an iteration; nothing else is multiplied."""
        return LayerMacs(0, (0, 0), self.recurrence.macs_per_iteration)

    def _see(self, maps: Tensor, state: LayerState) -> Tensor:
        """Return what of the maps [n, k, S, S] the layer sees, [n, k, V, V]."""
        if self.view == self.size:
            return maps.contiguous()
        return crop(maps, *self._start_pixel(state), self.view)

    def _start_pixel(self, state: LayerState) -> tuple[Tensor, Tensor]:
        """Return row and column of the start, each int64 [n]."""
        start = state.u[:, self.features + 1].flatten(1).argmax(1)
        return start // self.size, start % self.size


def crop(maps: Tensor, row: Tensor, column: Tensor, side: int) -> Tensor:
    """Cut a square out of each map; beyond the edge there are zeros.

    Args:
        maps: Maps [n, C, S, S].
        row: Row of the centre, int64 [n].
        column: Column of the centre, int64 [n].
        side: Odd side V of the square.

    Returns:
        Maps [n, C, V, V].
    """
    pixels = F.pad(maps, (side // 2,) * 4).permute(0, 2, 3, 1)
    cut = pixels[_square(row, column, side)]
    return cut.permute(0, 3, 1, 2).contiguous()


def paste(square: Tensor, row: Tensor, column: Tensor, size: int) -> Tensor:
    """Put squares [n, C, V, V] back where `crop` took them, into zeros [n, C, S, S]."""
    n, channels, side, _ = square.shape
    margin = side // 2
    pixels = square.new_zeros(n, size + 2 * margin, size + 2 * margin, channels)
    where = _square(row, column, side)
    pixels = pixels.index_put(where, square.permute(0, 2, 3, 1))
    inside = pixels[:, margin : margin + size, margin : margin + size]
    return inside.permute(0, 3, 1, 2).contiguous()


def _square(row: Tensor, column: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the indices (sample, row, column) of squares in padded maps."""
    steps = torch.arange(side, device=row.device)
    samples = torch.arange(row.shape[0], device=row.device)[:, None, None]
    rows, columns = row[:, None] + steps, column[:, None] + steps
    return samples, rows[:, :, None], columns[:, None, :]


def _near_values(v: Tensor) -> Tensor:
    """Describe the values about the start [n, C, 3, 3] in [0, 1], [n, 9C + 1].

    All are 0 until the goal's value has arrived: what lies there before says nothing.
    """
    log_v = v.clamp(min=_SMALLEST).log().flatten(1)
    best = log_v.amax(1, keepdim=True)
    relative = 1 + (5 * (log_v - best)).clamp(min=-3) / 3
    has_arrived = (best - _REWARD - 1).clamp(0, 1)
    height = (1 - best / _REWARD).clamp(0, 1)
    return torch.cat([relative, height], 1) * has_arrived


def _way_to(goal: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return the way from the start to the goal's plane [n, S, S], in [0, 1], [n, 2].

    One half is no way at all; also if there is no goal.
    """
    size = goal.shape[-1]
    steps = torch.arange(size, device=goal.device)
    way = torch.stack(
        [
            (goal.amax(2) * (steps - row[:, None])).sum(1),
            (goal.amax(1) * (steps - column[:, None])).sum(1),
        ],
        1,
    )
    return 0.5 + way / (2 * size)
