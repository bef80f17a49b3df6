"""Stochastic gradient descent in which gates take steps of a size of their own."""

from typing import Any

import torch
from torch.optim import SGD

_EPSILON = 1e-8  # a gate without a gradient stays where it is


class ScaledSGD(SGD):
    """SGD; in groups with ``square_decay``, gradients are scaled to about 1.

    They are divided by the root of the running mean of their squares, as in RMSprop.
    The gradient of a gate is the larger, the more it gates: unscaled, the gates of
    whole blocks shut long before one channel's gate has moved.

    ``square_decay``, in [0, 1), is the weight of the past in that mean; a group without
    it is trained as by `torch.optim.SGD`, whose arguments these are.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step; see `torch.optim.SGD.step`."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            if "square_decay" not in group:
                continue
            for weight in group["params"]:
                if weight.grad is not None:
                    self._scale(weight, group["square_decay"])
        super().step()
        return loss

    def _scale(self, weight: torch.Tensor, decay: float) -> None:
        """Divide the gradient of a parameter by its running root mean square.

        That of a matrix [G, D] is divided by D, too, so that a score of D inputs
        changes no faster than a bias, and the noise of their gradients adds up to
        little.
        """
        assert weight.grad is not None
        squares = weight.grad.square()
        average = self.state[weight].setdefault("square_avg", squares)
        average.lerp_(squares, 1 - decay)
        num_inputs = weight.shape[1] if weight.dim() == 2 else 1
        weight.grad.div_(average.sqrt().add_(_EPSILON).mul_(num_inputs))
