"""IMDB: files, splits, downloads, and files that are broken."""

import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from dynalay_gym.cotraining.config import CoTrainingConfig
from dynalay_gym.cotraining.new_training import (
    load_splits,
    network_config,
    new_trainer,
    training_config,
)
from dynalay_gym.cotraining.trainer import CoTrainer
from dynalay_gym.data import registry, reviews
from dynalay_gym.data.images import default_data_dir
from dynalay_gym.data.reviews import read_reviews
from dynalay_gym.data.splits import load_split
from dynalay_gym.data.vocabulary import Vocabulary
from dynalay_gym.errors import CheckpointError, DataError
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.checks import check_fit
from dynalay_gym.sessions.measure import export
from dynalay_gym.sessions.torch_session import TorchSession

Rows = list[dict[str, Any]]


def made_up(num: int, first: int) -> Rows:
    """Return `num` reviews of each class; their last word is their own."""
    return [
        {"text": f"A {word} film, number n{first + i}", "label": label, "id": "x"}
        for label, word in enumerate(("bad", "good"))
        for i in range(num)
    ]


def write(path: Path, rows: Rows) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a set have 20 reviews of each class."""
    monkeypatch.setattr(reviews, "_PER_CLASS", 20)
    spec = registry.DATASETS["imdb"]
    cut = {"main": 24, "agent": 10, "validation": 6}
    small = {name: getattr(spec, name) for name in spec.__dataclass_fields__}
    changed = registry.DatasetSpec(**small | {"cut": cut, "vocabulary": 12})
    monkeypatch.setitem(registry.DATASETS, "imdb", changed)  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write(tmp_path / "imdb/train.jsonl", made_up(20, first=0))
    write(tmp_path / "imdb/test.jsonl", made_up(20, first=50))
    return tmp_path


def test_splits_are_disjoint_and_balanced(files: Path) -> None:
    names = "main", "agent", "validation", "test"
    found = {name: load_split("imdb", name, data_dir=files) for name in names}
    assert [len(split) for split in found.values()] == [24, 10, 6, 40]
    pool = torch.cat([found[name].groups for name in names[:3]])
    assert pool.sort().values.tolist() == list(range(40))
    for split in found.values():
        assert split.inputs.shape[1:] == (400,) and split.inputs.dtype == torch.int64
        assert float(split.labels.double().mean()) == 0.5
        assert split.vocabulary == found["main"].vocabulary
        words = split.vocabulary.decode(split.inputs)  # type: ignore[union-attr]
        for text, label in zip(words, split.labels.tolist(), strict=True):
            assert ("good" in text) == bool(label)


def test_only_words_of_the_main_split_are_known(files: Path) -> None:
    split = load_split("imdb", "main", data_dir=files)
    assert split.vocabulary is not None
    known = split.vocabulary.words
    assert known[:5] == ("", "<unk>", "a", "film", "number") and len(known) == 12
    test = load_split("imdb", "test", data_dir=files)
    assert (test.inputs[:, 4] == 1).all()  # their own words


def test_the_order_of_the_file_does_not_matter(files: Path) -> None:
    before = load_split("imdb", "agent", data_dir=files)
    write(files / "imdb/train.jsonl", made_up(20, first=0)[::-1])
    after = load_split("imdb", "agent", data_dir=files)
    assert torch.equal(before.inputs, after.inputs)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b'{"text": "a film", "label": 1}', "holds 0 and 1 reviews"),
        (b'{"text": "a \xff film", "label": 1}', "line 1 of .*train.jsonl is no rev"),
        (b'{"text": "a film", "label": 1}\n{"text": 3}', "line 2 of .* is no review"),
        (b'{"text": "a film", "label": 7}', "line 1 .*label"),
        (b"\x89PNG\r\n", "line 1 of .* is no review"),
        (b"", "holds 0 and 0 reviews"),
    ],
)
def test_other_files_are_refused(files: Path, broken: bytes, message: str) -> None:
    (files / "imdb/train.jsonl").write_bytes(broken)
    with pytest.raises(DataError, match=message):
        read_reviews(train=True, data_dir=files)


def test_missing_files_are_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train.jsonl cannot be read.*--data-dir"):
        read_reviews(train=True, data_dir=tmp_path, download=False)


def test_marks_and_empty_lines_of_editors_are_no_reviews(files: Path) -> None:
    path = files / "imdb/train.jsonl"
    plain = read_reviews(train=True, data_dir=files)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\n"))
    assert read_reviews(train=True, data_dir=files)[0] == plain[0]


def hub(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    """Put a module in the place of Hugging Face's `datasets`."""
    module = types.ModuleType("datasets")
    module.load_dataset = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_what_is_missing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def load(source: str, *, split: str, cache_dir: str) -> Rows:
        asked.append((source, split))
        return made_up(20, first=0)

    hub(monkeypatch, load)
    texts, labels = read_reviews(train=False, data_dir=tmp_path)
    assert asked == [("stanfordnlp/imdb", "train"), ("stanfordnlp/imdb", "test")]
    assert len(texts) == len(labels) == 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["imdb"]
    read_reviews(train=True, data_dir=tmp_path)
    assert len(asked) == 2


