"""Training of a main network whose every state is usable.

Every step trains several states over the same batch: the plain pass, everything
iterated, and states in between, because a state that is never trained is a bad one.

Axes: n samples of a batch, L layers, K classes, S = 2^L states.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dynalay_gym.data.splits import Split, augment
from dynalay_gym.data.vocabulary import PADDING, drop_words
from dynalay_gym.errors import DataError
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.overflow import check_loss
from dynalay_gym.networks.state_losses import (
    loss_of_states,
    loss_of_words,
    mixed_states,
    partial_logits,
    weighted_loss,
)
from dynalay_gym.networks.trainer import Trainer, TrainerConfig
from dynalay_gym.utils.ranges import Iterations, PartOfWhole, Share, Tolerance

Paths = Literal["all", "mixed", "portions"]
# Largest norm of a gradient that came through dozens of iterations.
_LARGEST_GRADIENT = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(TrainerConfig):
    """How a main network is trained: see `TrainerConfig` for the other fields.

    Attributes:
        paths: ``all`` 2^L states in every step, or ``mixed``: plain, full and one
            random state between them. ``portions`` are the mixed states with every
            solve stopped after a random number of iterations, so that what is half
            done answers well too; it is differentiated through the iterations.
        dropped_words: Share of the words of a text that are made unknown, if samples
            are augmented.
        pct_start: Share of the training in which the learning rate rises, in (0, 1).
        adjoint_rtol: Relative tolerance of the implicit gradient, > 0.
        adjoint_max_steps: Most adjoint iterations, >= 0.
    """

    paths: Paths = "all"
    dropped_words: Share = 0.5
    pct_start: PartOfWhole = 0.3
    adjoint_rtol: Tolerance = 0.1
    adjoint_max_steps: Iterations = 4


class MainTrainer(Trainer[MainNetwork, TrainingConfig]):
    """AdamW steps on cross-entropy over states, on a one-cycle schedule.

    Args:
        network: Main network, on its device.
        data: The main split, on the same device.
        config: Options.

    Raises:
        ConfigError: A batch is larger than the split.
        DataError: There is padding in texts whose words are to be predicted.
    """

    kind = "main-training"

    def __init__(
        self, network: MainNetwork, data: Split, config: TrainingConfig
    ) -> None:
        optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            # Most weights are vectors of words, few of which a step moves: reading and
            # writing them once is what the optimiser costs.
            fused=True if network.config.reads_texts else None,
        )
        super().__init__(network, data, config, optimizer)
        if network.config.cutoffs and bool((data.inputs == PADDING).any()):
            raise DataError(
                "a network that predicts words is trained on whole windows; leave out "
                "texts with padding (token 0)"
            )
        self.solver = SolverConfig(
            rtol=network.config.rtol,
            max_steps=max(network.config.layer_steps),
            adjoint_rtol=config.adjoint_rtol,
            adjoint_max_steps=config.adjoint_max_steps,
        )

    def augment(self, images: Tensor, rows: Tensor) -> Tensor:
        """Shift and mirror images, drop words; see `Trainer.augment`."""
        share = self.config.dropped_words
        return change_samples(self.network, images, self.generator, share)

    def loss(self, images: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        """Return the mean loss of states; see `Trainer.loss`."""
        weights = self.weights()
        if self.config.paths == "portions":
            logits = partial_logits(self.network, images, weights, self.generator)
            return weighted_loss(logits, labels, weights)
        if self.network.config.cutoffs:  # dropped words are still to be predicted
            words = torch.cat([self.data.inputs[rows, 1:], labels[:, None]], 1)
            return loss_of_words(self.network, images, words, weights, self.solver)
        return loss_of_states(self.network, images, labels, weights, self.solver)

    def weights(self) -> dict[int, float]:
        """Return the states that a step trains, and their weights in the loss."""
        num_states = 2**self.network.num_layers
        if self.config.paths == "all":
            return dict.fromkeys(range(num_states), 1.0)
        return mixed_states(num_states, self.generator)

    def explain(self, loss: Tensor, rows: Tensor) -> None:
        """Say where a loss that is not finite began; see `Trainer.explain`."""
        check_loss(self.guard, loss, self.network, self.data.inputs, rows)

    def before_step(self) -> None:
        """Bound the gradient where it came through many iterations."""
        if self.config.paths == "portions":
            weights = self.network.parameters()
            norm = nn.utils.clip_grad_norm_(weights, _LARGEST_GRADIENT)
            self.guard.check("length of the gradient", norm)

    def rate(self, progress: float) -> float:
        """Return the share of the peak learning rate; see `one_cycle`."""
        return one_cycle(progress, self.config.pct_start)


def change_samples(
    network: MainNetwork,
    samples: Tensor,
    generator: torch.Generator,
    dropped: float = 0.5,
) -> Tensor:
    """Return samples changed at random: images shifted and mirrored, texts thinned.

    Args:
        network: The network that they are for.
        samples: Images [n, C, H, W], or texts [n, T].
        generator: Source of all draws.
        dropped: Share of the words of a text that are made unknown.
    """
    if network.config.reads_texts:
        return drop_words(samples, dropped, generator)
    return augment(samples, generator)


def one_cycle(progress: float, pct_start: float) -> float:
    """Return the share of the peak learning rate at a point of training.

    It rises linearly from 1/25 to 1 and then falls along a cosine to 0.

    Args:
        progress: Share of the training that is done, in [0, 1].
        pct_start: Share of the training in which it rises, in (0, 1).

    References:
        Smith & Topin (2017), Super-Convergence.
    """
    if progress < pct_start:
        return 0.04 + 0.96 * progress / pct_start
    turn = torch.pi * (progress - pct_start) / (1 - pct_start)
    angle = torch.tensor(turn, dtype=torch.float32, device="cpu")
    return float(0.5 * (1 + angle.cos()))
