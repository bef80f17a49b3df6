"""The head that scores the words of a vocabulary: an adaptive softmax.

Axes: n texts, F features, K words.
"""

import torch
from torch import Tensor, nn

from dynalay_gym.fixed_point.batch_invariant import linear


class WordHead(nn.AdaptiveLogSoftmaxWithLoss):
    """Scores words, of which frequent ones have low numbers.

    The first cluster has a row of F weights for each word; the words of the others
    share a projection to F/4, F/16, ... features each, since there are few examples of
    them. Calling it with features [n, F] and words [n] returns their log-probabilities
    and the loss, at the cost of the clusters that the words are in.

    Args:
        num_features: Features F.
        num_words: Words K.
        cutoffs: Words at which the second and later clusters begin.

    References:
        Grave et al. (2017), Efficient softmax approximation for GPUs.
    """

    def __init__(
        self, num_features: int, num_words: int, cutoffs: tuple[int, ...]
    ) -> None:
        super().__init__(num_features, num_words, list(cutoffs))

    def log_prob(self, features: Tensor) -> Tensor:
        """Return the log-probabilities of all words, [n, K]; no row changes another."""
        head = linear(features, self.head.weight).log_softmax(1)
        parts, first = [head[:, : self.shortlist_size]], self.shortlist_size
        for number, tail in enumerate(self.tail):
            project, score = (tail.get_parameter(f"{i}.weight") for i in (0, 1))
            scores = linear(linear(features, project), score)
            cluster = head[:, first + number, None]
            parts.append(scores.log_softmax(1) + cluster)
        return torch.cat(parts, 1)

    @property
    def macs(self) -> int:
        """Multiply-adds of the scores of all words."""
        return sum(weight.numel() for weight in self.parameters())
