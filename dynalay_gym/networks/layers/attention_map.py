"""The map of a transformer's encoder layer, for all tokens or the active ones alone.

    h = x + W_O attention(norm(z)),   f(z, x) = h + W_2 relu(W_1 norm(h) + b_1) + b_2

with ``norm(z) = z / sqrt(1 + |z|^2 / D)``, the normalisation before either part. Where
z is x this is an ordinary pre-norm encoder layer; iterated, a token reads what the
others have made of theirs. The skip connection carries x and not z, or nothing would
contract.

Axes: n samples, T tokens, D channels, H heads of d = D / H channels, a active tokens.
"""

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.batch_invariant import linear
from dynalay_gym.fixed_point.caching import Freezable
from dynalay_gym.fixed_point.contraction import contract, gram_bound
from dynalay_gym.networks.layers.token_solve import TokenStep, Where

# Active tokens of a sample are filled up to a multiple of this for their attention.
_BUCKET = 8


class EncoderMap(Freezable):
    """Weights, cost and Lipschitz bound of the map, and its application.

    Norms are taken per token: ``|z| = max_i |z_i|_2``. A mean over tokens then never
    widens a difference, however many tokens there are.

    Args:
        width: Channels D of a token, a multiple of the heads.
        heads: Heads H.
        hidden: Units of the hidden part, W_1's rows.
        kappa: Certified bound of the modulus, in (0, 1); None for no certificate.
        length: Positions T of sequences that all mean the same: each pair of positions
            has a learned bias of its scores, which no iterate moves, so that the bound
            holds as it is. None for no bias.

    Raises:
        ConfigError: A size or kappa is out of range.

    References:
        Kim et al. (2021), The Lipschitz Constant of Self-Attention: dot-product
        attention is not Lipschitz on all of space. On the ball into which `normalise`
        maps it is.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        kappa: float | None,
        length: int | None = None,
    ) -> None:
        super().__init__()
        if min(width, heads, hidden) < 1 or width % heads:
            raise ConfigError(
                "give width, heads and hidden of 1 or more, and a width that the heads "
                f"divide, not {width}, {heads} and {hidden}"
            )
        if length is not None and length < 1:
            raise ConfigError(f"length must be 1 or more, or None, not {length}")
        if kappa is not None and not 0 < kappa < 1:
            raise ConfigError(f"kappa must lie in (0, 1), or be None, not {kappa}")
        self.width, self.heads, self.kappa = width, heads, kappa
        self.bias = None
        if length is not None:
            self.bias = nn.Parameter(torch.zeros(heads, length, length))
        self.qkv = nn.Parameter(_random_matrix(3 * width, width))
        self.out = nn.Parameter(_random_matrix(width, width))
        self.expand = nn.Parameter(_random_matrix(hidden, width))
        self.expand_bias = nn.Parameter(torch.zeros(hidden))
        self.reduce = nn.Parameter(_random_matrix(width, hidden))
        self.reduce_bias = nn.Parameter(torch.zeros(width))

    def macs_per_token(self, length: int) -> int:
        """Multiply-adds of one active token's step among `length` positions."""
        weights = self.qkv, self.out, self.expand, self.reduce
        return sum(weight.numel() for weight in weights) + 2 * length * self.width

    def macs_to_resume(self) -> int:
        """Multiply-adds of a settled token's key and value, where a solve goes on."""
        return 2 * self.width**2

    def modulus_bound(self) -> Tensor:
        """Return an upper bound of the map's modulus at the free weights, a scalar.

        In the largest norm of a token. A head returns a mean of V u under weights P. A
        change du of all tokens moves it by the mean of V du, at most ``|V| |du|``, and
        by the covariance under P of V u and the change of the scores, at most
        ``(|V| R) (2 |Q| |K| R |du| / sqrt(d))``, where ``|u| < R = sqrt(D)``. A change
        of h goes on through the hidden part.
        """
        depth = self.width // self.heads
        parts = self.qkv.view(3, self.heads, depth, self.width)
        query, key, value = (gram_bound(part) for part in parts)
        scores = 2 * self.width / depth**0.5 * query * key
        attended = self.heads**0.5 * gram_bound(self.out[None]) * value * (1 + scores)
        hidden = gram_bound(self.expand[None]) * gram_bound(self.reduce[None])
        bound: Tensor = attended * (1 + hidden)
        return bound

    def output_weight(self) -> Tensor:
        """Return W_O, scaled so that the modulus is at most kappa if there is one."""
        if self._frozen is not None:
            frozen: Tensor = self._frozen
            return frozen
        if self.kappa is None:
            return self.out
        # A bound that is rounded to bf16 bounds nothing.
        with torch.autocast(self.out.device.type, enabled=False):
            return contract(self.out, self.modulus_bound(), self.kappa)

    def freeze(self) -> Self:
        """Compute ``W_O`` once for many solves; ``train()`` undoes it."""
        self._frozen = None
        self._frozen = self.output_weight().detach()
        return self

    def apply_map(
        self, z: Tensor, x: Tensor, is_token: Tensor, weight: Tensor
    ) -> Tensor:
        """Return f(z, x) [n, T, D]; differentiable.

        Args:
            z: Iterate [n, T, D].
            x: Injected input [n, T, D].
            is_token: Which positions hold a token, bool [n, T]; padding returns 0.
            weight: W_O as `output_weight` returns it.
        """
        query, key, value = (
            part.reshape(z.shape) for part in self._project(z.flatten(0, 1)).chunk(3, 1)
        )
        read = self._attend(query, key, value, is_token, self.bias)
        new = self._finish(x.flatten(0, 1), read.flatten(0, 1), weight)
        return new.view(z.shape) * is_token[..., None]

    def active_step(
        self, z: Tensor, x: Tensor, is_token: Tensor, settled: Tensor, weight: Tensor
    ) -> TokenStep:
        """Return the map for active tokens; it keeps the keys and values of all.

        Args:
            z: Iterate that a solve begins at [n, T, D].
            x: Injected input [n, T, D].
            is_token: Which positions hold a token, bool [n, T].
            settled: Tokens that settled in earlier solves, bool [n, T].
            weight: W_O as `output_weight` returns it.
        """
        key, value = torch.zeros_like(z), torch.zeros_like(z)

        def project(z: Tensor, where: Where) -> Tensor:
            projected = self._project(z[where]).to(z.dtype)  # not autocast's
            query, key[where], value[where] = projected.chunk(3, 1)
            return query

        def step(z: Tensor, where: Where) -> Tensor:
            query = project(z, where)
            read = torch.empty_like(query)
            for size, samples, tokens, place in _buckets(where[0], *z.shape[:2]):
                queries = query.new_zeros(len(samples), size, self.width)
                queries[place] = query[tokens]
                bias = self._bias_of(where[1][tokens], place, queries)
                known = key[samples], value[samples], is_token[samples]
                read[tokens] = self._attend(queries, *known, bias)[place].to(z.dtype)
            return self._finish(x[where], read, weight)

        resumed = (settled & is_token).nonzero(as_tuple=True)
        if len(resumed[0]) > 0:
            project(z, resumed)
        return step

    def _project(self, tokens: Tensor) -> Tensor:
        """Return query, key and value of tokens [a, D] side by side, [a, 3D]."""
        return _linear(normalise(tokens), self.qkv)

    def _bias_of(
        self, position: Tensor, place: tuple[Tensor, Tensor], queries: Tensor
    ) -> Tensor | None:
        """Return the biases of queries [g, Q, D] that stand at positions, [g, H, Q, T].

        Args:
            position: Of each active token, int64 [t].
            place: Its row and column among the queries, two int64 [t].
            queries: The queries; rows that no token fills may have any bias.
        """
        if self.bias is None:
            return None
        at = position.new_zeros(queries.shape[:2])
        at[place] = position
        return self.bias[:, at].transpose(0, 1)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        is_token: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        """Return what queries [n, Q, D] read of keys and values [n, T, D]."""
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2).contiguous()
            for part in (query, key, value)
        )
        scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
        if bias is not None:
            scores = scores + bias
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~is_token[:, None, None], lowest)
        read: Tensor = (scores.softmax(3) @ v).transpose(1, 2).flatten(2)
        return read

    def _finish(self, x: Tensor, read: Tensor, weight: Tensor) -> Tensor:
        """Return the next states of tokens from what they have read, all [a, D]."""
        h = x + _linear(read, weight)
        hidden = torch.relu(_linear(normalise(h), self.expand) + self.expand_bias)
        return h + _linear(hidden, self.reduce) + self.reduce_bias


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply rows [a, D] by a matrix; in training, where no bit matters, faster."""
    if torch.is_grad_enabled():
        return F.linear(x, weight)
    return linear(x, weight)


def normalise(tokens: Tensor) -> Tensor:
    """Return ``z / sqrt(1 + |z|^2 / D)`` of tokens [a, D]: shorter than sqrt(D).

    It is 1-Lipschitz, and for long tokens what root-mean-square normalisation is.
    """
    square = tokens.square().mean(-1, keepdim=True)
    normed: Tensor = tokens * torch.rsqrt(1 + square)
    return normed


def _buckets(
    sample: Tensor, num_samples: int, length: int
) -> Iterator[tuple[int, Tensor, Tensor, tuple[Tensor, Tensor]]]:
    """Group samples by how many of their tokens are active, filled up to a multiple.

    So the shapes that a sample is computed in are its own, and with them its bits.

    Args:
        sample: Sample of each active token, ascending, int64 [a].
        num_samples: Samples n.
        length: Positions T.

    Yields:
        Size of the group's queries; its samples, int64 [g]; its tokens, int64 [t]; and
        row and column of each of these among the group's queries, two int64 [t].
    """
    count = torch.bincount(sample, minlength=num_samples)
    sizes = ((count + _BUCKET - 1) // _BUCKET * _BUCKET).clamp(max=length)
    first = count.cumsum(0) - count
    column = torch.arange(len(sample), device=sample.device) - first[sample]
    for size in sizes.unique().tolist():
        if size == 0:
            continue
        is_in = sizes == size
        row = is_in.cumsum(0) - 1
        tokens = is_in[sample].nonzero()[:, 0]
        place = row[sample[tokens]], column[tokens]
        yield size, is_in.nonzero()[:, 0], tokens, place


def _random_matrix(rows: int, columns: int) -> Tensor:
    """Return a random matrix [rows, columns] that keeps the lengths of tokens."""
    matrix = torch.empty(rows, columns)
    nn.init.xavier_uniform_(matrix)
    return matrix
