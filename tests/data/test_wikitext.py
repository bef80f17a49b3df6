"""WikiText-2: words, windows, splits, and files that are broken."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dynalay_gym.data import registry, wikitext
from dynalay_gym.data.images import default_data_dir
from dynalay_gym.data.splits import load_split
from dynalay_gym.data.wikitext import read_words, windows
from dynalay_gym.errors import DataError

LINES = [
    " ",
    " = One = ",
    " ",
    " a b a <unk> . ",
    " = = Part = = ",
    " b . ",
    " = Two = ",
]
WORDS = "<eos> = One = <eos> <eos> a b a <unk> . <eos> = = Part = = <eos> b . <eos> = "
WORDS += "Two = <eos>"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "wikitext-2").mkdir()
    for part in ("train", "valid", "test"):
        path = tmp_path / "wikitext-2" / f"{part}.txt"
        path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
        monkeypatch.setitem(wikitext.FILES, part, 25)
    return tmp_path


def test_words_and_articles_by_hand(files: Path) -> None:
    words, articles = read_words("test", files)
    assert words == WORDS.split()
    assert articles.tolist() == [0] + [1] * 20 + [2] * 4


def test_windows_by_hand() -> None:
    tokens, articles = np.arange(10), np.arange(10) // 4
    inputs, labels, of = windows(tokens, articles, 3)
    assert inputs.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert labels.tolist() == [3, 6, 9] and of.tolist() == [0, 1, 2]
    assert len(windows(tokens[:9], articles[:9], 3)[0]) == 2  # nothing behind the last


def test_splits_follow_each_other(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = registry.DATASETS["wikitext2"]
    fields = {name: getattr(spec, name) for name in spec.__dataclass_fields__}
    own = {"in_shape": (4,), "cut": {"main": 4, "agent": 2}, "vocabulary": 7}
    changed = registry.DatasetSpec(**fields | own)
    monkeypatch.setitem(registry.DATASETS, "wikitext2", changed)  # type: ignore[arg-type]
    found = {
        name: load_split("wikitext2", name, data_dir=files)
        for name in ("main", "agent", "validation", "test")
    }
    assert [len(split) for split in found.values()] == [4, 2, 6, 6]
    vocabulary = found["main"].vocabulary
    assert vocabulary is not None
    assert vocabulary.words == ("", "<unk>", "=", "<eos>", ".", "a", "b")
    whole = torch.cat([found["main"].inputs, found["agent"].inputs])
    assert torch.equal(whole, found["test"].inputs)
    known = [word if word in vocabulary.words else "<unk>" for word in WORDS.split()]
    assert vocabulary.decode(whole.view(1, -1)) == [" ".join(known[:24])]
    behind = [vocabulary.words[label] for label in found["test"].labels.tolist()]
    assert behind == known[4:25:4]
    assert found["agent"].groups.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one two\n", "holds 3 words, not 25"),
        (b"", "holds 0 words, not 25"),
        (b"caf\xe9\n", "is no UTF-8 text"),
    ],
)
def test_other_files_are_refused(files: Path, content: bytes, message: str) -> None:
    (files / "wikitext-2/train.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_words("train", files)


def test_missing_files_are_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train.txt cannot be read.*--data-dir"):
        read_words("train", tmp_path, download=False)


def test_the_real_files() -> None:
    if not (default_data_dir() / "wikitext-2/train.txt").exists():
        pytest.skip("DYNALAY_DATA_DIR does not point at the files of wikitext2")
    main = load_split("wikitext2", "main", download=False)
    assert main.vocabulary is not None and len(main.vocabulary) == 33_279
    assert len(main) + 3_000 == (wikitext.FILES["train"] - 1) // 35
