"""The two convolutional forms of a main network's selectable layer.

``StateLayer`` is the paper's form: the activations themselves are iterated.
``WideStreamLayer`` keeps a thin plain pass and iterates a wide hidden stream beside it.

Axes: n samples; y [n, C, H, W] visible activations; h [n, Ch, Hh, Wh] hidden stream.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.batch_invariant import conv2d, conv2d_macs, conv2d_size
from dynalay_gym.fixed_point.layers import ConvFixedPointLayer
from dynalay_gym.networks.layers.base import LayerMacs, LayerState, MainLayer
from dynalay_gym.networks.layers.norm import Pattern, PatternNorm

MOST_SYMBOL = 2**27  # bytes; bounding a norm takes several times as many


class ConvLayer(MainLayer):
    """A layer whose plain application is ``u = Norm(U y_below)``, ``y = relu(u)``.

    Args:
        below: Channels and side in pixels (C, size) of the layer below.
        channels: Channels C of this layer.
        stride: Stride of U.
        num_patterns: Patterns of iterated layers below, 2^(l-1).
    """

    recurrence: ConvFixedPointLayer

    def __init__(
        self, below: tuple[int, int], channels: int, stride: int, num_patterns: int
    ) -> None:
        super().__init__()
        self.stride, self.size = stride, conv2d_size(below[1], stride)
        self.weight_in = conv_weight(channels, below[0])
        self.norm = PatternNorm(channels, num_patterns)

    @property
    def num_features(self) -> int:
        """One per channel."""
        return len(self.weight_in)

    def plain(self, below: LayerState, pattern: Pattern) -> LayerState:
        """Apply the layer once, from zero; see `MainLayer.plain`."""
        u = conv2d(below.y, self.weight_in, stride=self.stride, padding=1)
        u = self.norm(u, pattern)
        return LayerState(torch.relu(u), u)

    def pool(self, state: LayerState) -> Tensor:
        """Return the global averages of the activations, float [n, F]."""
        return state.y.mean((2, 3))

    def macs(self) -> LayerMacs:
        """Return the cost of U, and of an iteration."""
        plain = conv2d_macs(self.weight_in.shape, self.size, self.size)
        return LayerMacs(plain, (0, 0), self.recurrence.macs_per_iteration)


class StateLayer(ConvLayer):
    """The paper's form: ``z = relu(u + W z)`` with ``u = Norm(U y_below)``.

    The plain application is one step from zero, ``relu(u)``; with W = 0 the layer is an
    ordinary convolution, so both share their weights. The other arguments are those of
    `ConvLayer`.

    Args:
        kappa: Bound of ||W||, in (0, 1).

    References:
        Mathur & Plis (2023), DynaLay, section 3.
    """

    def __init__(
        self,
        below: tuple[int, int],
        channels: int,
        stride: int,
        *,
        num_patterns: int,
        kappa: float,
    ) -> None:
        super().__init__(below, channels, stride, num_patterns)
        sides = self.size, self.size
        self.recurrence = ConvFixedPointLayer(channels, *sides, kappa=kappa)

    def _inject(self, below: LayerState, state: LayerState, pattern: Pattern) -> Tensor:
        return state.u

    def _read(
        self, state: LayerState, x: Tensor, z: Tensor, pattern: Pattern
    ) -> LayerState:
        return LayerState(z, x, x=x)


class WideStreamLayer(ConvLayer):
    """Thin plain pass with a wide hidden stream that only iterating touches.

    ``u = Norm(U y_below)``; plain: ``y = relu(u)``, h = 0. Iterating:
    ``x = Norm(B pool(relu(u)) + D h_below)``, ``h = relu(x + A h)`` to its fixed point,
    ``y = relu(u + upsample(Norm(C h)))``. The joint map of (y, h) is block triangular,
    so ``||A|| <= kappa < 1`` makes it a contraction in h; B, C and D stay free. The
    other arguments are those of `ConvLayer`.

    Args:
        below_hidden: Channels and side in pixels of the hidden stream below.
        hidden: Channels Ch of h.
        pool: Ratio of the sides of y and h.
        kappa: Bound of ||A||, in (0, 1).

    Raises:
        ConfigError: The hidden streams' sides do not fit each other.
    """

    def __init__(
        self,
        below: tuple[int, int],
        below_hidden: tuple[int, int],
        channels: int,
        stride: int,
        hidden: int,
        pool: int,
        *,
        num_patterns: int,
        kappa: float,
    ) -> None:
        super().__init__(below, channels, stride, num_patterns)
        self.ratio, self.hidden_size = pool, conv2d_size(self.size, pool)
        self.hidden_stride = conv2d_size(below_hidden[1], self.hidden_size)
        if conv2d_size(below_hidden[1], self.hidden_stride) != self.hidden_size:
            raise ConfigError(
                f"no stride takes a hidden stream of side {below_hidden[1]} to one of "
                f"side {self.hidden_size}; choose other strides, pools or unshuffle"
            )
        self.is_first = num_patterns == 1
        self.visible_to_hidden = conv_weight(hidden, channels)
        self.hidden_to_hidden = conv_weight(hidden, below_hidden[0])
        self.norm_hidden = PatternNorm(hidden, num_patterns)
        self.recurrence = ConvFixedPointLayer(
            hidden, self.hidden_size, self.hidden_size, kappa=kappa
        )
        self.readout = conv_weight(channels, hidden, kernel=1)
        self.norm_readout = PatternNorm(channels, num_patterns)

    def _inject(self, below: LayerState, state: LayerState, pattern: Pattern) -> Tensor:
        visible = state.y
        if self.ratio > 1:
            visible = F.avg_pool2d(visible, self.ratio, ceil_mode=True)
        x = conv2d(visible, self.visible_to_hidden, padding=1)
        # Whether the hidden stream below is not zero: of all rows, or bool [n].
        has_hidden = self.is_first or (pattern & len(self.norm.weight) // 2) != 0
        if not isinstance(has_hidden, Tensor):
            x = x + self._from_below(below) if has_hidden else x
        elif torch.compiler.is_exporting():  # a program takes all rows, also zeros
            x = x + self._from_below(below)
        else:
            rows = has_hidden.nonzero()[:, 0]
            if len(rows) > 0:
                own = self._from_below(below.at(rows))
                x = x.index_add(0, rows, own.to(x.dtype))
        normed: Tensor = self.norm_hidden(x, pattern)
        return normed

    def _from_below(self, below: LayerState) -> Tensor:
        assert below.h is not None, "the pattern says that the layer below was iterated"
        stride = self.hidden_stride
        return conv2d(below.h, self.hidden_to_hidden, stride=stride, padding=1)

    def _read(
        self, state: LayerState, x: Tensor, z: Tensor, pattern: Pattern
    ) -> LayerState:
        read = self.norm_readout(conv2d(z, self.readout), pattern)
        if self.ratio > 1:
            read = F.interpolate(read, size=(self.size, self.size))
        return LayerState(torch.relu(state.u + read), state.u, z, x)

    @property
    def num_features(self) -> int:
        """One per channel of either stream."""
        return super().num_features + self.readout.shape[1]

    def pool(self, state: LayerState) -> Tensor:
        """Return the global averages of both streams, float [n, C + Ch].

        Those of a hidden stream that was not iterated are 0.
        """
        pooled = super().pool(state)
        if state.h is None:
            return F.pad(pooled, (0, self.readout.shape[1]))
        return torch.cat([pooled, state.h.mean((2, 3))], 1)

    def macs(self) -> LayerMacs:
        """Return the cost of U; of B, D and C per solve; of A per iteration."""
        side, base = self.hidden_size, super().macs()
        weights = self.visible_to_hidden, self.readout, self.hidden_to_hidden
        macs = [conv2d_macs(weight.shape, side, side) for weight in weights]
        setup = sum(macs) if self.is_first else sum(macs[:2]), sum(macs)
        return LayerMacs(base.plain, setup, base.iteration)


def check_map(layer: ConvFixedPointLayer) -> None:
    """Check, before memory is taken, that a layer's norm can be bounded.

    Raises:
        ConfigError: Its kernel's symbol on so large a map is beyond `MOST_SYMBOL`.
    """
    channels, inputs = layer.free_weight.shape[:2]
    frequencies = (layer.height + 1) * (layer.width // 2 + 1)
    if 8 * channels * inputs * frequencies > MOST_SYMBOL:
        raise ConfigError(
            f"{channels} channels on maps of {layer.height} x {layer.width} are too "
            "many to iterate; give a larger stride or pool, or fewer channels"
        )


def conv_weight(out_channels: int, in_channels: int, kernel: int = 3) -> nn.Parameter:
    """Return a He-initialised convolution kernel [C_out, C_in, k, k]."""
    weight = torch.empty(out_channels, in_channels, kernel, kernel)
    nn.init.kaiming_normal_(weight, nonlinearity="relu")
    return nn.Parameter(weight)
