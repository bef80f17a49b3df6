"""Losses of several states of a main network over the same batch.

Axes: n samples of a batch, K classes, S = 2^L states.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.fixed_point.solve import GradientRule, SolverConfig
from dynalay_gym.networks.layers.reading import summaries
from dynalay_gym.networks.main_network import MainNetwork

# Weight of the random state between plain and full (chosen in trials on CIFAR-10).
_MIXED_WEIGHT = 0.7


def mixed_states(num_states: int, generator: torch.Generator) -> dict[int, float]:
    """Return the plain, the full and one random state, with their weights in the loss.

    Args:
        num_states: States S, at least 2; with 2 there is none between.
        generator: Source of the draw.
    """
    full = num_states - 1
    weights = {0: 1.0, full: 1.0}
    if full > 1:
        device = generator.device
        between = torch.randint(1, full, (), generator=generator, device=device)
        weights[int(between)] = _MIXED_WEIGHT
    return weights


def partial_logits(
    network: MainNetwork,
    images: Tensor,
    state_ids: Iterable[int],
    generator: torch.Generator,
) -> list[Tensor]:
    """Return the logits of states whose solves stop after random iterations.

    Args:
        network: The main network.
        images: Samples [n, C, H, W].
        state_ids: States; a layer that is iterated takes 1 to its most iterations.
        generator: Source of the draws.

    Returns:
        Logits [n, K] of each state, differentiable through every iteration.
    """
    stem, logits = network.stem(images), []
    for state_id in state_ids:
        below = stem
        for level, layer in enumerate(network.main_layers):
            pattern = state_id & (2**level - 1)
            state = layer.plain(below, pattern)
            if state_id >> level & 1:
                solver = _random_portion(network, level, generator)
                state, _ = layer.iterate(below, state, pattern, solver)
            below = state
        logits.append(network.classify(below, state_id))
    return logits


def _random_portion(
    network: MainNetwork, level: int, generator: torch.Generator
) -> SolverConfig:
    """Return an unrolled solve of 1 to a layer's most iterations; 0 if that is most.

    Short ones are drawn more often, since there each iteration changes most.
    """
    most, device = network.config.layer_steps[level], generator.device
    draw = float(
        torch.rand((), generator=generator, dtype=torch.float32, device=device)
    )
    steps = min(most, 1 + int(most * draw**2))
    return replace(network.solvers[level], max_steps=steps, rule=GradientRule.UNROLL)


def loss_of_states(
    network: MainNetwork,
    images: Tensor,
    labels: Tensor,
    weights: Mapping[int, float],
    solver: SolverConfig,
) -> Tensor:
    """Return the weighted mean over states of a batch's cross-entropy, a scalar.

    Args:
        network: The main network.
        images: Samples [n, C, H, W].
        labels: Their classes, int64 [n].
        weights: Weight of each state.
        solver: Options of the solves and of their gradient.
    """
    logits = network.forward_paths(images, weights, solver)
    return weighted_loss(logits, labels, weights)


def loss_of_words(
    network: MainNetwork,
    texts: Tensor,
    words: Tensor,
    weights: Mapping[int, float],
    solver: SolverConfig,
) -> Tensor:
    """Return the weighted mean over states of the next words' cross-entropy, a scalar.

    The plain pass, which is causal, is asked after every word of a text. Where layers
    have read the whole text again, only the word behind it is new to them.

    Args:
        network: A main network that predicts words.
        texts: Samples without padding, int64 [n, T].
        words: The word behind each of their words, int64 [n, T].
        weights: Weight of each state.
        solver: Options of the solves and of their gradient.
    """
    tops = network.tops(texts, weights, solver)
    losses, vectors = [], network.token_stem.vectors
    for (state_id, weight), top in zip(weights.items(), tops, strict=True):
        features, asked = network.main_layers[-1].pool(top), words[:, -1]
        if state_id == 0:
            features, asked = summaries(top.y).flatten(0, 1), words.flatten()
        normed = network.head_norm(features, state_id)
        with torch.autocast(normed.device.type, enabled=False):  # it cannot mix types
            log_p = network.word_head(normed.float(), asked, vectors)
        losses.append(-weight * log_p.mean())
    return torch.stack(losses).sum() / sum(weights.values())


def weighted_loss(
    logits: Sequence[Tensor], labels: Tensor, weights: Mapping[int, float]
) -> Tensor:
    """Return the weighted mean over states of the cross-entropy, a scalar.

    Args:
        logits: Answers [n, K] of each state, in the order of the weights.
        labels: The samples' classes, int64 [n].
        weights: Weight of each state.
    """
    losses = [
        weight * F.cross_entropy(answer.float(), labels)
        for weight, answer in zip(weights.values(), logits, strict=True)
    ]
    return torch.stack(losses).sum() / sum(weights.values())
