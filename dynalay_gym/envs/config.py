"""From keyword arguments to a decision problem: data, network, reward, cost unit."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.data.splits import Split, device_for, load_split
from dynalay_gym.envs.observation import episode_width
from dynalay_gym.envs.process import DecisionProblem
from dynalay_gym.envs.reward import make_reward
from dynalay_gym.errors import (
    CheckpointError,
    ConfigError,
    UnknownArgumentError,
    brief,
)
from dynalay_gym.networks.checkpoint import Network, load_network
from dynalay_gym.networks.wrapped.network import WrappedNetwork
from dynalay_gym.sessions.calibration import Calibration, calibrate, find_calibration
from dynalay_gym.sessions.checks import check_fit
from dynalay_gym.sessions.fastest import Runnable, as_session
from dynalay_gym.sessions.protocol import Inspectable, NetworkSession, begin_macs
from dynalay_gym.sessions.states import default_decisions
from dynalay_gym.sessions.table_cache import get_table
from dynalay_gym.sessions.transition_table import finite
from dynalay_gym.utils.device import resolve_device, torch_defaults
from dynalay_gym.utils.finite import broken_part
from dynalay_gym.utils.ranges import (
    Iterations,
    NotNegative,
    PenaltyUnit,
    Portion,
    Tolerance,
    check_fields,
)

_MOST_PENALTY = 1e9  # far beyond any that pays; float32 still squares it
SHIPPED = Path(__file__).parent.parent / "checkpoints"


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """Arguments shared by the single and the batched environment.

    Attributes:
        dataset: Name of the data set.
        checkpoint: Folder of a network, a `MainNetwork`, a `ResidualNetwork`, a
            `GatedNetwork`, a `WrappedNetwork`, any `NetworkSession` (of your own module
            by `wrap`), or None for the network that ships with the package.
        split: ``main``, ``agent``, ``validation``, ``test``, or a `Split` of one's own
            tensors.
        data_dir: Folder of the data files; see `load_split`.
        download: Whether missing data may be downloaded.
        penalty: Weight beta of compute, at least 0: a number, a range ``"low:high"``
            of which each episode draws one, evenly in the logarithm, or None for the
            network's break-even.
        penalty_unit: Penalty that observations show as 1/2, above 0.
        alpha: Weight of a right answer, at least 0.
        reward: Name of the reward; the network's own if None (``paper``, or
            ``three-term`` where blocks are skipped).
        max_decisions: Most decisions of an episode, at least 1; as many as *always*
            takes, and one to stop, if None.
        rtol: Relative tolerance of a solve; the network's own if None.
        max_steps: Most iterations of a solve; the network's own if None.
        iterations_per_action: Iterations that an action adds to its layer's solve, at
            least 1; None iterates to the fixed point.
        recall: Whether the answer is that of the most confident state that was visited,
            in place of the last one's.
        observation: ``flat``, or ``dict`` to add the raw activations.
        transitions: ``live`` runs the network, ``table`` looks its states up.
        device: ``auto`` (see `device_for`), ``cpu``, ``cuda``, ...
    """

    dataset: str = "digits"
    checkpoint: str | Path | Runnable | None = None
    split: str | Split = "agent"
    data_dir: str | Path | None = None
    download: bool = True
    penalty: float | str | None = None
    penalty_unit: PenaltyUnit = 1.0
    alpha: NotNegative = 0.5
    reward: str | None = None
    max_decisions: Portion | None = None
    rtol: Tolerance | None = None
    max_steps: Iterations | None = None
    iterations_per_action: Portion | None = None
    recall: bool = False
    observation: Literal["flat", "dict"] = "flat"
    transitions: Literal["live", "table"] = "live"
    device: str | torch.device = "auto"

    @classmethod
    def from_kwargs(cls, kwargs: dict[str, Any]) -> "EnvConfig":
        """Build from keywords; an unknown one is an error that names the known."""
        known = [field.name for field in fields(cls)]
        unknown = ", ".join(map(repr, sorted(set(kwargs) - set(known))))
        if unknown:  # TorchRL's GymEnv looks for these words
            raise UnknownArgumentError(
                f"unexpected keyword argument {unknown}; known: {known}"
            )
        return cls(**kwargs)

    def __post_init__(self) -> None:
        """Check everything that needs no file."""
        check_fields(self, leave_out="checkpoint split data_dir penalty device")
        dataset_spec(self.dataset)
        make_reward(self.reward or "paper", self.alpha)
        resolve_device(self.device)
        if not isinstance(self.data_dir, str | os.PathLike | None):
            raise ConfigError(f"data_dir must be a folder, not {self.data_dir!r}")
        if self.transitions == "table" and self.observation == "dict":
            raise ConfigError(
                'a table has no raw maps; use observation="flat" or transitions="live"'
            )
        if self.penalty is not None:
            parse_penalty(self.penalty)


def parse_penalty(penalty: float | str) -> tuple[float, float]:
    """Read a penalty: a number, or a range ``"low:high"``.

    Returns:
        Lowest and highest penalty.

    Raises:
        ConfigError: It is no number, negative, infinite, or the range is empty.
    """
    try:
        numbers = [float(part) for part in str(penalty).split(":")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise ConfigError(
            f"penalty must be a number or a range low:high, not {brief(penalty)}"
        )
    low, high = numbers[0], numbers[-1]
    if not 0 <= low <= high <= _MOST_PENALTY:
        raise ConfigError(
            f"penalty must be finite, from 0 to {_MOST_PENALTY:g}, and low <= high: "
            f"{brief(penalty)}"
        )
    return low, high


@torch_defaults()
def make_problem(config: EnvConfig) -> DecisionProblem:
    """Load data and network and settle cost unit and penalty.

    Raises:
        DynaLayError: For any bad argument, missing data or checkpoint.
    """
    session, calibrations = _session(config)
    split = _split(config, config.split, session.device)
    check_fit(session, split)
    if config.observation == "dict" and not isinstance(session, Inspectable):
        raise ConfigError(
            f"{type(session).__name__} shows no raw activations (Inspectable); use "
            'observation="flat"'
        )
    table = None
    if config.transitions == "table":
        states = finite(session, "a transition table")
        padding = episode_width(len(session.action_names))
        table = get_table(states, split.inputs, split.labels, padding)
    calibration = _calibration(config, session, split, calibrations)
    penalty = config.penalty
    if penalty is None:
        penalty = calibration.break_even(config.alpha)
    reward = config.reward or str(getattr(session, "default_reward", "paper"))
    problem = DecisionProblem(
        session=session,
        inputs=split.inputs.contiguous(),
        labels=split.labels,
        reward=make_reward(reward, config.alpha),
        max_decisions=config.max_decisions or default_decisions(session),
        penalty_range=parse_penalty(penalty),
        cost_unit=calibration.cost_unit,
        alpha=config.alpha,
        split=split.name,
        table=table,
        difficulty=split.difficulty,
        penalty_unit=config.penalty_unit,
        recall=config.recall,
    )
    if config.recall and "max_prob" not in session.feature_layout:
        raise ConfigError(
            f"recall reads the feature 'max_prob', which {type(session).__name__} does "
            "not have; leave it out"
        )
    if problem.reward.uses_iterated and "iterated" not in session.feature_layout:
        raise ConfigError(
            f"the reward {reward!r} reads the feature 'iterated', which "
            f"{type(session).__name__} does not have; choose another reward"
        )
    return problem


def _calibration(
    config: EnvConfig,
    session: NetworkSession,
    split: Split,
    calibrations: tuple[dict[str, Any], ...],
) -> Calibration:
    """Return the stored calibration, or measure it on the agent split."""
    stored = find_calibration(calibrations, getattr(session, "options", {}))
    if stored is not None:
        return stored
    is_agent = isinstance(config.split, Split) or config.split == "agent"
    agent = split if is_agent else _split(config, "agent", session.device)
    return calibrate(session, agent)


def _session(
    config: EnvConfig,
) -> tuple[NetworkSession, tuple[dict[str, Any], ...]]:
    """Return the network and the calibrations that are stored beside it."""
    given = config.checkpoint
    options = config.rtol, config.max_steps, config.iterations_per_action
    if isinstance(given, Network | WrappedNetwork):
        calibrations: tuple[dict[str, Any], ...] = ()
        network: Network | WrappedNetwork = given.to(network_device(config))
    elif given is None or isinstance(given, str | Path):
        folder = SHIPPED / config.dataset if given is None else Path(given)
        if given is None and not folder.is_dir():
            raise CheckpointError(
                f"no network for {config.dataset} ships with the package; train one "
                f"with `python train_main.py --dataset {config.dataset}` and give its "
                "folder as checkpoint= (--checkpoint)"
            )
        network, facts = load_network(folder, network_device(config))
        calibrations = facts.calibrations
    else:
        return as_session(given, *options), ()
    # Buffers of somebody's network may well hold a mask of -inf.
    is_wrapped = isinstance(network, WrappedNetwork)
    named = network.named_parameters() if is_wrapped else network.state_dict().items()
    if broken_part(dict(named)) is not None:
        raise CheckpointError(
            "the network has NaN or infinite weights (its training diverged); "
            "give an earlier checkpoint, or train it again at a lower learning rate"
        )
    return as_session(network, *options), calibrations


def network_device(config: EnvConfig) -> torch.device:
    """Return where a network goes; of samples of one's own, nobody knows how many."""
    if isinstance(config.split, Split):
        return resolve_device(config.device)
    return device_for(config.dataset, config.device)


