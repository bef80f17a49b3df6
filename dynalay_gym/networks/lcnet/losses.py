"""What gates are trained on: right answers, like the open network's, for less compute.

Axes: n samples, K classes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.networks.lcnet.gates import Gate
from dynalay_gym.networks.lcnet.network import GatedOutput


def miss_target(
    macs: Tensor, open_macs: int, target: float, ease: Tensor | None = None
) -> Tensor:
    """Return the squared distance of a batch's mean share of compute to a target.

    Only the mean is held to it: one row may use more where another uses less. What
    uses less than the target is pulled back, or gates that are pressed alike would
    shut all at once.

    Args:
        macs: Multiply-adds of the rows [n], with a gradient.
        open_macs: Those of the open network.
        target: Wanted share, in [0, 1].
        ease: How easy each row is, >= 0 [n]: the easier, the more it is pressed to
            save; the distance itself is the same. None presses all alike.
    """
    mean = macs.mean()
    if ease is not None:
        pressed = (ease / ease.mean() * macs).mean()
        mean = pressed + (mean - pressed).detach()
    return (mean / open_macs - target).square()


def lasso(output: GatedOutput, layer: float, channel: float) -> Tensor:
    """Return the weighted means of all layer gates and of all channel gates.

    Args:
        output: Of the network in training.
        layer: Weight of the layer gates' mean.
        channel: Weight of the channel gates' mean.
    """
    layers = torch.stack([gate.layer.mean() for gate in output.gates]).mean()
    return layer * layers + channel * _mean_channels(output.gates)


@torch.no_grad()
def row_losses(
    logits: Tensor, labels: Tensor, open_logits: Tensor, taught: float
) -> Tensor:
    """Return by how much the loss of each row is above the open network's [n].

    What gates cannot change, how hard a row is, would be noise where rows are compared.

    Args:
        logits: Answers [n, K].
        labels: Classes, int64 [n].
        open_logits: Answers of the open network [n, K].
        taught: Share of the loss that compares with the open network, in [0, 1]; the
            rest is cross-entropy.
    """
    right = F.one_hot(labels, logits.shape[1]).to(logits)
    wanted = torch.lerp(right, open_logits.softmax(1), taught)
    own, by_open = (
        F.cross_entropy(each, wanted, reduction="none")
        for each in (logits, open_logits)
    )
    return own - by_open


def _mean_channels(gates: tuple[Gate, ...]) -> Tensor | float:
    channels = [gate.channels.mean() for gate in gates if gate.channels is not None]
    return torch.stack(channels).mean() if channels else 0.0
