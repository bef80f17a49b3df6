"""The attention form of a main network's layer: a transformer's encoder layer.

A sequence of tokens is a text, or an image cut into patches. Applied plainly, a layer
is an ordinary encoder layer, one step from its input; iterated, its tokens go on until
none of them moves (`dynalay_gym.networks.layers.attention`).

Activations are kept as maps, as in the other forms. Visible ones have both signs side
by side, ``y = [relu(z), relu(-z), mark]``, so that what is pooled is not negative. The
mark is 0 for padding, 1 for a token, and 2 for the one that a text asks for, if any.

Axes: n samples, T positions, D channels of a token.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from dynalay_gym.fixed_point.batch_invariant import conv2d, conv2d_macs
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.layers.attention import AttentionFixedPointLayer
from dynalay_gym.networks.layers.base import LayerMacs, LayerState, MainLayer
from dynalay_gym.networks.layers.conv import conv_weight
from dynalay_gym.networks.layers.norm import Pattern
from dynalay_gym.networks.layers.reading import TokenStem
from dynalay_gym.networks.layers.token_solve import TokenResult

_POSITION_STD = 0.3  # of what is added at each position before training


class EncoderStem(nn.Module):
    """Makes tokens of words, or of an image's patches, and adds their positions.

    Args:
        in_shape: Words (T,) of a text, or (C, S, S) of an image.
        width: Channels D of a token.
        stride: Words that share a position; side of a patch in pixels.
        words: The stem that embeds words; None for images.
        asked: Token of the word that marks what a text asks for; 0 for none.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        width: int,
        stride: int,
        words: TokenStem | None = None,
        asked: int = 0,
    ) -> None:
        super().__init__()
        self.stride, self.sides = stride, grid(in_shape, stride)
        self.words, self.asked = words, asked
        if words is None:
            self.patches = conv_weight(width, in_shape[0] * stride**2, kernel=1)
        position = torch.randn(width, self.sides[0] * self.sides[1], 1)
        self.position = nn.Parameter(_POSITION_STD * position)

    def forward(self, inputs: Tensor) -> LayerState:
        """Return the state below layer 1 of images [n, C, S, S] or texts [n, T]."""
        if self.words is not None:
            maps = self.words(inputs)
            tokens, is_token = 2 * maps[:, :-1] - 1, maps[:, -1:]
        else:
            pixels = nn.functional.pixel_unshuffle(inputs, self.stride).contiguous()
            tokens = conv2d(pixels, self.patches).flatten(2)[..., None]
            is_token = torch.ones_like(tokens[:, :1])
        z, mark = (tokens + self.position) * is_token, is_token
        if self.asked:
            mark = mark + (inputs == self.asked)[:, None, :, None]
        u = _signed(z, mark)
        return LayerState(torch.relu(u), u)

    def padding(self, inputs: Tensor) -> Tensor:
        """Return how many positions of each input hold no token, int64 [n]."""
        if self.words is not None:
            return self.words.padding(inputs)
        return torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)

    @property
    def macs(self) -> int:
        """Multiply-adds for one image; words are looked up."""
        return (
            0
            if self.words is not None
            else conv2d_macs(self.patches.shape, *self.sides)
        )


class EncoderRecurrence(nn.Module):
    """`AttentionFixedPointLayer` over maps; see `Recurrence`.

    Iterates are ``[z, settled]``, inputs ``[x, mark]``, maps [n, D + 1, T, 1], so that
    a solve in portions knows which tokens have settled.

    Args:
        layer: What is iterated.
    """

    def __init__(self, layer: AttentionFixedPointLayer) -> None:
        super().__init__()
        self.layer = layer

    def solve(
        self, x: Tensor, z0: Tensor | None = None, solver: SolverConfig | None = None
    ) -> TokenResult:
        """Iterate from z0, or from x if None; differentiable when gradients are on."""
        tokens, is_token = _parts(x)
        z, settled = (None, None) if z0 is None else _parts(z0)
        result = self.layer.solve(tokens, z, solver, is_token=is_token, settled=settled)
        return _with_maps(result)

    def check(self, x: Tensor, z: Tensor, solver: SolverConfig) -> TokenResult:
        """Apply the whole map once at z; tokens that settled are tested too."""
        tokens, is_token = _parts(x)
        found = self.layer.check(tokens, _parts(z)[0], solver, is_token=is_token)
        return _with_maps(found)

    def residual_curve(
        self, x: Tensor, solver: SolverConfig, z0: Tensor | None = None
    ) -> list[float]:
        """Return the largest residual of an active token after each iteration."""
        (tokens, is_token), z = _parts(x), None if z0 is None else _parts(z0)[0]
        return self.layer.residual_curve(tokens, solver, z, is_token=is_token)


