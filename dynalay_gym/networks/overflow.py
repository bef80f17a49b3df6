"""Where in a main network numbers stop being finite, found once they have."""

import torch
from torch import Tensor

from dynalay_gym.fixed_point.progress import SolverStatus
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.utils.finite import FiniteGuard


def check_loss(
    guard: FiniteGuard,
    loss: Tensor,
    network: MainNetwork,
    inputs: Tensor,
    samples: Tensor,
) -> None:
    """Raise DivergedError if a loss is not finite, and say where that began.

    Args:
        guard: Of the network's training.
        loss: The loss, a scalar.
        network: The network; its running statistics may change if the loss is broken.
        inputs: Images of the split, [N, C, H, W].
        samples: Those that it is the loss of, int64 [n].
    """
    if not bool(loss.isfinite()):
        place = broken_place(network, inputs[samples], samples)
        guard.check(f"loss ({place})" if place else "loss", loss)


@torch.no_grad()
def broken_place(network: MainNetwork, images: Tensor, samples: Tensor) -> str | None:
    """Return the first place, bottom up, at which a sample is not finite.

    Every layer is applied plainly and then iterated; None if the layers are sound, and
    the head is to blame.
    """
    below, pattern = network.stem(images), 0
    layers = zip(network.main_layers, network.solvers, strict=True)
    for number, (layer, solver) in enumerate(layers, start=1):
        state = layer.plain(below, pattern)
        if (row := _first_broken_row(state.u)) is not None:
            return f"sample {int(samples[row])} in the plain pass of layer {number}"
        below, result = layer.iterate(below, state, pattern, solver)
        ended = (result.status == SolverStatus.NONFINITE).nonzero()[:, 0].tolist()
        if ended:
            steps = int(result.num_steps[ended[0]])
            sample = int(samples[ended[0]])
            return f"sample {sample} at iteration {steps} of layer {number}"
        if (row := _first_broken_row(below.y)) is not None:
            return f"sample {int(samples[row])} as it leaves layer {number}"
        pattern |= 1 << (number - 1)
    return None


def _first_broken_row(states: Tensor) -> int | None:
    broken = states.flatten(1).isfinite().all(1).logical_not().nonzero()[:, 0].tolist()
    return broken[0] if broken else None
