"""From keyword arguments to a decision problem: data, network, reward, cost unit."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.envs.dynamics import DecisionProblem
from dynalay_gym.envs.reward import make_reward
from dynalay_gym.envs.table_store import get_table
from dynalay_gym.errors import CheckpointError, ConfigError, DataError
from dynalay_gym.networks.checkpoint import load_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.sessions.accel.session import fastest_session
from dynalay_gym.sessions.calibration import calibrate, find_calibration

OBSERVATIONS = ("flat", "dict")
TRANSITIONS = ("live", "table")
SHIPPED = Path(__file__).parent.parent / "checkpoints"


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """Arguments shared by the single and the batched environment.

    Attributes:
        dataset: Name of the data set.
        checkpoint: Folder of a main network, a ``MainNetwork``, or None for
            the network that ships with the package.
        split: ``main``, ``agent``, ``validation``, ``test``, or a ``Split`` of one's
            own tensors.
        data_dir: Folder of the data files; see ``load_split``.
        download: Whether missing data may be downloaded.
        penalty: Weight beta of compute: a number, a range ``"low:high"`` (each episode
            draws one), or None for the network's break-even.
        alpha: Weight of a right answer.
        reward: Name of the reward.
        max_decisions: Most decisions of an episode; L + 1 if None.
        rtol: Relative tolerance of a solve; the network's own if None.
        max_steps: Most iterations of a solve; the network's own if None.
        observation: ``flat``, or ``dict`` to add the raw maps.
        transitions: ``live`` runs the network, ``table`` looks its states up.
        device: ``auto``, ``cpu``, ``cuda``, ...
    """

    dataset: str = "digits"
    checkpoint: str | Path | MainNetwork | None = None
    split: str | Split = "agent"
    data_dir: str | Path | None = None
    download: bool = True
    penalty: float | str | None = None
    alpha: float = 0.5
    reward: str = "paper"
    max_decisions: int | None = None
    rtol: float | None = None
    max_steps: int | None = None
    observation: str = "flat"
    transitions: str = "live"
    device: str = "auto"

    @classmethod
    def from_kwargs(cls, kwargs: dict[str, Any]) -> "EnvConfig":
        """Build from keywords; an unknown one is an error that names the known."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(kwargs) - set(known))
        if unknown:
            raise ConfigError(f"unknown arguments {unknown}; known: {known}")
        return cls(**kwargs)

    def __post_init__(self) -> None:
        """Check everything that needs no file."""
        dataset_spec(self.dataset)
        make_reward(self.reward, self.alpha)
        if self.observation not in OBSERVATIONS:
            raise ConfigError(
                f"unknown observation {self.observation!r}; choose one of "
                f"{OBSERVATIONS}"
            )
        if self.transitions not in TRANSITIONS:
            raise ConfigError(
                f"unknown transitions {self.transitions!r}; choose one of {TRANSITIONS}"
            )
        if self.transitions == "table" and self.observation == "dict":
            raise ConfigError(
                'a table has no raw maps; use observation="flat" or transitions="live"'
            )
        if self.max_decisions is not None and self.max_decisions < 1:
            raise ConfigError("max_decisions must be at least 1")
        if self.penalty is not None:
            parse_penalty(self.penalty)


def parse_penalty(penalty: float | str) -> tuple[float, float]:
    """Read a penalty: a number, or a range ``"low:high"``.

    Returns:
        Lowest and highest penalty.

    Raises:
        ConfigError: if it is no number, negative, infinite, or the range is empty.
    """
    try:
        numbers = [float(part) for part in str(penalty).split(":")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise ConfigError(
            f"penalty must be a number or a range low:high, not {penalty!r}"
        )
    low, high = numbers[0], numbers[-1]
    if not 0 <= low <= high < float("inf"):
        raise ConfigError(f"penalty must be finite, >= 0 and low <= high: {penalty!r}")
    return low, high


def resolve_device(device: str) -> torch.device:
    """Turn ``auto`` into the best device there is; an absent one is an error."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"unknown device {device!r}; try auto, cpu, cuda") from None
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r}: no CUDA GPU here; use auto or cpu")
    return resolved


def make_problem(config: EnvConfig) -> DecisionProblem:
    """Load data and network and settle cost unit and penalty.

    Raises:
        DynaLayError: for any bad argument, missing data or checkpoint.
    """
    device = resolve_device(config.device)
    model, meta = _network(config, device)
    session = fastest_session(model, config.rtol, config.max_steps)
    split = _split(config, config.split, device)
    _check_fit(model, split)
    table = None
    if config.transitions == "table":
        table = get_table(session, split.inputs, split.labels)
    calibration = find_calibration(meta, session.solver)
    if calibration is None:
        here = isinstance(config.split, Split) or config.split == "agent"
        agent = split if here else _split(config, "agent", device)
        states = table.states() if here and table is not None else None
        calibration = calibrate(session, agent, states)
    penalty = config.penalty
    if penalty is None:
        penalty = calibration.break_even(config.alpha)
    return DecisionProblem(
        session=session,
        inputs=split.inputs.contiguous(memory_format=torch.channels_last),
        labels=split.labels,
        reward=make_reward(config.reward, config.alpha),
        max_decisions=config.max_decisions or session.num_layers + 1,
        penalty_range=parse_penalty(penalty),
        cost_unit=calibration.always_extra_macs,
        alpha=config.alpha,
        split=split.name,
        table=table,
    )


def _network(
    config: EnvConfig, device: torch.device
) -> tuple[MainNetwork, dict[str, Any]]:
    if isinstance(config.checkpoint, MainNetwork):
        return config.checkpoint.to(device), {}
    if config.checkpoint is not None:
        return load_network(config.checkpoint, device)
    folder = SHIPPED / config.dataset
    if not folder.is_dir():
        raise CheckpointError(
            f"no network for {config.dataset} ships with the package; train one with "
            f"`python train_main.py --dataset {config.dataset}` and give its folder as "
            "checkpoint= (--checkpoint)"
        )
    return load_network(folder, device)


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


def _check_fit(model: MainNetwork, split: Split) -> None:
    expected, got = model.config.in_shape, tuple(split.inputs.shape[1:])
    if tuple(expected) != got:
        raise CheckpointError(
            f"the network takes images of shape {tuple(expected)}, the data has {got}; "
            "give a checkpoint that was trained on this data set"
        )
    if not bool(split.inputs.isfinite().all()):
        raise DataError(
            f"split {split.name!r} holds NaN or infinite pixels; mend or replace it"
        )
    if not all(bool(value.isfinite().all()) for value in model.state_dict().values()):
        raise CheckpointError(
            "the network has NaN or infinite weights (its training diverged); "
            "give an earlier checkpoint, or train it again at a lower learning rate"
        )
    if int(split.labels.max()) >= model.config.num_classes:
        raise CheckpointError(
            f"the network knows {model.config.num_classes} classes, the data has more; "
            "give a checkpoint that was trained on this data set"
        )
