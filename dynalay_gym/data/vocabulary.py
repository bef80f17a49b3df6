"""Texts as tokens: cut into words, numbered, and dropped at random in training.

Axes: n texts, T tokens of a text.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor

from dynalay_gym.errors import ConfigError, DataError, brief

PADDING, UNKNOWN = 0, 1  # tokens; they are written "" and "<unk>"
_UNKNOWN_WORD = "<unk>"
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[!?]")
_BREAK = re.compile(r"<br\s*/?>")

Cut = Literal["spaces", "words"]
Words = Annotated[tuple[str, ...], Meta(min_length=2, max_length=2**20)]


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The words that a network knows; a word's number is its token.

    Attributes:
        words: Distinct words. The first is ``""``, padding. If the second is
            ``"<unk>"``, it stands for all words that are not among them.
        cut: How a text is cut. ``spaces``: at white space. ``words``: into words of
            letters and digits in lower case, ``!`` and ``?``; an apostrophe joins what
            follows it, and all else parts words.

    Raises:
        ConfigError: The first word is not "", or a word stands there twice.
    """

    words: Words = field(repr=False)  # thousands
    cut: Cut = "spaces"

    def __post_init__(self) -> None:
        """Check the words."""
        if self.words[0] != "" or len(set(self.words)) < len(self.words):
            raise ConfigError('words must differ, and the first must be "" (padding)')

    def __len__(self) -> int:
        return len(self.words)

    def split(self, text: str) -> list[str]:
        """Return the words of a text, known or not."""
        return text.split() if self.cut == "spaces" else words_of(text)

    def encode(self, texts: Sequence[str], length: int) -> Tensor:
        """Return the tokens of texts, int64 [n, length].

        A longer text is cut off behind `length` words, but refused where no word may be
        unknown; padding stands behind a shorter one.

        Args:
            texts: A list of texts, each with a word at least.
            length: Tokens T.

        Raises:
            DataError: Something is no text, or has no word; in a vocabulary without
                "<unk>", a text is too long, or a word not known.
        """
        if isinstance(texts, str):
            raise DataError("give a list of texts, [text], not one text")
        tokens = torch.zeros(len(texts), length, dtype=torch.int64, device="cpu")
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(
                    f"text {row} is no str but {brief(text)}; decode bytes first"
                )
            words = self.split(text)
            if not words:
                raise DataError(f"text {row} has no word, {brief(text)}; leave it out")
            if len(words) > length and not self._is_open:
                raise DataError(
                    f"text {row} has {len(words)} words, more than {length}; shorten it"
                )
            found = self.tokens_of(words[:length])
            tokens[row, : len(found)] = torch.tensor(found, device="cpu")
        return tokens

    def tokens_of(self, words: Sequence[str]) -> list[int]:
        """Return the tokens of words.

        Raises:
            DataError: A word is not known (in a vocabulary without "<unk>").
        """
        if self._is_open:
            return [self._numbers.get(word, UNKNOWN) for word in words]
        try:
            return [self._numbers[word] for word in words]
        except KeyError as error:
            raise DataError(
                f"unknown word {brief(error.args[0])}; this network knows "
                f"{', '.join(self.words[1:6])}, ... (vocabulary.words)"
            ) from None

    def decode(self, tokens: Tensor) -> list[str]:
        """Return the words of tokens, int64 [n, T], joined by spaces.

        Raises:
            DataError: A token is out of range.
        """
        wrong = tokens[(tokens < 0) | (tokens >= len(self))]
        if len(wrong) > 0:
            raise DataError(
                f"tokens lie in 0..{len(self) - 1}, not {int(wrong[0])}; make them "
                "with encode"
            )
        rows = (
            [self.words[token] for token in row if token] for row in tokens.tolist()
        )
        return [" ".join(words) for words in rows]

    @property
    def _is_open(self) -> bool:
        return self.words[1] == _UNKNOWN_WORD

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: token for token, word in enumerate(self.words) if word}


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, without marks but ``!`` and ``?``."""
    return _WORD.findall(_BREAK.sub(" ", text.lower()))


def most_common_words(
    texts: Iterable[Sequence[str]], size: int, cut: Cut = "words"
) -> Vocabulary:
    """Return the vocabulary of the words that occur most often.

    Args:
        texts: Words of each text.
        size: Most tokens, padding and "<unk>" included, at least 2.
        cut: How the texts were cut.
    """
    counts = Counter(word for words in texts for word in words)
    del counts[_UNKNOWN_WORD]
    # Equally frequent words in the order of the alphabet: nothing depends on the files.
    order = sorted(counts, key=lambda word: (-counts[word], word))
    return Vocabulary(words=("", _UNKNOWN_WORD, *order[: size - 2]), cut=cut)


def drop_words(tokens: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Make words unknown at random, so that a network does not lean on single ones.

    Args:
        tokens: Texts, int64 [n, T].
        share: Chance of a word to become `UNKNOWN`, in [0, 1].
        generator: Source of the draws, on the CPU.

    Returns:
        New tokens [n, T]; padding stays.
    """
    drawn = torch.rand(
        tokens.shape, generator=generator, dtype=torch.float32, device=generator.device
    )
    is_dropped = (drawn < share).to(tokens.device) & (tokens != PADDING)
    return torch.where(is_dropped, UNKNOWN, tokens)
