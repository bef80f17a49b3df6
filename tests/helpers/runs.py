"""A run folder as ``train_agent.py`` leaves it, of a tiny network and a fixed plan."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers.networks import make_vec, shared_split

from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.data.splits import Split
from dynalay_gym.evaluation.comparison import compare
from dynalay_gym.evaluation.evaluate import EvaluationResult
from dynalay_gym.evaluation.study import Study
from dynalay_gym.evaluation.tables import make_rows
from dynalay_gym.evaluation.walk import walk_full_plan
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.report.record import Viewer, make_record
from dynalay_gym.storage.io import write_json

PENALTY = 0.25
POLICY = PlanPolicy((1, 2), name="mine")
OPTIONS = {"dataset": "digits", "seed": 3, "checkpoint": None, "penalty": None}


def tiny_record(
    split: Split | None = None,
) -> tuple[dict[str, Any], list[EvaluationResult]]:
    """What such a run keeps for its report, and its comparison."""
    split = shared_split() if split is None else split
    how: Any = {"split": split, "autoreset_mode": "Disabled", "penalty": PENALTY}
    envs = make_vec(8, **how)
    results = compare(POLICY, envs, envs, PENALTY)
    walk, study = walk_full_plan(envs, PENALTY), Study()
    study.add_cascades({"validation": walk, "test": walk})
    study.add("mine", "0.25", results[0])
    viewer = Viewer(
        envs=make_vec(1, **how),
        policy=POLICY,
        penalty=PENALTY,
        split=split,
        spec=dataset_spec("digits"),
    )
    return make_record(results, walk, study, viewer), results


def write_run(folder: Path, split: Split | None = None) -> Path:
    """Write the files that a report reads; return the folder."""
    record, results = tiny_record(split)
    folder.mkdir(parents=True)
    write_json(folder / "report.json", record)
    about = {
        "command": "python train_agent.py",
        "options": OPTIONS,
        "config": {"hidden": [64, 64]},
        "split": "test",
        "num_samples": 24,
        "penalty": PENALTY,
        "timesteps": 2048,
        "environment": {"commit": "c0ffee", "packages": {"numpy": "2", "numba": None}},
        "returns": {"agent": 0.5, "validation": 0.25, "test": 0.125},
        "policies": make_rows(results, np.arange(24)),
    }
    write_json(folder / "results.json", about)
    lines = (
        {"step": step, "time": 1.0, "validation/return": step / 8, "train/loss": 1.0}
        for step in (1, 2)
    )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def edit_json(path: Path, **fields: Any) -> None:
    """Change fields of a JSON object in a file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def with_difficulty() -> Split:
    """The tiny network's samples, the later the harder."""
    split = shared_split()
    return Split(
        inputs=split.inputs, labels=split.labels, difficulty=torch.arange(len(split))
    )
