"""One call from a policy of one's own to the table with all reference policies."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym

from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.data.splits import load_split
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation import comparison, figures, tables
from dynalay_gym.integrations.policies import as_policy
from dynalay_gym.storage.io import make_run_dir, write_json
from dynalay_gym.storage.metrics import MetricWriter, run_metadata

_ROWS = 256  # that are decided on side by side


@dataclass(frozen=True)
class Comparison:
    """Policies on the same samples; printed, it is a table.

    Attributes:
        title: On what they were compared.
        rows: One dictionary per policy, the compared one first; see `make_rows` in
            `dynalay_gym.evaluation.tables`.
        folder: Where it was written to; None if nowhere.
    """

    title: str
    rows: list[dict[str, Any]]
    folder: Path | None

    def __str__(self) -> str:
        return f"{self.title}\n\n{tables.format_table(self.rows)}"


def compare(
    policy: Any,
    dataset: str = "maze",
    *,
    name: str | None = None,
    log_dir: str | Path | None = None,
    seed: int = 0,
    **config: Any,
) -> Comparison:
    """Evaluate a policy beside every reference policy, on the whole test split.

    Args:
        policy: What `dynalay_gym.integrations.policies.as_policy` takes: a function of
            observations, a ``torch.nn.Module``, a model of Stable-Baselines3, ...
        dataset: Name of the data set.
        name: Label of the policy; that of its class or function if None.
        log_dir: Folder of runs, as that of ``train_agent.py``. The result goes to
            ``<log_dir>/<dataset>/<name>/<k>``, as ``results.json`` and for TensorBoard;
            None writes nothing.
        seed: Seed of the random policies.
        **config: Further arguments of the environment but its split; see `EnvConfig`.

    Raises:
        DynaLayError: An argument is wrong, or files are missing.
    """
    env_id, policy = dataset_spec(dataset).env_id, as_policy(policy, name)
    _check(policy.name, config)
    how: Any = {"autoreset_mode": "Disabled", "num_envs": _ROWS} | config
    test, validation = (
        gym.make_vec(env_id, split=split, **how) for split in ("test", "validation")
    )
    base: Any = test.unwrapped
    penalty = base.penalty_range[0]
    results = comparison.compare(policy, test, validation, penalty, seed)
    if policy.name in [result.policy for result in results[1:]]:
        raise ConfigError(f"{policy.name!r} is a reference policy; give another name=")
    files = {key: how[key] for key in ("data_dir", "download") if key in how}
    split = load_split(dataset, "test", **files)
    rows = tables.make_rows(results, split.groups.numpy())
    title = f"{dataset}, test split, penalty {penalty:.4g}, {len(split)} samples"
    if log_dir is None:
        return Comparison(title, rows, None)
    folder = make_run_dir(log_dir, dataset, policy.name)
    options = {"algo": policy.name, "dataset": dataset, "penalty": penalty}
    about = {"options": options, "split": "test", "environment": run_metadata()}
    write_json(folder / "results.json", about | {"policies": rows})
    with MetricWriter(folder) as writer:
        curves = {row["policy"]: [row] for row in rows}
        writer.figure("eval/frontier", figures.plot_frontier(curves, title), 0)
        writer.scalars(results[0].scalars("eval"), 0)
        writer.hparams(options, results[0].scalars("hparam"))
    return Comparison(title, rows, folder)


def _check(name: str, config: Mapping[str, Any]) -> None:
    """Raise ConfigError for a name that is no folder's, and for a split."""
    if not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", name):
        raise ConfigError(
            f"{name!r} names a folder: give a name= of letters, digits, ., +, - and _"
        )
    if "split" in config:
        raise ConfigError(
            "policies are compared on the test split, and those with a threshold tuned "
            "on the validation split; leave split out"
        )
