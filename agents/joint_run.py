"""Co-training from beginning to end: agent, main network, and one folder for both.

config.json             the options; --resume has to bring the same ones
warm-up/main            the main network at the start
warm-up/agent           the agent after its own warm-up
resume/                 both networks, both optimisers, random states, rows, schedule
best/main, best/agent   the pair with the best validation return
agent                   the agent at the end
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from agents import saving
from agents.base import Resumable
from agents.config import AgentConfig
from agents.environments import build_environments, env_arguments
from agents.options import Options, options_dict
from agents.registry import make_agent
from agents.saving import load_config, load_weights
from agents.training_run import TrainingRun, run_settings
from dynalay_gym.cotraining import main_training, new_training
from dynalay_gym.cotraining.env_wrapper import CoTrainingEnv
from dynalay_gym.cotraining.main_training import OnStep
from dynalay_gym.cotraining.trainer import CoTrainer
from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.envs.config import SHIPPED, EnvConfig
from dynalay_gym.errors import CheckpointError, ConfigError
from dynalay_gym.evaluation.evaluate import EvaluationResult
from dynalay_gym.networks import checkpoint
from dynalay_gym.sessions.measure import state_accuracies
from dynalay_gym.storage import run_folder
from dynalay_gym.storage.io import make_run_dir
from dynalay_gym.storage.metrics import MetricWriter
from dynalay_gym.storage.saved_folder import copy_folder, is_saved
from dynalay_gym.storage.training_state import strip_prefix


class JointRun(TrainingRun):
    """One co-training; building it checks everything and prepares its folder.

    Attributes:
        envs: The same problem over all splits; ``train`` is the co-training one.
        trainer: The main network's side; it has no turns in a frozen run.
        start: Decisions of the agent's warm-up.

    Args:
        options: The command line.
        config: The agent's hyper-parameters.
        on_step: Called in the main network's warm-up: step, all steps, loss.

    Raises:
        DynaLayError: For anything that cannot be used; nothing is overwritten then.
    """

    def __init__(self, options: Options, config: AgentConfig, on_step: OnStep) -> None:
        super().__init__(options)
        self.validations = options.co.validations
        self._prepare(config, on_step)
        self.start, steps = read_start(self.folder)["start"], options.total_timesteps
        self.total = self.start + (config.total_timesteps if steps is None else steps)
        self.device = self.splits["main"].labels.device
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
        if self.start == 0 and is_saved(self.folder / "warm-up" / "agent"):
            self._load_agent("warm-up/agent")
        self.train_envs.policy = self.agent.policy
        if options.resume is not None:
            self._load()

    def learn(
        self, writer: MetricWriter | None, on_progress: Callable[[int, str], None]
    ) -> None:
        """Train both to the end; see `TrainingRun.learn`."""
        if writer is not None:
            self.train_envs.on_turn = writer.scalars
        super().learn(writer, on_progress)

    def catch_up(self) -> None:
        """Keep the agent when its own warm-up is over."""
        target = "warm-up/agent"
        if 0 < self.start <= self.taken and not is_saved(self.folder / target):
            self.save_agent(target)

    def validate(self, writer: MetricWriter | None) -> EvaluationResult:
        """Evaluate the agent on the network as it is now."""
        envs: Any = self.envs.validation.unwrapped
        envs.load_weights(self.trainer.weights())
        return super().validate(writer)

    def further_metrics(self) -> dict[str, float]:
        """Return the network's accuracy in every state."""
        envs: Any = self.envs.validation.unwrapped
        accuracies = state_accuracies(envs.problem.session, self.splits["validation"])
        return {f"main/accuracy/{name}": value for name, value in accuracies.items()}

    def keep_best(self) -> None:
        """Keep the pair; the network with the calibration of the run's start."""
        self.save_agent("best/agent")
        facts = checkpoint.load_network_facts(self.folder / "warm-up" / "main")
        checkpoint.save_weights(
            self.folder / "best" / "main",
            facts.config,
            self.trainer.weights(),
            _about(self.options, self.taken),
            facts.calibrations,
        )

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """Return what every run starts from, and the main network's side."""
        assert self.taken == self.train_envs.decisions, "both count all rows' steps"
        return super().state() | {"main": self.trainer.training_state()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        self.trainer.load_training_state(strip_prefix("main/", tensors))
        self.train_envs.resume(self.taken)
        super().load_state(tensors)

    @property
    def networks(self) -> list[nn.Module]:
        """All that is trained."""
        return [*super().networks, self.trainer.network]

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
            base.load_weights(checkpoint.load_network(folder)[0].state_dict())
        about = _about(self.options, self.best_step)
        return main_training.remeasure(folder, self.splits, about)

    def _load_agent(self, name: str) -> None:
        load_weights(self.folder / name, self.agent)

    def _prepare(self, config: AgentConfig, on_step: OnStep) -> None:
        """Make the folder of a new run, or take that of an old one, and load the data.

        Afterwards it has ``config.json`` and ``warm-up/main``.
        """
        options, settings = self.options, run_settings(self.options, config)
        if options.resume is not None:
            run_folder.check_same(options.resume, settings)
        files = {"data_dir": options.data_dir, "download": options.download}
        self.splits = new_training.load_splits(options.dataset, options.device, **files)
        if options.resume is None:
            options.co.check_batch(len(self.splits["main"]))
            network, agent = _check_start(options, config)
            kind = "co" if options.co_train else "frozen"
            name = f"{kind}-{config.algo}"
            self.folder = make_run_dir(options.log_dir, options.dataset, name)
            self.hold()
            start_from = self.folder / "warm-up"
            if network is not None:
                copy_folder(network, start_from / "main", checkpoint.KIND)
            if agent is not None:
                copy_folder(agent, start_from / "agent", saving.KIND)
            start = options.co.agent_steps if agent is None else 0
            run_folder.write_settings(self.folder, settings, start=start)
        else:
            self.folder = options.resume
            self.hold()
        target = self.folder / "warm-up"
        if not is_saved(target / "main"):
            how: Any = {"seed": options.seed, "on_step": on_step}
            with run_folder.resumable(self.folder):
                main_training.train_network(
                    target, options.dataset, self.splits, options.co, **how
                )


def _about(options: Options, step: int) -> dict[str, Any]:
    """Return what a network's JSON says of the run that it comes from."""
    return {
        "dataset": options.dataset,
        "step": step,
        "options": options_dict(options),
    }


def read_start(folder: Path) -> dict[str, Any]:
    """Return a co-training's settings and its ``start``; see `read_settings`.

    Raises:
        CheckpointError: It is no folder of a co-training.
    """
    settings = run_folder.read_settings(folder)
    start, options = settings.get("start"), settings["options"]
    if type(start) is not int or start < 0 or "dataset" not in options:
        raise CheckpointError(
            f"{folder} is no run folder of a co-training; give the one that "
            "train_agent.py --co-train printed"
        )
    return settings


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
        if options.checkpoint is not None:
            checkpoint.check_main_network(options.checkpoint)
        build_environments(options, config)  # whatever else does not fit shows here
        return options.checkpoint or SHIPPED / options.dataset, None
    theirs = read_start(run)["options"]["dataset"]
    if theirs != options.dataset:
        raise ConfigError(
            f"{run} is a run on {theirs}, not on {options.dataset}; give one of this "
            "data set, or leave --warm-up-from out"
        )
    network, agent = run / "warm-up" / "main", run / "warm-up" / "agent"
    build_environments(replace(options, checkpoint=network), config)
    if not is_saved(agent):
        return network, None
    if load_config(agent) != config:
        raise ConfigError(
            f"the agent in {run} was warmed up with another algorithm or other "
            "hyper-parameters; give the same ones, or leave --warm-up-from out"
        )
    return network, agent
