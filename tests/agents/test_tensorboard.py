"""What a log folder shows in TensorBoard, read back through its HTTP interface."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

import evaluate
import train_agent

RUNS = ("digits/a2c/0", "digits/policy-gradient/0")
REFERENCES = ("always", "fixed-k", "max-prob", "nop")
CHARTS = ("return", "accuracy", "compute")
TIMESTEPS = 2048


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trainings on one network, and the evaluation of one of them."""
    folder = tmp_path_factory.mktemp("tensorboard") / "runs"
    for algo in ("a2c", "policy-gradient"):
        given = ("--dataset", "digits", "--total-timesteps", TIMESTEPS)
        run(train_agent, "--algo", algo, *given, folder)
    run(evaluate, folder / RUNS[0], folder)
    return folder


def run(script: ModuleType, *options: object) -> None:
    """Run a script in this process; the last option is the log folder."""
    *given, log_dir = map(str, options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script", *given, "--log-dir", log_dir])
        assert script.main() == 0


@pytest.fixture(scope="module")
def address(log_dir: Path) -> Iterator[str]:
    """A server on a free port of this machine, stopped afterwards."""
    options = "--host 127.0.0.1 --port 0 --load_fast=false --reload_interval 1".split()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir)]
    server = subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert server.stderr is not None
        said = []
        for line in server.stderr:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                yield found[0]
                break
        else:
            pytest.fail(f"TensorBoard did not start: {''.join(said)}")
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


@pytest.fixture(scope="module")
def board(address: str, log_dir: Path) -> "Board":
    """The server, once it has read all runs of the folder."""
    board = Board(address)
    expected = {
        str(path.parent.relative_to(log_dir)) for path in log_dir.rglob("events.*")
    }
    for _ in range(600):
        if set(board.get("data/runs")) == expected and board.is_complete():
            return board
        time.sleep(0.1)
    pytest.fail(f"TensorBoard shows {board.get('data/runs')}, not {sorted(expected)}")


class Board:
    """TensorBoard's HTTP interface."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str, **query: str) -> Any:
        return json.loads(self.read(f"{path}?{urlencode(query)}" if query else path))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return json.loads(self.read(path, json.dumps(body).encode()))

    def read(self, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json"}
        request = Request(self.address + path, data=body, headers=headers)
        with urlopen(request, timeout=60) as response:
            content: bytes = response.read()
        return content

    def is_complete(self) -> bool:
        """Whether the last thing that a training writes has been read."""
        tags = self.get("data/plugin/scalars/tags")
        return all("hparam/return" in tags.get(run, {}) for run in RUNS)

    def curve(self, run: str, tag: str) -> list[tuple[int, float]]:
        points = self.get("data/plugin/scalars/scalars", run=run, tag=tag)
        return [(step, value) for _, step, value in points]


def test_all_runs_of_a_problem_overlay(board: Board) -> None:
    tags = board.get("data/plugin/scalars/tags")
    lines = sorted(run for run in tags if "/references/" in run)
    assert [line.rpartition("/")[2] for line in lines] == list(REFERENCES)
    for name in CHARTS:
        for run in (*RUNS, *lines):
            assert f"validation/{name}" in tags[run], run
    for run in RUNS:  # no more than the curves of a training and where it ended
        parts = {tag.partition("/")[0] for tag in tags[run]}
        assert parts <= {"rollout", "time", "train", "validation", "eval", "hparam"}


def test_curves_run_beside_level_lines(board: Board, log_dir: Path) -> None:
    curve = board.curve(RUNS[1], "validation/return")
    assert len(curve) > 3
    kept = (log_dir / RUNS[1] / "metrics.jsonl").read_text().splitlines()
    recorded = [json.loads(line) for line in kept]
    assert curve == [
        (line["step"], pytest.approx(line["validation/return"], rel=1e-6))
        for line in recorded
        if "validation/return" in line
    ]
    (folder,) = (log_dir / "digits" / "references").iterdir()
    for name in REFERENCES:
        run = f"digits/references/{folder.name}/{name}"
        start, end = board.curve(run, "validation/return")
        assert (start[0], end[0]) == (0, TIMESTEPS)
        assert start[1] == end[1]
    computes = [
        board.curve(f"digits/references/{folder.name}/{name}", "validation/compute")
        for name in ("nop", "max-prob", "always")
    ]
    assert [points[0][1] for points in computes] == sorted(
        points[0][1] for points in computes
    )


def test_charts_of_return_accuracy_and_compute(board: Board) -> None:
    (category,) = board.get("data/plugin/custom_scalars/layout")["category"]
    assert category["title"] == "validation"
    charts = {chart["title"]: chart["multiline"]["tag"] for chart in category["chart"]}
    assert charts == {name: [f"validation/{name}"] for name in CHARTS}


def test_hparams_have_the_final_metrics(board: Board, log_dir: Path) -> None:
    table = board.post("data/plugin/hparams/experiment", {})
    columns = {info["name"] for info in table["hparamInfos"]}
    assert columns >= {
        "algo",
        "penalty",
        "n_epochs",
        "temperature_start",
        "buffer_size",
    }
    request = {
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_RUNNING"],
        "colParams": [{"metric": {"group": "", "tag": "hparam/return"}}],
        "startIndex": 0,
        "sliceSize": 100,
    }
    sessions = board.post("data/plugin/hparams/session_groups", request)
    found = {
        group["hparams"]["algo"]: {
            metric["name"]["tag"]: metric["value"] for metric in group["metricValues"]
        }
        for group in sessions["sessionGroups"]
    }
    assert set(found) == {"a2c", "policy-gradient"}
    for run in RUNS:
        row = json.loads((log_dir / run / "results.json").read_text())["policies"][0]
        for name in CHARTS:
            value = found[row["policy"]][f"hparam/{name}"]
            assert value == pytest.approx(row[name], rel=1e-6)


@pytest.mark.parametrize(
    ("run", "tags"),
    [
        (
            RUNS[0],
            {
                "eval/frontier",
                *(f"{k}/{i}" for k in ("easiest", "hardest") for i in (0, 1)),
            },
        ),
        ("digits/evaluation/0", {"frontier"}),
    ],
)
def test_pictures(run: str, tags: set[str], board: Board) -> None:
    assert set(board.get("data/plugin/images/tags")[run]) == tags
    for tag in tags:
        (entry,) = board.get("data/plugin/images/images", run=run, tag=tag, sample="0")
        picture = board.read(f"data/plugin/images/individualImage?{entry['query']}")
        assert picture.startswith(b"\x89PNG")


def test_frontiers_are_curves_of_compute(board: Board) -> None:
    run = "digits/evaluation/0/max-prob"
    curve = board.curve(run, "frontier/accuracy")
    steps = [step for step, _ in curve]
    assert len(steps) > 10
    assert steps == sorted(steps)
    assert steps[-1] == pytest.approx(100, abs=5)  # *always*, on another split
    assert curve[-1][1] > curve[0][1]
