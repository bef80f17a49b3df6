"""Co-training from beginning to end: agent, main network, and one folder for both.

config.json             the options; --resume has to bring the same ones
warm-up/main            the main network at the start
warm-up/agent           the agent after its own warm-up
resume/                 both networks, both optimisers, random states, rows, schedule
best/main, best/agent   the pair with the best validation return
agent                   the agent at the end
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agents.base import Resumable
from agents.config import AgentConfig
from agents.environments import build_environments, env_arguments
from agents.options import Options, options_dict
from agents.registry import make_agent
from agents.saving import load_config, save_agent
from dynalay_gym.cotraining import main_training
from dynalay_gym.cotraining.env_wrapper import CoTrainingEnv
from dynalay_gym.cotraining.main_training import OnStep
from dynalay_gym.cotraining.trainer import CoTrainer
from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.data.splits import Split
from dynalay_gym.envs.config import SHIPPED, EnvConfig
from dynalay_gym.errors import CheckpointError, ConfigError
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.networks.checkpoint import load_tensors, save_tensors
from dynalay_gym.sessions.measure import state_accuracies
from dynalay_gym.utils.flags import flag
from dynalay_gym.utils.io import make_run_dir, plain, write_json
from dynalay_gym.utils.metrics import MetricWriter
from dynalay_gym.utils.training_state import strip_prefix

# Options that may differ when a run is resumed: where things are, and what runs them.
_FREE = ("num_threads", "data_dir", "download", "log_dir", "resume", "warm_up_from")
_PROGRESS = ("taken", "best", "best_step")  # numbers that a resumed run starts from


class JointRun:
    """One co-training; building it checks everything and prepares its folder.

    Attributes:
        folder: The run's folder.
        envs: The same problem over all splits; ``train`` is the co-training one.
        agent: The agent.
        trainer: The main network's side; it has no turns in a frozen run.
        start: Decisions of the agent's warm-up.
        total: All decisions of the run.
        taken: Decisions so far.
        best: Best validation return so far, reached after `best_step` decisions.

    Args:
        options: The command line.
        config: The agent's hyper-parameters.
        on_step: Called in the main network's warm-up: step, all steps, loss.

    Raises:
        DynaLayError: For anything that cannot be used; nothing is overwritten then.
    """

    def __init__(self, options: Options, config: AgentConfig, on_step: OnStep) -> None:
        self.options = options
        self.folder, self.splits = _prepare(options, config, on_step)
        self.start, steps = read_settings(self.folder)["start"], options.total_timesteps
        self.total = self.start + (config.total_timesteps if steps is None else steps)
        self.taken, self.best, self.best_step = 0, float("-inf"), 0
        first = replace(options, checkpoint=self.folder / "warm-up" / "main")
        envs = build_environments(first, config)
        base: Any = envs.train.unwrapped
        self.trainer = CoTrainer(
            base.problem,
            self.splits["main"],
            options.co,
            seed=options.seed,
            augmented=not dataset_spec(options.dataset).embedded,
        )
        self.train_envs = CoTrainingEnv(
            envs.train,
            self.trainer if options.co_train else None,
            every=options.co.every or config.steps_per_turn,
            start=self.start,
            total=self.total,
            followers=[] if envs.baseline is None else [envs.baseline],
        )
        self.envs = replace(envs, train=self.train_envs)
        self.agent: Any = make_agent(
            self.train_envs, config, seed=options.seed, baseline_envs=envs.baseline
        )
        if not isinstance(self.agent, Resumable):
            raise ConfigError(f"--algo {config.algo} is not Resumable: train it alone")
        if self.start == 0 and (self.folder / "warm-up" / "agent").is_dir():
            self._load_agent("warm-up/agent")
        self.train_envs.policy = self.agent.policy
        if (self.folder / "resume").is_dir():
            self._load()

    def learn(
        self, writer: MetricWriter | None, on_progress: Callable[[int, str], None]
    ) -> None:
        """Train to the end, from where the folder stands.

        Args:
            writer: Where both learners' metrics go.
            on_progress: Called after every rollout with the decisions so far and the
                latest validation in a few words.
        """
        words, times = "", self.options.co.validations

        def follow(taken: int) -> None:
            nonlocal words
            if taken <= self.taken:  # a resumed run reports where it starts
                return
            before, self.taken = self.taken, taken
            if before < self.start <= taken:
                self._save_agent("warm-up/agent")
            if times * taken // self.total > times * before // self.total:
                words = self._validate(writer)
                self._save()
            on_progress(taken, words)

        if writer is not None:
            self.train_envs.on_turn = writer.scalars
        if self.taken < self.total:
            self.agent.learn(self.total, writer=writer, on_progress=follow)
        self._save_agent("agent")

    def take_best(self) -> dict[str, Any]:
        """Give agent and environments the weights of the best pair, and measure it.

        Returns:
            What `main_training.remeasure` says of its network. Cost unit and penalty of
            `envs` stay those of the run.
        """
        self._load_agent("best/agent")
        folder = self.folder / "best" / "main"
        for envs in self.envs.splits.values():
            base: Any = envs.unwrapped
            base.load_weights(load_tensors(folder)[0])
        about = _about(self.options, self.best_step)
        return main_training.remeasure(folder, self.splits, about)

    def _validate(self, writer: MetricWriter | None) -> str:
        """Evaluate on the validation split; keep the pair if it is the best so far."""
        envs: Any = self.envs.validation
        envs.unwrapped.load_weights(self.trainer.weights())
        result = evaluate(envs, self.agent.policy, penalty=self.envs.penalty)
        if result.mean_return > self.best:
            self.best, self.best_step = result.mean_return, self.taken
            self._save_agent("best/agent")
            self._save_best_network()
        if writer is not None:
            session, split = envs.unwrapped.problem.session, self.splits["validation"]
            accuracies = state_accuracies(session, split).items()
            metrics = {f"main/accuracy/{name}": value for name, value in accuracies}
            writer.scalars(metrics | result.scalars("validation"), self.taken)
        return f"validation return {result.mean_return:.3f}"

    def _load_agent(self, name: str) -> None:
        self.agent.module.load_state_dict(load_tensors(self.folder / name)[0])

    def _save_agent(self, name: str) -> None:
        about = options_dict(self.options)
        save_agent(self.folder / name, self.agent, self.train_envs, about)

    def _save_best_network(self) -> None:
        """Write the network with the calibration of the run's start."""
        _, meta = load_tensors(self.folder / "warm-up" / "main")
        kept = {key: meta[key] for key in ("kind", "config", "calibrations")}
        kept |= _about(self.options, self.taken)
        save_tensors(self.folder / "best" / "main", self.trainer.weights(), kept)

    def _save(self) -> None:
        """Write all that a resumed run starts from, as one checkpoint."""
        train: Any = self.train_envs.unwrapped
        parts = {
            "rows": train.get_state() if train.is_seeded else {},  # exact steps none
            "agent": self.agent.training_state(),
            "main": self.trainer.training_state(),
        }
        tensors = {f"{p}/{k}": v for p, part in parts.items() for k, v in part.items()}
        assert self.taken == self.train_envs.decisions, "both count all rows' steps"
        meta = {name: getattr(self, name) for name in _PROGRESS}
        save_tensors(self.folder / "resume", tensors, {"kind": "co-training"} | meta)

    def _load(self) -> None:
        """Continue from what `_save` wrote."""
        device = self.splits["main"].labels.device
        tensors, meta = load_tensors(self.folder / "resume", device)
        self.trainer.load_training_state(strip_prefix("main/", tensors))
        for name in _PROGRESS:
            setattr(self, name, meta[name])
        self.train_envs.resume(self.taken)
        train: Any = self.train_envs.unwrapped
        rows = strip_prefix("rows/", tensors)
        shown = train.set_state(rows) if rows else (None, {})
        self.agent.load_training_state(strip_prefix("agent/", tensors), *shown)


