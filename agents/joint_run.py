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
from agents.environments import build_environments
from agents.options import Options, options_dict
from agents.registry import make_agent
from agents.saving import load_config, save_agent
from dynalay_gym.cotraining.env_wrapper import CoTrainingEnv
from dynalay_gym.cotraining.trainer import CoTrainer
from dynalay_gym.cotraining.warm_up import (
    OnStep,
    accuracy_metrics,
    check_environment,
    load_splits,
    measure_again,
    shipped_network,
    warm_up,
)
from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import CheckpointError, ConfigError
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.networks.checkpoint import load_tensors, save_tensors
from dynalay_gym.utils.io import make_run_dir, plain, write_json
from dynalay_gym.utils.metrics import MetricWriter
from dynalay_gym.utils.optimizer_state import strip_prefix

# Options that may differ when a run is resumed: where things are, and what runs them.
_FREE = ("num_threads", "data_dir", "download", "log_dir", "resume", "warm_up_from")


class JointRun:
    """One co-training; building it checks everything and prepares its folder.

    Attributes:
        folder: The run's folder.
        envs: The same problem over all splits; ``train`` is the co-training one.
        agent: The agent.
        trainer: The main network's side; None in a frozen run.
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
        self.folder, self.splits = prepare(options, config, on_step)
        self.start = int(read_settings(self.folder)["start"])
        steps = options.total_timesteps
        self.total = self.start + (config.total_timesteps if steps is None else steps)
        self._first_network = self.folder / "warm-up" / "main"
        envs = build_environments(
            replace(options, checkpoint=self._first_network), config
        )
        self.trainer = self._make_trainer(envs.train)
        self.train_envs = CoTrainingEnv(
            envs.train,
            self.trainer,
            every=options.co.every or config.steps_per_turn,
            start=self.start,
            total=self.total,
            followers=[] if envs.baseline is None else [envs.baseline],
        )
        self.envs = replace(envs, train=self.train_envs)
        self.agent: Any = make_agent(
            self.train_envs, config, seed=options.seed, baseline_envs=envs.baseline
        )
        assert isinstance(self.agent, Resumable), "every algorithm's agent is"
        if self.start == 0 and (self.folder / "warm-up" / "agent").is_dir():
            self._load_agent(self.folder / "warm-up" / "agent")
        self.train_envs.policy = self.agent.policy
        self.best, self.best_step, self.taken = float("-inf"), 0, 0
        if (self.folder / "resume").is_dir():
            self._load()

    def learn(
        self, writer: MetricWriter | None, on_progress: Callable[[int, str], None]
    ) -> None:
        """Train to the end, or on from where the folder stands.

        Args:
            writer: Where both learners' metrics go.
            on_progress: Called after every rollout: decisions so far, and how the run
                stands in a few words.
        """
        words, times = "", self.options.co.validations

        def follow(taken: int) -> None:
            nonlocal words
            before, self.taken = self.taken, max(taken, self.taken)
            if taken <= before:  # a resumed run reports where it starts
                return
            if before < self.start <= taken:
                self._save_agent(self.folder / "warm-up" / "agent")
            if times * taken // self.total > times * before // self.total:
                words = self._validate(writer)
                self._save()
            on_progress(taken, words)

        if writer is not None:
            self.train_envs.on_turn = writer.scalars
        if self.taken < self.total:
            self.agent.learn(self.total, writer=writer, on_progress=follow)
        self._save_agent(self.folder / "agent")

    def take_best(self) -> None:
        """Give agent and environments the weights of the best pair.

        Cost unit and penalty of `envs` stay those of the run.
        """
        self._load_agent(self.folder / "best" / "agent")
        weights = load_tensors(self.folder / "best" / "main")[0]
        for envs in (self.envs.validation, self.envs.test):
            base: Any = envs.unwrapped
            base.load_weights(weights)

    def measure_best(self) -> dict[str, Any]:
        """Measure the best pair's network anew, beside it; see `measure_again`."""
        about = self._about() | {"step": self.best_step}
        return measure_again(self.folder / "best" / "main", self.splits, about)

    def _make_trainer(self, envs: Any) -> CoTrainer | None:
        if not self.options.co_train:
            return None
        return CoTrainer(
            envs.unwrapped.problem,
            self.splits["main"],
            self.options.co,
            seed=self.options.seed,
            augmented=not dataset_spec(self.options.dataset).embedded,
        )

    def _validate(self, writer: MetricWriter | None) -> str:
        """Evaluate on the validation split; keep the pair if it is the best so far."""
        envs: Any = self.envs.validation
        if self.trainer is not None:
            envs.unwrapped.load_weights(self.trainer.weights())
        result = evaluate(envs, self.agent.policy, penalty=self.envs.penalty)
        if result.mean_return > self.best:
            self.best, self.best_step = result.mean_return, self.taken
            self._save_agent(self.folder / "best" / "agent")
            self._save_network(self.folder / "best" / "main")
        if writer is not None:
            session, split = envs.unwrapped.problem.session, self.splits["validation"]
            metrics = accuracy_metrics(session, split) | result.scalars("validation")
            writer.scalars(metrics, self.taken)
        return f"validation return {result.mean_return:.3f}"

    def _about(self) -> dict[str, Any]:
        return {"dataset": self.options.dataset, "options": options_dict(self.options)}

    def _load_agent(self, folder: Path) -> None:
        self.agent.module.load_state_dict(load_tensors(folder)[0])

    def _save_agent(self, folder: Path) -> None:
        save_agent(folder, self.agent, self.train_envs, options_dict(self.options))

    def _save_network(self, folder: Path) -> None:
        """Write the network with the calibration of the run's start."""
        weights, meta = load_tensors(self._first_network)
        if self.trainer is not None:
            weights = self.trainer.weights()
        kept = {key: meta[key] for key in ("kind", "config", "calibrations")}
        save_tensors(folder, weights, kept | self._about() | {"step": self.taken})

    def _save(self) -> None:
        """Write all that a resumed run starts from, as one checkpoint."""
        train: Any = self.train_envs.unwrapped
        parts = {
            "rows": train.get_state() if train.is_seeded else {},  # exact steps none
            "agent": self.agent.training_state(),
            "main": {} if self.trainer is None else self.trainer.training_state(),
        }
        tensors = {f"{p}/{k}": v for p, part in parts.items() for k, v in part.items()}
        meta = {
            "kind": "co-training",
            "taken": self.taken,
            "decisions": self.train_envs.decisions,
            "best": self.best,
            "best_step": self.best_step,
        }
        save_tensors(self.folder / "resume", tensors, meta)

    def _load(self) -> None:
        """Continue from what `_save` wrote."""
        tensors, meta = load_tensors(
            self.folder / "resume", self.splits["main"].labels.device
        )
        if self.trainer is not None:
            self.trainer.load_training_state(strip_prefix("main/", tensors))
        self.train_envs.resume(int(meta["decisions"]))
        rows, seen = strip_prefix("rows/", tensors), (None, {})
        if rows:
            seen = self.train_envs.unwrapped.set_state(rows)  # type: ignore[attr-defined]
        self.agent.load_training_state(strip_prefix("agent/", tensors), *seen)
        self.taken, self.best_step = int(meta["taken"]), int(meta["best_step"])
        self.best = meta["best"]


