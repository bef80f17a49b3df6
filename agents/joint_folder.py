"""The run folder of a co-training: what it starts from, and whether it may go on.

config.json       the options; --resume has to bring the same ones
warm-up/main      the main network at the start
warm-up/agent     the agent after its own warm-up
resume/           both networks, both optimisers, random states, rows, schedule
best/main, best/agent   the pair with the best validation return
agent             the agent at the end
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agents.config import AgentConfig
from agents.environments import build_environments
from agents.options import Options, options_dict
from agents.saving import load_config
from dynalay_gym.cotraining.network import Data, check_environment, warm_up
from dynalay_gym.cotraining.trainer import check_batch
from dynalay_gym.errors import CheckpointError, ConfigError
from dynalay_gym.networks.checkpoint import load_tensors, save_tensors
from dynalay_gym.utils.io import make_run_dir, write_json

OnStep = Callable[[int, int, float], None]
# What may differ when a run goes on: where things are, and what runs them.
_PLACES = ("num_threads", "data_dir", "download", "log_dir", "resume", "warm_up_from")
_HEAD = ("format", "weights", "sha256")  # of a checkpoint's JSON: its own, not a copy's


def prepare(
    options: Options, settings: dict[str, Any], data: Data, on_step: OnStep
) -> Path:
    """Make the folder of a new run, or take that of an old one.

    Args:
        options: The command line.
        settings: From ``check_settings``.
        data: The data set.
        on_step: Called in the main network's warm-up: step, all steps, loss.

    Returns:
        Folder with ``config.json`` and ``warm-up/main``.

    Raises:
        DynaLayError: For anything that cannot be used; nothing has been written then.
    """
    folder = options.resume
    if folder is None:
        config = options.config(options.algo or "ppo")
        agent = _check_new(options, config, data)
        algo = options.algo or "ppo"
        kind = "co" if options.co_train else "frozen"
        folder = make_run_dir(options.log_dir, options.dataset, f"{kind}-{algo}")
        start = 0 if agent else options.co.agent_steps
        write_json(folder / "config.json", settings | {"start": start})
        if agent is not None:
            _copy(agent, folder / "warm-up" / "agent")
    if not (folder / "warm-up" / "main" / "checkpoint.json").is_file():
        _prepare_network(options, data, folder / "warm-up", on_step)
    return folder


def check_settings(
    options: Options, config: AgentConfig, num_processes: int
) -> dict[str, Any]:
    """Return everything that a run's numbers depend on, as JSON gives it back.

    Raises:
        DynaLayError: A run that is to be resumed had other settings.
    """
    every = options_dict(options) | {"algo": options.algo or "ppo"}
    settings = {
        "options": {key: every[key] for key in every if key not in _PLACES},
        "config": asdict(config),
        "co": asdict(options.co),
        "processes": num_processes,
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    if options.resume is not None:
        _compare(options.resume, plain)
    return plain


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what a run folder's ``config.json`` holds.

    Raises:
        CheckpointError: It is no folder of a co-training.
    """
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        sound = {"options", "config", "co", "processes", "start"} <= set(settings)
    except (OSError, ValueError):
        sound = False
    if not sound:
        raise CheckpointError(
            f"{folder} is no run folder of a co-training; give the one that "
            "train_agent.py --co-train printed"
        )
    return dict(settings)


def _compare(folder: Path, settings: dict[str, Any]) -> None:
    """Raise unless the folder's run had the same settings."""
    theirs = read_settings(folder)
    if settings["processes"] != theirs["processes"]:
        raise ConfigError(
            f"{folder} was begun with {theirs['processes']} processes, not with "
            f"{settings['processes']}; start as many"
        )
    parts = {"options": "", "co": "co.", "config": f"{settings['options']['algo']}."}
    different = [
        f"--{prefix}{key.replace('_', '-')}"
        for part, prefix in parts.items()
        for key in {**settings[part], **theirs[part]}
        if settings[part].get(key) != theirs[part].get(key)
    ]
    if different:
        raise ConfigError(
            f"{folder} belongs to a run with other options ({', '.join(different)}); "
            "resume with the same ones, or start anew without --resume"
        )


def _check_new(options: Options, config: AgentConfig, data: Data) -> Path | None:
    """Raise for what would stop a new run; the agent to start from, if there is one."""
    check_environment(
        dataset=options.dataset,
        penalty=options.penalty,
        alpha=options.alpha,
        reward=options.reward,
        rtol=options.rtol,
        max_steps=options.max_steps,
    )
    if options.co_train:
        check_batch(options.co, data.splits["main"])
    source = options.warm_up_from
    if source is None:
        if options.co.main_epochs is None:
            build_environments(options, config)  # whatever does not fit shows here
        return None
    theirs = read_settings(source)["options"]["dataset"]
    if theirs != options.dataset:
        raise ConfigError(
            f"{source} is a run on {theirs}, not on {options.dataset}; give one of "
            "this data set, or leave --warm-up-from out"
        )
    network, agent = source / "warm-up" / "main", source / "warm-up" / "agent"
    build_environments(replace(options, checkpoint=network), config)
    if not agent.is_dir():
        return None
    if load_config(agent) != config:
        raise ConfigError(
            f"the agent in {source} was warmed up with another algorithm or other "
            "hyper-parameters; give the same ones, or leave --warm-up-from out"
        )
    return agent


def _prepare_network(
    options: Options, data: Data, folder: Path, on_step: OnStep
) -> None:
    """Write the network that the run starts from."""
    if options.warm_up_from is not None:
        _copy(options.warm_up_from / "warm-up" / "main", folder / "main")
    elif options.co.main_epochs is not None:
        warm_up(
            data,
            options.co.main_epochs,
            seed=options.seed,
            precision=options.co.precision,
            folder=folder,
            on_step=on_step,
        )
    else:
        _copy(data.network_folder(options.checkpoint), folder / "main")


def _copy(source: Path, target: Path) -> None:
    """Copy a checkpoint whole."""
    tensors, meta = load_tensors(source)
    save_tensors(target, tensors, {k: v for k, v in meta.items() if k not in _HEAD})