def _about(options: Options, step: int) -> dict[str, Any]:
    """Return what a network's JSON says of the run that it comes from."""
    return {
        "dataset": options.dataset,
        "step": step,
        "options": options_dict(options),
    }


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what a run folder's ``config.json`` holds: ``options`` and ``start``.

    Raises:
        CheckpointError: It is no folder of a co-training.
    """
    try:
        settings = dict(json.loads((folder / "config.json").read_text("utf-8")))
    except (OSError, TypeError, ValueError):
        settings = {}
    if not {"options", "start"} <= set(settings):
        raise CheckpointError(
            f"{folder} is no run folder of a co-training; give the one that "
            "train_agent.py --co-train printed"
        )
    return settings


def _prepare(
    options: Options, config: AgentConfig, on_step: OnStep
) -> tuple[Path, dict[str, Split]]:
    """Make the folder of a new run, or take that of an old one, and load the data.

    Returns:
        Folder with ``config.json`` and ``warm-up/main``, and all splits by name.
    """
    settings = _settings(options, config)
    if options.resume is not None:
        _check_same(options.resume, settings)
    files = {"data_dir": options.data_dir, "download": options.download}
    splits = main_training.load_splits(options.dataset, options.device, **files)
    folder = options.resume
    if folder is None:
        options.co.check_batch(len(splits["main"]))
        network, agent = _check_start(options, config)
        kind = "co" if options.co_train else "frozen"
        folder = make_run_dir(options.log_dir, options.dataset, f"{kind}-{config.algo}")
        for name, source in (("main", network), ("agent", agent)):
            if source is not None:
                save_tensors(folder / "warm-up" / name, *load_tensors(source))
        start = options.co.agent_steps if agent is None else 0
        write_json(folder / "config.json", {"options": settings, "start": start})
    if not (folder / "warm-up" / "main" / "checkpoint.json").is_file():
        target = folder / "warm-up"
        how: Any = {"seed": options.seed, "on_step": on_step}
        main_training.train_network(target, options.dataset, splits, options.co, **how)
    return folder, splits


def _settings(options: Options, config: AgentConfig) -> dict[str, Any]:
    """Return all that a run's numbers depend on, by flag, as JSON has it."""
    values = options_dict(options) | {"algo": config.algo}
    settings = {key: value for key, value in values.items() if key not in _FREE}
    for group, nested in (("co", options.co), (config.algo, config)):
        settings |= {f"{group}.{key}": value for key, value in asdict(nested).items()}
    return {key: plain(value) for key, value in settings.items()}


