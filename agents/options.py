"""Options of ``train_agent.py``: a dataclass without torch, so that help is instant."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from agents.config import AgentConfig
from agents.registry import DEFAULT_ALGO, config_classes
from dynalay_gym.cotraining.config import CoTrainingConfig
from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.errors import ConfigError
from dynalay_gym.storage.io import plain
from dynalay_gym.utils.ranges import (
    Iterations,
    NotNegative,
    PenaltyUnit,
    Portion,
    Rows,
    Seed,
    Threads,
    Timesteps,
    Tolerance,
    check_fields,
)


def default_configs() -> dict[str, AgentConfig]:
    """Return the default hyper-parameters of every algorithm by its name."""
    classes: dict[str, Any] = dict(config_classes())
    return {algo: config() for algo, config in classes.items()}


PENALTIES = 8  # of its range at which an agent is evaluated unless told otherwise
_ALGOS = ", ".join(config_classes())


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train an agent that decides, input by input, where a network spends compute."""

    algo: Annotated[
        str | None,
        arg(help=f"{_ALGOS}. Default: {DEFAULT_ALGO}, or that of --load."),
    ] = None
    dataset: str = "maze"
    """maze, maze-hopeless, chains, sudoku, sudoku6, sudoku9, digits, fashion-mnist,
    cifar10, cifar100, imdb or wikitext2."""
    penalty: str | None = None
    """Weight of compute in the reward: a number, or a range low:high of which every
    episode draws one and shows it to the agent. Default: the break-even that is
    stored with the main network."""
    penalty_unit: PenaltyUnit | None = None
    """Penalty that observations show as 1/2. For a range, one in its middle lets an
    agent tell its penalties apart; give the same one with --load. Default: 1."""
    total_timesteps: Timesteps | None = None
    """Decisions to train on; 0 only evaluates. Default: the algorithm's own."""
    num_envs: Rows | None = None
    """Inputs that are decided on side by side during training. Default: the
    algorithm's own."""
    seed: Seed = 0
    """Seeds weights, exploration and the order of inputs."""
    device: str = "auto"
    """auto, cpu or cuda. auto: a GPU if there is one, but for digits, mazes, chains and
    Sudokus, whose networks are so small that a GPU is slower, the CPU."""
    checkpoint: Path | None = None
    """Folder of the main network. Default: the one that ships with the package."""
    load: Path | None = None
    """Folder of a saved agent: go on training it, or only evaluate it."""
    num_threads: Threads = 1
    """Threads of torch: networks this small are slower with more."""
    log_dir: Path = Path("runs")
    """Where the run's folder is made."""
    data_dir: Path | None = None
    """Folder with the data sets' files."""
    download: bool = True
    """Download a data set that is missing."""
    rtol: Tolerance | None = None
    """Relative tolerance of the fixed-point solver. Default: the main network's."""
    max_steps: Iterations | None = None
    """Most iterations of a solve. Default: the main network's."""
    iterations_per_action: Portion | None = None
    """Iterations that an action adds to its layer's solve. Default: the data set's own
    (mazes 4, chains and Sudokus 1, others the whole solve)."""
    alpha: NotNegative = 0.5
    """Weight of a right answer in the reward."""
    reward: str | None = None
    """paper, three-term, log-score or blockdrop. Default: the environment's own."""
    recall: bool = False
    """Answer with the most confident state that was visited, not with the last one."""
    transitions: Literal["live", "table"] = "live"
    """live runs the network; table computes all its states once and looks them up:
    the same numbers, much faster. The test split is always evaluated live, timed.
    --algo exact always learns from the table."""
    keep_best: bool = False
    """Keep the weights with the best validation return of the training, not the last
    ones: early stopping, for agents that learn their inputs by heart."""
    co_train: bool = False
    """Train the main network too, between the agent's rollouts."""
    freeze_main: bool = False
    """The same run with the main network frozen, to compare with."""
    warm_up_from: Path | None = None
    """Run folder of an earlier co-training whose warm-up weights are used again."""
    resume: Path | None = None
    """Run folder to continue; give the same other options."""
    co: CoTrainingConfig = field(default_factory=CoTrainingConfig)
    configs: Annotated[dict[str, AgentConfig], arg(name="")] = field(
        default_factory=default_configs
    )
    """Hyper-parameters by algorithm: the flags ``--<algo>.<option>``."""

    @property
    def joint(self) -> bool:
        """Whether this is a co-training (or its frozen counterpart)."""
        return self.co_train or self.freeze_main

    def config(self, algo: str | None = None) -> AgentConfig:
        """Return the hyper-parameters of an algorithm, or of the chosen one."""
        return self.configs[algo or self.algo or DEFAULT_ALGO]

    def check(self) -> None:
        """Check all that can be checked without a look at any file.

        Raises:
            ConfigError: Options are out of range or contradict each other.
        """
        check_fields(self, "", leave_out="co configs")
        dataset_spec(self.dataset)
        if self.algo is not None and self.algo not in self.configs:
            raise ConfigError(
                f"unknown --algo {self.algo!r}; choose from {', '.join(self.configs)}"
            )
        self._check_used()
        if self.joint:
            self._check_joint()
            return
        if self.warm_up_from is not None:
            raise ConfigError("--warm-up-from needs --co-train (or --freeze-main)")
        if self.resume is not None and self.total_timesteps == 0:
            raise ConfigError("--total-timesteps 0 trains nothing to --resume")

    def _check_used(self) -> None:
        """Raise ConfigError for hyper-parameters that this run would not read."""
        if not self.joint and self.co != CoTrainingConfig():
            raise ConfigError("--co.* options need --co-train (or --freeze-main)")
        if self.load is not None:  # it brings its algorithm
            return
        own, defaults = self.algo or DEFAULT_ALGO, default_configs()
        for algo, config in self.configs.items():
            if algo != own and config != defaults[algo]:
                raise ConfigError(f"--{algo}.* options need --algo {algo}, not {own}")

    def _check_joint(self) -> None:
        """Raise ConfigError for options that make no co-training together."""
        mistakes = {
            "give --co-train or --freeze-main, not both": (
                self.co_train and self.freeze_main
            ),
            "--load holds no optimiser; use --warm-up-from instead": self.load,
            "--total-timesteps must be above 0 in a co-training": (
                self.total_timesteps == 0
            ),
            "a co-training always keeps its best pair; leave --keep-best out": (
                self.keep_best
            ),
            "--resume has its warm-up; leave --warm-up-from out": (
                self.resume and self.warm_up_from
            ),
            "a table would be computed anew after every turn of the main network; "
            "use --transitions live": (
                self.transitions == "table" and not self.config().needs_table
            ),
            "an untrained network has no break-even penalty; give --penalty": (
                self.co.main_epochs == 0 and self.penalty is None
            ),
            "--co.main-epochs trains a fresh network; leave --checkpoint out": (
                self.co.main_epochs is not None and self.checkpoint
            ),
        }
        for message, is_made in mistakes.items():
            if is_made:
                raise ConfigError(message)


def options_dict(options: Options) -> dict[str, Any]:
    """Return the run's options as JSON-able values, without the nested configs."""
    names = [f.name for f in fields(options) if f.name not in ("co", "configs")]
    return {name: plain(getattr(options, name)) for name in names}


def known_options() -> dict[str, Any]:
    """Return the defaults of all options of all algorithms, in one dictionary."""
    found = options_dict(Options())
    for config in default_configs().values():
        found |= asdict(config)
    return found
