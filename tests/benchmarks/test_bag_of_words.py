"""A bag knows what a word says, and a bag of pairs what its neighbour does to it."""

import torch

from benchmarks.bag_of_words import accuracies
from dynalay_gym.data.splits import Split
from dynalay_gym.data.vocabulary import Vocabulary

WORDS = Vocabulary(words=("", "<unk>", "good", "not", "film"), cut="words")


def test_pairs_know_more_than_words() -> None:
    """The texts "film not good film" and "not film good film" have the same words."""
    texts = torch.tensor([[4, 3, 2, 4], [3, 4, 2, 4]] * 20)
    split = Split(texts, torch.arange(40) % 2, vocabulary=WORDS)
    splits = dict.fromkeys(("main", "validation", "test"), split)
    assert accuracies(splits, 1)["test"] == 50.0
    assert accuracies(splits, 2)["test"] == 100.0
