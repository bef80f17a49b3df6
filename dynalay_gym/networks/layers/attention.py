"""A transformer's encoder layer as a fixed-point layer, usable alone in any network.

The map stands in `dynalay_gym.networks.layers.attention_map`. With a kappa its modulus
is *certified*: weights are scaled so that an upper bound, in the largest norm of a
token, is at most kappa. Without, iterates are bounded, since attention returns means of
bounded values; that they converge is *measured*, by every solve, and not certified.

Axes: n samples, T tokens, D channels.

References:
    Bai et al. (2019), Deep Equilibrium Models: transformers at their fixed point.
"""

from dataclasses import replace

import torch
from torch import Tensor

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.gradients import with_gradient
from dynalay_gym.fixed_point.rows import in_tiles
from dynalay_gym.fixed_point.solve import (
    GradientRule,
    SolverConfig,
    SolverMethod,
    uncompiled,
)
from dynalay_gym.networks.layers.attention_map import EncoderMap
from dynalay_gym.networks.layers.token_solve import (
    TokenResult,
    Where,
    iterate_tokens,
    joined,
)


class AttentionFixedPointLayer(EncoderMap):
    """The solution ``z_star`` of ``z = f(z, x)`` for sequences of tokens.

    A token that has settled leaves the computation; its key and value stay as they are
    (`dynalay_gym.networks.layers.token_solve`). The gradient is that of the whole map
    at the solution, where nothing is left out.

    Args:
        width: Channels D of a token, a multiple of the heads.
        heads: Heads of the attention.
        hidden: Units of the layer's hidden part.
        kappa: Certified bound of the modulus, in (0, 1); None for no certificate.
        length: Positions T, if each pair of them is to have a learned bias; see
            `EncoderMap`.
        solver: Tolerances and gradient rule; `SolverConfig()` if None.

    Raises:
        ConfigError: A size or kappa is out of range.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int = 4,
        hidden: int,
        kappa: float | None = None,
        length: int | None = None,
        solver: SolverConfig | None = None,
    ) -> None:
        super().__init__(width, heads, hidden, kappa, length)
        self.solver = solver or SolverConfig()

    def apply_once(
        self, z: Tensor, x: Tensor, is_token: Tensor | None = None
    ) -> Tensor:
        """Return f(z, x) [n, T, D], differentiable; see `solve` for the arguments."""
        mask, x, z = self._prepare(x, z, is_token)
        return self.apply_map(z, x, mask, self.output_weight())

    @uncompiled
    def solve(
        self,
        x: Tensor,
        z0: Tensor | None = None,
        solver: SolverConfig | None = None,
        *,
        is_token: Tensor | None = None,
        settled: Tensor | None = None,
    ) -> TokenResult:
        """Iterate until all tokens have settled; differentiable when gradients are on.

        Args:
            x: Injected input [n, T, D].
            z0: Initial iterate [n, T, D]; x if None.
            solver: Options in place of the layer's own. The tolerance is that of each
                token.
            is_token: Which positions hold a token, bool [n, T]; all if None. Padding is
                not read, and 0 in the value.
            settled: Tokens that settled in the solve that this one goes on with, bool
                [n, T].

        Returns:
            TokenResult. Its value carries the gradient that the solver's rule defines.

        Raises:
            ConfigError: The solver's method is not plain iteration, or sequences have
                another length than the layer's biases.
        """
        config = solver or self.solver
        if config.method is not SolverMethod.PLAIN:
            raise ConfigError("attention is iterated plainly; use method='plain'")
        mask, x, start = self._prepare(x, x if z0 is None else z0, is_token)
        left = ~mask if settled is None else settled | ~mask
        weight = self.output_weight()
        if torch.is_grad_enabled() and config.rule is GradientRule.UNROLL:
            return self._unrolled(start, x, mask, left, weight, config)
        result = self._leaving(start, x, mask, left, weight, config)
        if not torch.is_grad_enabled():
            return result
        if config.max_steps == 0:
            return replace(result, value=start)

        def f(z: Tensor, x: Tensor) -> Tensor:
            return self.apply_map(z, x, mask, weight)

        is_implicit = config.rule is GradientRule.IMPLICIT
        steps = config.adjoint_max_steps if is_implicit else 0
        value = with_gradient(f, result.value, x, config.adjoint_rtol, steps)
        return replace(result, value=value)

    def check(
        self,
        x: Tensor,
        z: Tensor,
        solver: SolverConfig,
        *,
        is_token: Tensor | None = None,
    ) -> TokenResult:
        """Apply the whole map once at z [n, T, D]; tokens that settled are tested too.

        Its residual is that of the sequence as it is.
        """
        once = replace(solver, max_steps=1)
        with torch.no_grad():
            return self.solve(x, z, once, is_token=is_token)

    def residual_curve(
        self,
        x: Tensor,
        solver: SolverConfig,
        z0: Tensor | None = None,
        *,
        is_token: Tensor | None = None,
    ) -> list[float]:
        """Return the largest residual of an active token after each iteration.

        Args:
            x: Injected input of one sample [1, T, D].
            solver: Tolerance and most steps.
            z0: Initial iterate [1, T, D]; x if None.
            is_token: Which positions hold a token, bool [1, T]; all if None.
        """
        z, settled, curve = z0, None, list[float]()
        once = replace(solver, max_steps=1)
        while len(curve) < solver.max_steps:
            with torch.no_grad():
                result = self.solve(x, z, once, is_token=is_token, settled=settled)
            z, settled = result.value, result.settled
            if int(result.num_steps) == 0:  # nothing but padding
                break
            curve.append(float(result.residual))
            if not curve[-1] >= solver.rtol:
                break
        return curve

    def forward(self, x: Tensor, is_token: Tensor | None = None) -> Tensor:
        """Return ``z_star`` [n, T, D] for the injected input x [n, T, D]."""
        return self.solve(x, is_token=is_token).value

    def _prepare(
        self, x: Tensor, z: Tensor, is_token: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return which positions hold a token, and x and z with 0 in the others."""
        if self.bias is not None and x.shape[1] != self.bias.shape[2]:
            raise ConfigError(
                f"this layer's biases are of {self.bias.shape[2]} positions, and the "
                f"sequences have {x.shape[1]}; make it with length={x.shape[1]}"
            )
        if is_token is None:
            is_token = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        padding = ~is_token[..., None]
        return is_token, x.masked_fill(padding, 0.0), z.masked_fill(padding, 0.0)

    @torch.no_grad()
    def _leaving(
        self,
        z0: Tensor,
        x: Tensor,
        is_token: Tensor,
        settled: Tensor,
        weight: Tensor,
        config: SolverConfig,
    ) -> TokenResult:
        """Iterate without a gradient; only active tokens are computed."""
        parts = []
        for z, own_x, mask, left in in_tiles(z0, x, is_token, settled):
            step = self.active_step(z, own_x, mask, left, weight)
            part = iterate_tokens(step, z, left, config.rtol, config.max_steps)
            parts.append(part)
        result = joined(parts)
        resumed = (settled & is_token).sum(1) * (result.num_steps > 0)
        spared = result.num_steps * is_token.sum(1) - result.token_steps.sum(1)
        saved = spared * self.macs_per_token(x.shape[1])
        return replace(result, saved=saved - resumed * self.macs_to_resume())

    def _unrolled(
        self,
        z0: Tensor,
        x: Tensor,
        is_token: Tensor,
        settled: Tensor,
        weight: Tensor,
        config: SolverConfig,
    ) -> TokenResult:
        """Iterate inside the graph; what settled tokens would become is not used."""

        def step(z: Tensor, where: Where) -> Tensor:
            return self.apply_map(z, x, is_token, weight)[where]

        return iterate_tokens(step, z0, settled, config.rtol, config.max_steps)