class EncoderLayer(MainLayer):
    """An encoder layer that is applied once, or until no token moves.

    Args:
        width: Channels D of a token.
        hidden: Units of the hidden part.
        heads: Heads of the attention.
        sides: Height and width of the grid of positions.
        kappa: Certified bound of the modulus; None for no certificate.
        biased: Whether each pair of positions has a learned bias.
    """

    recurrence: EncoderRecurrence

    def __init__(
        self,
        width: int,
        hidden: int,
        heads: int,
        sides: tuple[int, int],
        kappa: float | None,
        biased: bool = False,
    ) -> None:
        super().__init__()
        self.sides = sides
        length = sides[0] * sides[1] if biased else None
        self.recurrence = EncoderRecurrence(
            AttentionFixedPointLayer(
                width, heads=heads, hidden=hidden, kappa=kappa, length=length
            )
        )

    @property
    def num_features(self) -> int:
        """Two per channel, one for each sign."""
        return 2 * self.recurrence.layer.width

    def plain(self, below: LayerState, pattern: Pattern) -> LayerState:
        """Apply the layer to its input; see `MainLayer.plain`."""
        u = self._once(_unsigned(below.y))
        return LayerState(torch.relu(u), u)

    def _once(self, x: Tensor) -> Tensor:
        """Return ``[z, -z, mark]`` after one application to x [n, D + 1, T, 1]."""
        tokens, is_token = _parts(x)
        z = self.recurrence.layer.apply_once(tokens, tokens, is_token)
        return _signed(_to_maps(z), x[:, -1:])

    def _inject(self, below: LayerState, state: LayerState, pattern: Pattern) -> Tensor:
        return _unsigned(below.y)

    def _start(self, state: LayerState, x: Tensor) -> Tensor:
        z = state.u[:, : x.shape[1] - 1]
        return torch.cat([z, torch.zeros_like(x[:, -1:])], 1)  # none has settled

    def _read(
        self, state: LayerState, x: Tensor, z: Tensor, pattern: Pattern
    ) -> LayerState:
        y = torch.relu(_signed(z[:, :-1], x[:, -1:]))
        return LayerState(y, state.u, z, x)

    def residual_curve(self, state: LayerState, solver: SolverConfig) -> list[float]:
        """Return the residuals along a solve; see `MainLayer.residual_curve`."""
        assert state.x is not None, "an iterated layer"
        start = self._start(LayerState(state.y, self._once(state.x)), state.x)
        return self.recurrence.residual_curve(state.x, solver, start)

    def pool(self, state: LayerState) -> Tensor:
        """Return both signs of the token that is asked for, float [n, 2D].

        Where none is, their means over all tokens.
        """
        mark = state.y[:, -1:]
        is_read = (mark == mark.amax((2, 3), keepdim=True)).to(mark)
        return (state.y[:, :-1] * is_read).sum((2, 3)) / is_read.sum((2, 3))

    def picture(self, state: LayerState) -> Tensor:
        """Return both signs of the tokens where they lie, float [n, 2D, H, W]."""
        return state.y[:, :-1].reshape(len(state.y), -1, *self.sides)

    def macs(self) -> LayerMacs:
        """Return the cost of all tokens, and what one token less saves."""
        length = self.sides[0] * self.sides[1]
        token = self.recurrence.layer.macs_per_token(length)
        return LayerMacs(length * token, (0, 0), length * token, token)


def grid(in_shape: tuple[int, ...], stride: int) -> tuple[int, int]:
    """Return height and width of the positions of a text (T,) or image (C, S, S)."""
    if len(in_shape) == 1:
        return -(-in_shape[0] // stride), 1
    return in_shape[1] // stride, in_shape[2] // stride


def _parts(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return tokens [n, T, D] and marks, bool [n, T], of maps [n, D + 1, T, 1]."""
    lines = maps[..., 0].transpose(1, 2)
    return lines[..., :-1].contiguous(), lines[..., -1] > 0.5


def _to_maps(tokens: Tensor) -> Tensor:
    return tokens.transpose(1, 2)[..., None]


def _with_maps(result: TokenResult) -> TokenResult:
    """Return a solve whose value is ``[z, settled]``, maps [n, D + 1, T, 1]."""
    marks = result.settled[..., None].to(result.value.dtype)
    value = _to_maps(torch.cat([result.value, marks], 2))
    return replace(result, value=value)


def _signed(z: Tensor, mark: Tensor) -> Tensor:
    """Return ``[z, -z, mark]`` of maps [n, D, T, 1] and [n, 1, T, 1]."""
    return torch.cat([z, -z, mark], 1)


def _unsigned(y: Tensor) -> Tensor:
    """Return ``[z, mark]`` of visible activations [n, 2D + 1, T, 1]."""
    width = (y.shape[1] - 1) // 2
    return torch.cat([y[:, :width] - y[:, width:-1], y[:, -1:]], 1)