def prepare(
    options: Options, config: AgentConfig, on_step: OnStep
) -> tuple[Path, dict[str, Split]]:
    """Make the folder of a new run, or take that of an old one, and load the data.

    Args:
        options: The command line.
        config: The agent's hyper-parameters.
        on_step: Called in the main network's warm-up: step, all steps, loss.

    Returns:
        Folder with ``config.json`` and ``warm-up/main``, and all splits by name.

    Raises:
        DynaLayError: For anything that cannot be used; nothing has been written then.
    """
    given = options_dict(options) | {"algo": config.algo}
    settings = {
        "options": {key: given[key] for key in given if key not in _FREE},
        "config": asdict(config),
        "co": asdict(options.co),
    }
    if options.resume is not None:
        _check_same(options.resume, plain(settings))
    splits = load_splits(
        options.dataset,
        options.device,
        data_dir=options.data_dir,
        download=options.download,
    )
    folder = options.resume
    if folder is None:
        warm_agent = _check_new(options, config, splits["main"])
        kind = "co" if options.co_train else "frozen"
        folder = make_run_dir(options.log_dir, options.dataset, f"{kind}-{config.algo}")
        start = 0 if warm_agent else options.co.agent_steps
        write_json(folder / "config.json", settings | {"start": start})
        if warm_agent is not None:
            save_tensors(folder / "warm-up" / "agent", *load_tensors(warm_agent))
    if not (folder / "warm-up" / "main" / "checkpoint.json").is_file():
        _prepare_network(options, splits, folder / "warm-up", on_step)
    return folder, splits


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what a run folder's ``config.json`` holds.

    Raises:
        CheckpointError: It is no folder of a co-training.
    """
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        sound = {"options", "config", "co", "start"} <= set(settings)
    except (OSError, ValueError):
        sound = False
    if not sound:
        raise CheckpointError(
            f"{folder} is no run folder of a co-training; give the one that "
            "train_agent.py --co-train printed"
        )
    return dict(settings)


def _check_same(folder: Path, settings: dict[str, Any]) -> None:
    """Raise ConfigError unless the folder's run had the same settings."""
    theirs = read_settings(folder)
    prefixes = {"options": "", "co": "co.", "config": f"{settings['options']['algo']}."}
    different = [
        f"--{prefix}{key.replace('_', '-')}"
        for part, prefix in prefixes.items()
        for key in settings[part] | theirs[part]
        if settings[part].get(key) != theirs[part].get(key)
    ]
    if different:
        raise ConfigError(
            f"{folder} belongs to a run with other options ({', '.join(different)}); "
            "resume with the same ones, or start anew without --resume"
        )


def _check_new(options: Options, config: AgentConfig, main: Split) -> Path | None:
    """Raise for what would stop a new run; return the agent to start from, if any."""
    check_environment(
        dataset=options.dataset,
        penalty=options.penalty,
        alpha=options.alpha,
        reward=options.reward,
        rtol=options.rtol,
        max_steps=options.max_steps,
    )
    if options.co_train:
        options.co.check_batch(len(main))
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
    build_environments(replace(options, checkpoint=source / "warm-up" / "main"), config)
    agent = source / "warm-up" / "agent"
    if not agent.is_dir():
        return None
    if load_config(agent) != config:
        raise ConfigError(
            f"the agent in {source} was warmed up with another algorithm or other "
            "hyper-parameters; give the same ones, or leave --warm-up-from out"
        )
    return agent


def _prepare_network(
    options: Options, splits: dict[str, Split], folder: Path, on_step: OnStep
) -> None:
    """Write the network that the run starts from."""
    source, epochs = options.checkpoint, options.co.main_epochs
    if options.warm_up_from is not None:
        source, epochs = options.warm_up_from / "warm-up" / "main", None
    if epochs is None:
        source = source or shipped_network(options.dataset)
        save_tensors(folder / "main", *load_tensors(source))
        return
    warm_up(
        folder,
        options.dataset,
        splits,
        epochs,
        seed=options.seed,
        precision=options.co.precision,
        on_step=on_step,
    )
