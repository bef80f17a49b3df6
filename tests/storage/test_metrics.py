"""What is recorded can be read back; facts about a run are complete."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynalay_gym.storage import metrics
from dynalay_gym.storage.metrics import (
    MetricWriter,
    last_step,
    read_scalars,
    run_metadata,
)


def read_events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def read_lines(folder: Path) -> list[dict[str, float]]:
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_scalars_can_be_read_back_from_both_files(tmp_path: Path) -> None:
    with MetricWriter(tmp_path / "run") as writer:
        writer.scalar("eval/accuracy", 0.25, 10)
        writer.scalars({"eval/accuracy": 0.5, "eval/compute": np.float32(2)}, 20)
    events = read_events(tmp_path / "run")
    curve = [(event.step, event.value) for event in events.Scalars("eval/accuracy")]
    assert curve == [(10, 0.25), (20, 0.5)]
    lines = read_lines(tmp_path / "run")
    for line in lines:
        assert line.pop("time") > 1e9
    assert lines == [
        {"step": 10, "eval/accuracy": 0.25},
        {"step": 20, "eval/accuracy": 0.5, "eval/compute": 2.0},
    ]


def test_a_diverged_value_keeps_the_lines_valid_json(tmp_path: Path) -> None:
    with MetricWriter(tmp_path) as writer:
        writer.scalar("train/loss", float("nan"), 1)
    assert read_lines(tmp_path)[0]["train/loss"] is None
    assert np.isnan(read_events(tmp_path).Scalars("train/loss")[0].value)


def test_lines_are_there_before_the_writer_is_closed(tmp_path: Path) -> None:
    writer = MetricWriter(tmp_path)
    writer.scalar("a", 1.0, 1)
    assert len(read_lines(tmp_path)) == 1
    writer.close()
    writer.close()


def test_hparams_open_no_sub_run(tmp_path: Path) -> None:
    with MetricWriter(tmp_path) as writer:
        writer.scalar("eval/accuracy", 0.25, 10)
        options = {"algo": "ppo", "seed": 0, "log_dir": Path("runs"), "hidden": (64,)}
        writer.hparams(options, {"final/accuracy": 0.5}, step=10)
    assert not [entry for entry in tmp_path.iterdir() if entry.is_dir()]
    events = read_events(tmp_path)
    assert [event.step for event in events.Scalars("final/accuracy")] == [10]
    assert [event.value for event in events.Scalars("eval/accuracy")] == [0.25]
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_hparams_of_all_runs_have_the_same_columns(tmp_path: Path) -> None:
    known = {"algo": "ppo", "rate": 0.1, "epsilon": 0.5, "limit": None}
    with MetricWriter(tmp_path) as writer:
        options = {"algo": "ppo", "rate": 1, "limit": 0.25}
        writer.hparams(options, {"final/accuracy": 0.5}, 0, known)
        writer.scalar("eval/accuracy", 0.25, 10)
    events = read_events(tmp_path)
    assert [event.value for event in events.Scalars("eval/accuracy")] == [0.25]
    experiment = hparams_of(events, "experiment").experiment
    types = {info.name: info.type for info in experiment.hparam_infos}
    text, number = types["algo"], types["rate"]
    assert types == {"algo": text, "rate": number, "epsilon": number, "limit": text}
    start = hparams_of(events, "session_start_info").session_start_info
    assert set(start.hparams) == {"algo", "rate", "limit"}
    assert start.hparams["rate"].number_value == 1
    assert start.hparams["limit"].string_value == "0.25"


def test_a_run_beside_others_leaves_the_columns_to_them(tmp_path: Path) -> None:
    with MetricWriter(tmp_path) as writer:
        writer.hparams({"algo": "mine"}, {"final/accuracy": 0.5})
    names = read_events(tmp_path).summary_metadata
    assert "_hparams_/session_start_info" in names
    assert "_hparams_/experiment" not in names


def hparams_of(events: Any, name: str) -> Any:
    """Return what is stored for the table of runs under a name."""
    from tensorboard.plugins.hparams import plugin_data_pb2

    metadata = events.summary_metadata[f"_hparams_/{name}"].plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(metadata)


def test_figures_are_recorded(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([1, 2], [3, 4])
    with MetricWriter(tmp_path) as writer:
        writer.figure("eval/frontier", figure, 3)
    events = read_events(tmp_path)
    assert [image.step for image in events.Images("eval/frontier")] == [3]


def test_pictures_are_recorded_as_they_are(tmp_path: Path) -> None:
    from io import BytesIO

    from PIL import Image

    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    with MetricWriter(tmp_path) as writer:
        writer.image("easiest/0", picture, 7)
    (event,) = read_events(tmp_path).Images("easiest/0")
    assert event.step == 7
    assert (
        np.asarray(Image.open(BytesIO(event.encoded_image_string))) == picture
    ).all()


def test_the_last_step_of_a_folder(tmp_path: Path) -> None:
    assert last_step(tmp_path) == -1
    with MetricWriter(tmp_path) as writer:
        assert last_step(tmp_path) == -1
        writer.scalar("a", 1.0, 20)
        writer.scalar("b", 1.0, 10)
    assert last_step(tmp_path) == 20


# --- facts ----------------------------------------------------------------------------


def test_facts_are_json_able_and_complete() -> None:
    facts = run_metadata()
    json.dumps(facts, allow_nan=False)
    assert facts["packages"]["torch"] == torch.__version__.split("+")[0]
    assert facts["num_threads"] == torch.get_num_threads()
    assert facts["cpu"]
    assert facts["date"].endswith("+00:00")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_commit_is_that_of_this_checkout_only(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        settings = ("user.name=a", "user.email=a@example.org", "commit.gpgsign=false")
        command = ["git", *(word for pair in settings for word in ("-c", pair)), *words]
        result = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return result.stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "first")
    head = git("rev-parse", "HEAD")
    assert metrics._commit(tmp_path) == head
    (tmp_path / "file").write_text("2")
    assert metrics._commit(tmp_path) == f"{head}-dirty"
    (tmp_path / "site-packages").mkdir()
    assert metrics._commit(tmp_path / "site-packages") is None


def test_importing_metrics_loads_neither_torch_nor_tensorboard() -> None:
    code = (
        "import sys, dynalay_gym.storage.metrics;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'tensorboard')))"
    )
    root = Path(metrics.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_damaged_lines_do_not_keep_a_run_from_going_on(tmp_path: Path) -> None:
    """They only say after which step a watching TensorBoard forgets."""
    assert last_step(tmp_path) == -1
    lines = b'{"step": 3}\n[]\n\xff\n{"step": "x"}\n{"step": 5}\n{"step": 9'
    (tmp_path / "metrics.jsonl").write_bytes(lines)
    assert last_step(tmp_path) == 5


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_in_place_of_the_metrics_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with MetricWriter(tmp_path, {"metrics.jsonl": 0}) as writer:
        writer.scalar("a", 1.0, 1)
    assert [line["a"] for line in read_lines(tmp_path)] == [1.0]


def test_curves_are_read_back_and_what_is_damaged_is_left_out(tmp_path: Path) -> None:
    assert read_scalars(tmp_path) == {}
    with MetricWriter(tmp_path) as writer:
        writer.scalars({"a": 1, "b": 0.5}, 10)
        writer.scalars({"a": float("nan"), "b": 0.25}, 20)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('[3]\n{"a": 1.0}\n{"step": 30, "a": "x", "b": 1e999}\n{"step": 4')
    assert read_scalars(tmp_path) == {"a": [(10, 1.0)], "b": [(10, 0.5), (20, 0.25)]}
    assert last_step(tmp_path) == 30
