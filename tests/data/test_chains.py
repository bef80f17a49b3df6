"""Generated texts: right answers, the readings that they take, and bad input."""

import pytest
import torch

from dynalay_gym.data.chains import (
    LENGTH,
    STATEMENTS,
    VOCABULARY,
    encode,
    make_chains_split,
)
from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.data.splits import load_split
from dynalay_gym.errors import ConfigError, DataError


def read_again_and_again(text: str) -> tuple[int, int]:
    """Return the answer and the readings of who looks for one name at a time."""
    *statements, question = text.split()
    wanted, readings = question[0], 0
    while not wanted.isdigit():
        readings += 1
        for statement in statements:
            name, value = statement.split("=")
            if name == wanted:
                wanted = value
    return int(wanted), readings


def test_labels_and_difficulty_are_those_of_a_reader() -> None:
    split = make_chains_split(500, seed=99)
    assert split.difficulty is not None
    found = [read_again_and_again(text) for text in VOCABULARY.decode(split.inputs)]
    assert found == list(
        zip(split.labels.tolist(), split.difficulty.tolist(), strict=True)
    )
    assert set(split.difficulty.tolist()) == {1, 2, 3, 4}


def test_every_text_says_of_each_variable_once_what_it_is() -> None:
    for text in VOCABULARY.decode(make_chains_split(200, seed=99).inputs):
        *statements, question = text.split()
        assert sorted(each[0] for each in statements) == list("abcdef")
        digits = [each[2] for each in statements if each[2].isdigit()]
        assert len(set(digits)) == len(digits) == 3
        assert question[1] == "?"


def test_classes_and_depths_are_about_equally_frequent() -> None:
    split = make_chains_split(12_000, seed=99)
    shares = split.labels.bincount(minlength=5) / 12_000
    torch.testing.assert_close(shares, torch.full((5,), 1 / 5), atol=0.015, rtol=0)


def test_more_texts_begin_with_the_same_ones() -> None:
    few, many = make_chains_split(10, seed=7), make_chains_split(3_000, seed=7)
    assert torch.equal(few.inputs, many.inputs[:10])
    assert not torch.equal(few.inputs, make_chains_split(10, seed=8).inputs)


def test_words_and_tokens_are_inverse() -> None:
    split = make_chains_split(50, seed=99)
    assert torch.equal(encode(VOCABULARY.decode(split.inputs)), split.inputs)
    assert split.inputs.shape == (50, LENGTH) and split.inputs.dtype == torch.int64
    assert len(VOCABULARY) == dataset_spec("chains").vocabulary == 1 + 6 + 6 * 11
    assert encode([]).shape == (0, LENGTH)


GOOD = " ".join(STATEMENTS[:6])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "text 0 has no word"),
        (GOOD, "6 statements and then one question"),
        (f"a? {GOOD}", "6 statements and then one question"),
        (f"{GOOD} {GOOD} a?", "text 0 has 13 words, more than 7"),
        (f"{GOOD} z?", "unknown word 'z\\?'"),
        (f"{GOOD} a\x00", "unknown word"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        encode([text])


@pytest.mark.parametrize("token", [-1, 73])
def test_other_tokens_are_refused(token: int) -> None:
    with pytest.raises(DataError, match=f"not {token}"):
        VOCABULARY.decode(torch.full((1, LENGTH), token))


def test_one_text_is_no_list() -> None:
    with pytest.raises(DataError, match="not one text"):
        encode(f"{GOOD} a?")


@pytest.mark.parametrize("options", [{"num_texts": 0}, {"num_texts": 3, "seed": -1}])
def test_bad_arguments_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="num_texts >= 1 and seed >= 0"):
        make_chains_split(**options)


def test_splits_are_disjoint_seeds_of_one_generator() -> None:
    test = load_split("chains", "test")
    assert len(test) == 4_000
    assert torch.equal(test.inputs, make_chains_split(4_000, 3).inputs)