def test_a_download_that_breaks_off_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(source: str, *, split: str, cache_dir: str) -> Rows:
        if split == "test":
            raise ConnectionError("gone")
        return made_up(20, first=0)

    hub(monkeypatch, load)
    with pytest.raises(DataError, match=r"downloading IMDB .*gone.*--data-dir"):
        read_reviews(train=True, data_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_download_without_the_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install \"dynalay-gym\[text\]\""):
        read_reviews(train=True, data_dir=tmp_path)


def test_the_real_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if not (default_data_dir() / "imdb/train.jsonl").exists():
        pytest.skip("DYNALAY_DATA_DIR does not point at the files of imdb")
    texts, labels = read_reviews(train=True, download=False)
    assert len(texts) == 25_000 and int(labels.sum()) == 12_500


def test_a_network_is_trained_measured_and_decided_on(files: Path) -> None:
    """All the way: data, training, checkpoint, environment, texts themselves."""
    splits = load_splits("imdb", "cpu", data_dir=files)
    options = {"epochs": 12, "batch_size": 8, "learning_rate": 3e-2, "pct_start": 0.3}
    config = training_config(network_config("imdb"), "imdb", **options)
    main = splits.pop("main")
    trainer = new_trainer(network_config("imdb"), config, main)
    for _ in range(12):
        trainer.train_epoch(lambda step, loss: None)
    about = export(files / "net", trainer.network, splits, {"dataset": "imdb"})
    assert about["state_accuracy"]["test"]["000"] > 0.9  # one word says it
    env = gym.make(
        "dynalay_gym:DynaLay/IMDB-v0", checkpoint=files / "net", data_dir=files
    )
    _, info = env.reset(seed=0)
    assert info["macs"] == about["plain_macs"] == 3 * 49_152 + 256  # one position
    rule = PlanPolicy([3])
    predictor = DynaLayPredictor.from_env(env.unwrapped, rule, penalty=0.0)
    assert predictor.predict(["A GOOD film!", "a bad film"]).tolist() == [1, 0]
    options = CoTrainingConfig(batch_size=8)
    problem = env.unwrapped.problem  # type: ignore[attr-defined]
    both = CoTrainer(problem, main, options, seed=0, augmented=True)
    assert both.turn(rule, decisions=64) is not None and both.steps > 0


def test_a_network_of_other_words_is_refused(files: Path) -> None:
    split = load_split("imdb", "agent", data_dir=files)
    other = Vocabulary(words=("", "<unk>", *map(str, range(10))), cut="words")
    architecture: Any = network_config("imdb")
    network = MainNetwork(replace(architecture, vocabulary=other))
    with pytest.raises(CheckpointError, match="have other numbers"):
        check_fit(TorchSession(network), split)
    check_fit(TorchSession(network), replace(split, vocabulary=None))
