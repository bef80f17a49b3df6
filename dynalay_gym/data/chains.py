"""Chains of references, generated: a language in which reading once is not enough.

A text is six statements in random order and a question, ``c=4 a=f f=c ... a?``: what
is the value of *a*? Each of six variables is a digit, or what another variable is, so
that the answer is at the end of a chain. Who reads from left to right, looking for the
variable that is asked for, gets as far as the chain runs from left to right; where it
runs back, the text must be read once more. How many readings this takes a reader who
knows the question is a text's difficulty. The question comes last, so that a network's
first reading does not know it.

Three chains, of random lengths, end in three different digits. A guess is right in one
of three.

Axes: n texts, T tokens of a text.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dynalay_gym.data.splits import Split
from dynalay_gym.data.vocabulary import Vocabulary
from dynalay_gym.errors import ConfigError, DataError, brief

VARIABLES, DIGITS = "abcdef", "01234"
LENGTH = len(VARIABLES) + 1  # tokens of a text
LONGEST = 4  # most statements between a question and its answer

# A question is one token, and so is a statement.
QUESTIONS = tuple(f"{name}?" for name in VARIABLES)
STATEMENTS = tuple(f"{a}={b}" for a in VARIABLES for b in VARIABLES + DIGITS)
VOCABULARY = Vocabulary(words=("", *QUESTIONS, *STATEMENTS))

# Changing it changes every split, and with them every published number.
_CHAINS_SEED = 2103
_CHUNK = 2_000  # texts made at once; part of what a seed means


def make_chains_split(num_texts: int, seed: int = 0, *, name: str = "own") -> Split:
    """Generate texts; the same arguments give the same texts on every machine.

    Args:
        num_texts: Texts n, at least 1. More of them begin with the same ones.
        seed: Seed, at least 0. The splits of the registry have those below 16.
        name: Name of the split.

    Returns:
        Split with inputs int64 [n, 7], tokens of `VOCABULARY`; labels 0..4, the digits;
        and the number of readings that the answer takes as difficulty.

    Raises:
        ConfigError: An argument is out of range.
    """
    if num_texts < 1 or seed < 0:
        raise ConfigError(
            f"give num_texts >= 1 and seed >= 0, not {num_texts} and {seed}"
        )
    bits = np.random.PCG64([_CHAINS_SEED, seed])
    parts = [_make_chunk(bits) for _ in range(-(-num_texts // _CHUNK))]
    tokens, labels, readings = (
        torch.from_numpy(np.concatenate(arrays)[:num_texts])
        for arrays in zip(*parts, strict=True)
    )
    return Split(
        inputs=tokens,
        labels=labels,
        difficulty=readings,
        name=name,
        vocabulary=VOCABULARY,
    )


def encode(texts: Sequence[str]) -> torch.Tensor:
    """Return the tokens of texts such as ``a=b c=4 ... a?``, int64 [n, 7].

    That every variable is stated once, and that chains end, is not checked.

    Raises:
        DataError: A word is unknown, or there are not six statements and a question.
    """
    tokens = VOCABULARY.encode(texts, LENGTH)
    for text in texts:
        is_question = [word in QUESTIONS for word in text.split()]
        if is_question != [False] * (LENGTH - 1) + [True]:
            raise DataError(
                f"a text is {LENGTH - 1} statements and then one question, not "
                f"{brief(text)}; write it like c=4 a=f f=c b=2 d=b e=0 a?"
            )
    return tokens


def _make_chunk(bits: np.random.PCG64) -> tuple[NDArray[np.int64], ...]:
    """Return tokens [m, 7], labels [m] and readings [m] of `_CHUNK` texts."""
    num = len(VARIABLES)
    chain = _permutations(bits, num)  # variables, chain after chain, in their order
    place = _permutations(bits, num)  # of each variable's statement in the text
    digits = _permutations(bits, len(DIGITS))[:, :3]
    depth = 1 + _draw(bits, LONGEST)
    second = 1 + (_draw(bits, 2**16) % (num - depth - 1))
    rows, steps = np.arange(_CHUNK)[:, None], np.arange(num)
    ends = np.stack([depth, depth + second, np.full(_CHUNK, num)], 1) - 1

    value = np.empty((_CHUNK, num), np.int64)  # what each variable is said to be
    value[rows, chain[:, :-1]] = chain[:, 1:]
    value[rows, chain[rows, ends]] = num + digits
    statements = np.arange(num) * (num + len(DIGITS)) + value
    tokens = np.empty((_CHUNK, LENGTH), np.int64)
    tokens[rows, place] = 1 + len(QUESTIONS) + statements
    tokens[:, -1] = 1 + chain[:, 0]

    visited = place[rows, chain]
    goes_back = (visited[:, 1:] < visited[:, :-1]) & (steps[1:] < depth[:, None])
    return tokens, digits[:, 0], 1 + goes_back.sum(1)


def _permutations(bits: np.random.PCG64, num: int) -> NDArray[np.int64]:
    """Return random orders of 0..num-1, [_CHUNK, num]."""
    # Raw bits are the one random stream that NumPy promises never to change.
    drawn = bits.random_raw(_CHUNK * num).reshape(_CHUNK, num)
    return np.argsort(drawn, axis=1, kind="stable")


def _draw(bits: np.random.PCG64, limit: int) -> NDArray[np.int64]:
    """Return random numbers below a limit, [_CHUNK]."""
    return (bits.random_raw(_CHUNK) % np.uint64(limit)).astype(np.int64)
