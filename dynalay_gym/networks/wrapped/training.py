"""Training of anybody's network, as a whole or with blocks left out at random.

Axes: n samples of a batch, B blocks.
"""

import torch
from torch import Tensor

from dynalay_gym.networks.residual.training import SkippingTrainer
from dynalay_gym.networks.wrapped.network import WrappedNetwork


class WrappedTrainer(SkippingTrainer[WrappedNetwork]):
    """Trains a wrapped network; see `ResidualTrainingConfig` for the options.

    Without ``skip_rate`` it is the training of the network as it is. With it, a few
    epochs make skipping cheap in accuracy, in a network that has never known it. What
    lies between blocks runs as in evaluation: a dropout that is a function there, and
    no module, stays off.
    """

    kind = "wrapped-training"

    def _answer(self, images: Tensor) -> Tensor:
        """Return logits [n, K] with some blocks left out."""
        rate, skipped = self._draw_rate(), None
        if rate > 0:
            num, blocks = len(images), len(self.network.names)
            kept = [self._draw_kept(num, rate) for _ in range(blocks)]
            can_skip = ["skip" in modes for modes in self.network.choices]
            skipped = ~torch.stack(kept, 1) & torch.tensor(can_skip)
            skipped = skipped.to(images.device)
        logits: Tensor = self.network(images, skipped)
        return logits.float()
