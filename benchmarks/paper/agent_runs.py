"""Agents that several experiments look at: trained once for each seed and penalty.

Axes: n samples, A actions, P parts of a training.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv, VectorWrapper
from torch.nn import functional as F

from agents.environments import build_environments, make_envs
from agents.options import Options
from agents.registry import make_agent
from benchmarks.paper.experiment import Setting, shared_folder
from benchmarks.paper.networks import trained
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation.comparison import compare
from dynalay_gym.evaluation.evaluate import EvaluationResult, evaluate
from dynalay_gym.evaluation.intervals import bootstrap_interval
from dynalay_gym.networks.checkpoint import load_main_network
from dynalay_gym.networks.policy import as_numpy
from dynalay_gym.sessions.measure import export
from dynalay_gym.storage.io import locked, write_json
from dynalay_gym.storage.saved_folder import is_saved

_PARTS = 20  # of a training


class Diary(VectorWrapper):
    """Writes down what a learner does: actions and returns, by parts of its training.

    Args:
        env: Environment in SAME_STEP mode.
        total: Decisions of the training.
    """

    def __init__(self, env: VectorEnv, total: int) -> None:
        super().__init__(env)
        base: Any = env.unwrapped
        self._total, self._taken = total, 0
        self.actions = np.zeros((_PARTS, base.num_actions), dtype=np.int64)
        self.rewards, self.episodes = np.zeros(_PARTS), np.zeros(_PARTS, dtype=np.int64)

    def step(self, actions: Any) -> Any:
        """Step, and write down."""
        found = self.env.step(actions)
        part = min(_PARTS * self._taken // self._total, _PARTS - 1)
        np.add.at(self.actions[part], as_numpy(actions), 1)
        self.rewards[part] += as_numpy(found[1]).sum()
        ended = as_numpy(found[2]) | as_numpy(found[3])
        self.episodes[part] += ended.sum()
        self._taken += len(ended)
        return found

    def facts(self) -> dict[str, Any]:
        """Return shares of actions [P, A] and mean returns of episodes [P].

        A part in which nothing happened is what the one before it was.
        """
        shares, returns = [], []
        for k in range(_PARTS):
            if k == 0 or self.episodes[k] > 0:
                share = self.actions[k] / max(self.actions[k].sum(), 1)
                value = self.rewards[k] / max(self.episodes[k], 1)
            shares.append(share.tolist())
            returns.append(float(value))
        return {"shares": shares, "returns": returns}


def shared_network(setting: Setting, seed: int, shared: Path) -> Path:
    """Return the folder of the network of a seed, trained for all states if missing.

    Args:
        setting: Data and training.
        seed: Seed of the network.
        shared: Folder that the experiments share.
    """
    folder = shared / f"network-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, wait=True):
        if not is_saved(folder / "measured"):
            splits = setting.splits()
            found = trained(setting, splits["main"], None, seed, folder / "network")
            facts = {"dataset": setting.dataset, "steps": found.steps}
            export(folder / "measured", found.network, splits, facts)
    return folder / "measured"


def unit_run(
    setting: Setting, seed: int, folder: Path, scale: float = 1.0
) -> dict[str, Any]:
    """Return `agent_run` for a unit's own folder."""
    return agent_run(setting, seed, scale, shared_folder(setting, folder))


def agent_run(
    setting: Setting, seed: int, scale: float, shared: Path
) -> dict[str, Any]:
    """Return what a PPO agent did in training and on the test set; see `_run`.

    Args:
        setting: Data and training of the network.
        seed: Seed of network and agent.
        scale: Penalty, in break-evens of the network.
        shared: Folder that the experiments share.
    """
    network = shared_network(setting, seed, shared)
    folder = shared / f"agent-{seed}-penalty-{scale:g}"
    folder.mkdir(exist_ok=True)
    with locked(folder, wait=True):
        path = folder / "run.json"
        if not path.exists():
            write_json(path, _run(setting, seed, scale, network))
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def agent_penalty(setting: Setting, network: Path) -> float:
    """Return the break-even penalty of a data set's environment with a network.

    Raises:
        ConfigError: There is none, since iterating everything gains nothing.
    """
    how: Any = {"checkpoint": network, "data_dir": setting.data_dir}
    envs: Any = make_envs(Options(dataset=setting.dataset, **how), "test", None, 1)
    penalty: float = envs.unwrapped.penalty_range[0]
    if penalty <= 0:
        raise ConfigError(
            f"the network at {network} is no better with all layers iterated, so it "
            "has no break-even penalty; train it longer, or choose another data set"
        )
    return penalty


def _run(setting: Setting, seed: int, scale: float, network: Path) -> dict[str, Any]:
    """Train an agent on the table of a network's states, and evaluate it.

    Returns:
        ``penalty``; ``training``: see `Diary.facts`; ``validation``: accuracy and
        shares of actions; ``test``: see `_policy` of the agent, and of every reference
        policy by its name; ``samples``: see `_samples`.
    """
    options = Options(
        algo="ppo",
        dataset=setting.dataset,
        checkpoint=network,
        data_dir=setting.data_dir,
        seed=seed,
        transitions="table",
    )
    penalty = scale * agent_penalty(setting, network)
    options = replace(options, penalty=repr(penalty))
    config = options.config()
    envs = build_environments(options, config)
    decisions = setting.decisions or config.total_timesteps
    diary = Diary(envs.train, decisions)
    agent = make_agent(diary, config, seed=seed, baseline_envs=envs.baseline)
    agent.learn(decisions)
    results = compare(agent.policy, envs.test, envs.validation, envs.penalty, seed)
    validation = evaluate(envs.validation, agent.policy, penalty=envs.penalty)
    split = setting.splits()["test"]
    return {
        "penalty": envs.penalty,
        "training": diary.facts(),
        "validation": _policy(validation, None),
        "test": {each.policy: _policy(each, split) for each in results},
        "samples": _samples(results[0], split, network),
    }


def _policy(result: EvaluationResult, split: Split | None) -> dict[str, Any]:
    """Return accuracy, compute, return and shares of actions, with intervals."""
    found: dict[str, Any] = {
        "accuracy": 100 * result.accuracy,
        "compute": result.compute,
        "return": result.mean_return,
        "shares": result.action_shares.tolist(),
        "names": list(result.action_names),
    }
    if split is not None:
        groups = split.groups.numpy()
        found["extra"] = interval(result.macs / result.always_extra_macs, groups)
    return found


def interval(values: Any, groups: Any) -> dict[str, float]:
    """Return the mean and its 95 % interval over groups of samples."""
    low, high = bootstrap_interval(np.asarray(values, dtype=np.float64), groups)
    return {"mean": float(np.mean(values)), "low": low, "high": high}


@torch.no_grad()
def _samples(
    result: EvaluationResult, split: Split, network: Path
) -> dict[str, list[float]]:
    """Return what there is to know of every test sample, each [n].

    Returns:
        ``extra``: the agent's extra multiply-adds, in plain passes; ``entropy`` and
        ``loss`` of the plain pass; ``difficulty``, where the data have one.
    """
    loaded = load_main_network(network)[0].eval()
    logits = torch.cat([loaded(part) for part in split.inputs.split(500)])
    log_p = logits.log_softmax(1)
    found = {
        "extra": torch.from_numpy(result.macs / result.plain_macs),
        "entropy": -(log_p.exp() * log_p).sum(1),
        "loss": F.nll_loss(log_p, split.labels, reduction="none"),
    }
    if split.difficulty is not None:
        found["difficulty"] = split.difficulty
    return {name: values.double().tolist() for name, values in found.items()}
