"""Words and tokens: cutting, numbering, dropping, and bad input."""

import pytest
import torch

from dynalay_gym.data.vocabulary import (
    Vocabulary,
    drop_words,
    most_common_words,
    words_of,
)
from dynalay_gym.errors import ConfigError, DataError

OPEN = Vocabulary(words=("", "<unk>", "good", "film", "!"), cut="words")


def test_words_by_hand() -> None:
    text = "Don't see it!<br /><br />It's 'BAD', 3/10 (naïve)"
    expected = ["don't", "see", "it", "!", "it's", "bad", "3", "10", "na", "ve"]
    assert words_of(text) == expected


def test_tokens_by_hand() -> None:
    tokens = OPEN.encode(["A GOOD film!", "film " * 100_000], length=5)
    assert tokens.tolist() == [[1, 2, 3, 4, 0], [3] * 5]  # the rest is cut off
    assert OPEN.decode(tokens) == ["<unk> good film !", "film film film film film"]
    assert OPEN.encode([], length=5).shape == (0, 5)


def test_frequent_words_come_first_and_ties_in_the_order_of_the_alphabet() -> None:
    texts = [["b", "a", "c"], ["c", "d"]]
    found = most_common_words(texts, 5)
    assert found == Vocabulary(words=("", "<unk>", "c", "a", "b"), cut="words")
    assert most_common_words(reversed(texts), 5) == found


def test_the_share_of_words_that_is_dropped() -> None:
    tokens = torch.full((100, 200), 3)
    tokens[:, 150:] = 0
    found = drop_words(tokens, 0.3, torch.Generator().manual_seed(0))
    assert not found[:, 150:].any()
    assert set(found[:, :150].unique().tolist()) == {1, 3}
    assert abs(float((found[:, :150] == 1).float().mean()) - 0.3) < 0.02
    assert (tokens[:, :150] == 3).all()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a film", "not one text"),
        (["a film", ""], "text 1 has no word"),
        ([" ... "], "text 0 has no word"),
        ([b"a film"], "text 0 is no str"),
    ],
)
def test_what_is_no_text_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        OPEN.encode(texts, length=5)


def test_a_closed_vocabulary_refuses_other_words() -> None:
    closed = Vocabulary(words=("", "good", "film"))
    with pytest.raises(DataError, match="unknown word 'bad'"):
        closed.encode(["good film", "bad film"], length=5)


@pytest.mark.parametrize("words", [("good", "film"), ("", "film", "film")])
def test_words_that_cannot_be_numbered_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="words must differ"):
        Vocabulary(words=words)