def _split(config: EnvConfig, split: str | Split, device: torch.device) -> Split:
    if isinstance(split, Split):
        return split.to(device)
    return load_split(
        config.dataset,
        split,
        data_dir=config.data_dir,
        download=config.download,
        device=device,
    )


class EnvProperties:
    """What a policy, a baseline or a report may know of an environment.

    Attributes:
        nop_action: The action that stops and answers.
        penalty_scale: Factor of the penalties that episodes draw, at least 0. Set it to
            change the episodes that begin from then on (a warm-up); they show the
            product. A penalty in reset's options is taken as it is.
    """

    nop_action = 0
    penalty_scale = 1.0

    @property
    def problem(self) -> DecisionProblem:
        """What is decided on."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Device of the network and of ``torch`` output."""
        return self.problem.session.device

    @property
    def observation_layout(self) -> dict[str, slice]:
        """Where each part of the flat observation lies."""
        return self.problem.observation_layout

    @property
    def action_names(self) -> tuple[str, ...]:
        """Name of each action."""
        return self.problem.session.action_names

    @property
    def num_actions(self) -> int:
        """Actions A."""
        return self.problem.num_actions

    @property
    def full_plan(self) -> tuple[int, ...]:
        """Actions that *always* takes, each repeated while it is useful."""
        return self.problem.session.full_plan

    @property
    def num_classes(self) -> int:
        """Classes K."""
        return self.problem.session.num_classes

    @property
    def num_samples(self) -> int:
        """Samples of the split."""
        return len(self.problem.labels)

    @property
    def max_decisions(self) -> int:
        """Most decisions of an episode."""
        return self.problem.max_decisions

    @property
    def penalty_range(self) -> tuple[float, float]:
        """Lowest and highest penalty."""
        return self.problem.penalty_range

    @property
    def plain_macs(self) -> int:
        """Mean multiply-adds of the plain pass over the split, rounded."""
        problem = self.problem
        return round(float(begin_macs(problem.session, problem.inputs).mean()))

    @property
    def always_extra_macs(self) -> float:
        """Mean extra multiply-adds of *always* on the agent split: the unit of cost."""
        return self.problem.cost_unit

    @property
    def alpha(self) -> float:
        """Weight of a right answer."""
        return self.problem.alpha

    @property
    def split(self) -> str:
        """Name of the split."""
        return self.problem.split
