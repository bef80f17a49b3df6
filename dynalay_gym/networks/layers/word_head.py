"""The head that scores the words of a vocabulary: an adaptive softmax.

Axes: n texts, F features, D numbers of a word's vector, K words.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.fixed_point.batch_invariant import linear

Multiply = Callable[[Tensor, Tensor], Tensor]  # rows and a matrix, as F.linear


class WordHead(nn.Module):
    """Scores words by the vectors that they are read by.

    Frequent words have low numbers, and cutoffs part them into clusters. Words of the
    first one compete with each other and with the other clusters, whose words compete
    among themselves. So a loss costs no more than the clusters that are asked for. Each
    cluster has its own projection of the features to the size of the vectors.

    Args:
        num_features: Features F.
        num_words: Words K.
        width: Numbers D of a word's vector.
        cutoffs: Words at which the second and later clusters begin.

    References:
        Grave et al. (2017), Efficient softmax approximation for GPUs; Press & Wolf
        (2017), Using the output embedding to improve language models.
    """

    def __init__(
        self, num_features: int, num_words: int, width: int, cutoffs: tuple[int, ...]
    ) -> None:
        super().__init__()
        self._starts, self._ends = (0, *cutoffs), (*cutoffs, num_words)
        self.width = width
        self.projections = nn.ModuleList(
            nn.Linear(num_features, width, bias=False) for _ in self._ends
        )
        self.clusters = nn.Linear(num_features, len(cutoffs))
        self.bias = nn.Parameter(torch.zeros(num_words))

    def forward(self, features: Tensor, words: Tensor, vectors: Tensor) -> Tensor:
        """Return the log-probabilities of given words, [n]; for training.

        Unlike those of `log_prob`, their last bits may depend on the other rows.

        Args:
            features: What is known, [n, F].
            words: One for each row, int64 [n].
            vectors: Of all words, [K, D].
        """
        cluster = (words[:, None] >= words.new_tensor(self._starts[1:])).sum(1)
        first = self._first(features, vectors, F.linear)
        asked = torch.where(cluster == 0, words, self._ends[0] + cluster - 1)
        found = first.gather(1, asked[:, None])[:, 0]
        for number in range(1, len(self._ends)):
            rows = (cluster == number).nonzero()[:, 0]
            within = self._scores(number, features[rows], vectors, F.linear)
            own = words[rows] - self._starts[number]
            log_p = within.log_softmax(1).gather(1, own[:, None])
            found = found.index_add(0, rows, log_p[:, 0])
        return found

    def log_prob(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Return the log-probabilities of all words, [n, K]; no row changes another.

        Args:
            features: What is known, [n, F].
            vectors: Of all words, [K, D].
        """
        first, size = self._first(features, vectors, linear), self._ends[0]
        parts = [first[:, :size]]
        for number in range(1, len(self._ends)):
            within = self._scores(number, features, vectors, linear).log_softmax(1)
            parts.append(within + first[:, size + number - 1, None])
        return torch.cat(parts, 1)

    def _first(self, features: Tensor, vectors: Tensor, multiply: Multiply) -> Tensor:
        """Return log-probabilities of the first words, then of the other clusters."""
        others = multiply(features, self.clusters.weight) + self.clusters.bias
        words = self._scores(0, features, vectors, multiply)
        return torch.cat([words, others], 1).log_softmax(1)

    def _scores(
        self, number: int, features: Tensor, vectors: Tensor, multiply: Multiply
    ) -> Tensor:
        """Return the scores of a cluster's words, [n, words]."""
        part = slice(self._starts[number], self._ends[number])
        projection = self.projections[number].get_parameter("weight")
        looked_for = multiply(features, projection)
        return multiply(looked_for, vectors[part]) + self.bias[part]

    @property
    def macs(self) -> int:
        """Multiply-adds of the scores of all words."""
        projections = sum(part.numel() for part in self.projections.parameters())
        clusters = self.clusters.weight.numel()
        return projections + clusters + len(self.bias) * self.width
