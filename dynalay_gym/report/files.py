"""What the files of a run hold, as far as a report reads them.

``train_agent.py`` writes ``results.json`` and, with `record.make_record`,
``report.json``.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import Meta, Struct

Interval = tuple[float, float]
Base64 = Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]*=*$")]
# Value, lower and upper end of its interval; None is infinite.
Measured = tuple[float | None, float | None, float | None]


class Place(Struct, frozen=True, kw_only=True, rename={"mean_return": "return"}):
    """Where a policy stands; see `dynalay_gym.evaluation.tables.point_row`."""

    policy: str
    compute: float
    extra_share: float
    accuracy: float
    accuracy_interval: Interval
    mean_return: float
    return_interval: Interval


class Row(Place, frozen=True, kw_only=True):
    """A policy in the table; see `dynalay_gym.evaluation.tables.make_rows`."""

    regret: float | None = None
    regret_interval: Interval | None = None
    actions: dict[str, float]
    us_per_sample: float
    agent_macs_per_decision: int
    agent_macs_share: float


class Setting(Place, frozen=True, kw_only=True):
    """A point of a frontier: one threshold or penalty, the mean over seeds."""

    setting: str
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Results:
    """``results.json``: what was run, and the table of policies, the agent's row first.

    Attributes:
        command: The command line.
        options: Its options by name.
        config: Hyper-parameters of the agent.
        split: Name of the split that policies are compared on.
        num_samples: Its size.
        penalty: Weight of compute in the return.
        timesteps: Decisions that the agent learned from; 0 if it was only evaluated.
        environment: Versions and machine, from `run_metadata`.
        returns: Mean return of the agent by split.
        policies: The table.
    """

    command: str = ""
    options: dict[str, Any]
    config: dict[str, Any]
    split: str
    num_samples: int
    penalty: float
    timesteps: int
    environment: dict[str, Any]
    returns: dict[str, float]
    policies: Annotated[list[Row], Meta(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """A policy over its range of compute; see `dynalay_gym.evaluation.study.Study`."""

    policy: str
    measures: dict[str, Measured]
    points: Annotated[list[Setting], Meta(min_length=1)]
    lead: dict[str, Measured] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Bin:
    """What a policy does where inputs are about equally hard; see `difficulty_bins`."""

    difficulty: Interval
    num: int
    accuracy: float
    compute: float
    compute_quartiles: tuple[float, float, float]
    actions: list[float]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A decision, or the plain pass; see `dynalay_gym.report.record.Viewer`."""

    action: str
    answer: str
    is_right: bool
    compute: float


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A single input and the path through it; see `Viewer`."""

    index: int
    answer: str
    picture: Base64
    text: str
    steps: Annotated[list[Step], Meta(min_length=1)]
    difficulty: float | None


@dataclass(frozen=True, kw_only=True)
class Record:
    """``report.json``: what a report shows beside the results.

    Attributes:
        problem: The same for runs on the same network and reward.
        actions: Names of the actions; the first one stops.
        frontiers: Of cascades and agent, the agent's last.
        difficulty: What tells hard inputs from easy ones; empty if nothing does.
        bins: By policy, the agent first: a few bins of difficulty, ascending.
        curves: The same in more bins.
        inputs: The ``easiest`` and the ``hardest`` ones, the extreme ones first.
    """

    problem: str
    actions: list[str]
    frontiers: Annotated[list[Frontier], Meta(min_length=1)]
    difficulty: str
    bins: dict[str, list[Bin]]
    curves: dict[str, list[Bin]]
    inputs: dict[str, list[Shown]]
