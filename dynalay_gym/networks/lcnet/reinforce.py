"""The policy gradient (REINFORCE) of gates that are drawn.

The return of a row is minus its loss, minus a price for its share of the open network's
multiply-adds. Prices and what returns are compared with come from the other rows of the
batch: none of a row's own gates is in them, so the gradient has no bias.

Axes: n rows of a batch.

References:
    Wang et al. (2018), SkipNet, arXiv 1711.09485.
"""

import torch
from torch import Tensor

from dynalay_gym.networks.lcnet.network import GatedOutput


def reinforce(output: GatedOutput, advantages: Tensor) -> Tensor:
    """Return 0, with the gradient of minus the mean return for the gates' scores.

    Args:
        output: Of the network in training, whose gates have log-probabilities.
        advantages: Return of each row beyond what was expected [n].
    """
    log_probs = [gate.log_prob for gate in output.gates if gate.log_prob is not None]
    surrogate = -(advantages * torch.stack(log_probs).sum(0)).mean()
    return surrogate - surrogate.detach()


@torch.no_grad()
def find_advantages(
    losses: Tensor,
    shares: Tensor,
    target: float,
    pressure: float,
    ease: Tensor | None = None,
) -> Tensor:
    """Return by how much the return of each row is above that of the others [n].

    Prices are the slope of ``pressure * (mean share - target)**2``; see `miss_target`.

    Args:
        losses: Of the rows [n], n at least 2.
        shares: Of the open network's multiply-adds [n].
        target: Wanted mean share, in [0, 1].
        pressure: Weight of the squared distance to it.
        ease: How easy each row is, >= 0 [n]; its price is in proportion. None is all
            alike.
    """
    others = _mean_of_others(shares)
    price = 2 * pressure * (others - target)
    if ease is not None:
        price = price * ease / ease.mean()
    return _mean_of_others(losses) - losses + price * (others - shares)


def _mean_of_others(values: Tensor) -> Tensor:
    """Return for each of values [n] the mean of the rest."""
    return (values.sum() - values) / (len(values) - 1)