def _check_same(folder: Path, settings: dict[str, Any]) -> None:
    """Raise ConfigError unless the folder's run had the same settings."""
    theirs = read_settings(folder)["options"]
    keys = settings | theirs
    different = [flag(key) for key in keys if settings.get(key) != theirs.get(key)]
    if different:
        raise ConfigError(
            f"{folder} belongs to a run with other options ({', '.join(different)}); "
            "resume with the same ones, or start anew without --resume"
        )


def _check_start(
    options: Options, config: AgentConfig
) -> tuple[Path | None, Path | None]:
    """Raise for what would stop a new run.

    Returns:
        Folders of the network and the agent to start from; None for a fresh one.
    """
    run = options.warm_up_from
    if run is None:
        if options.co.main_epochs is not None:
            EnvConfig(dataset=options.dataset, **env_arguments(options))
            return None, None
        build_environments(options, config)  # whatever does not fit shows here
        return options.checkpoint or SHIPPED / options.dataset, None
    theirs = read_settings(run)["options"]["dataset"]
    if theirs != options.dataset:
        raise ConfigError(
            f"{run} is a run on {theirs}, not on {options.dataset}; give one of this "
            "data set, or leave --warm-up-from out"
        )
    network, agent = run / "warm-up" / "main", run / "warm-up" / "agent"
    build_environments(replace(options, checkpoint=network), config)
    if not agent.is_dir():
        return network, None
    if load_config(agent) != config:
        raise ConfigError(
            f"the agent in {run} was warmed up with another algorithm or other "
            "hyper-parameters; give the same ones, or leave --warm-up-from out"
        )
    return network, agent
