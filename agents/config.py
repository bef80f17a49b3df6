"""What every algorithm's hyper-parameters have in common; imports no torch."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from dynalay_gym.errors import ConfigError
from dynalay_gym.utils.memory import check_memory
from dynalay_gym.utils.ranges import Share, TotalTimesteps, Widths, check_fields

Probability = Annotated[float, Meta(gt=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Hyper-parameters of one algorithm, and what a run has to know of it.

    A subclass sets the class variables and adds its options as fields; each field is a
    flag of ``train_agent.py``. The discount is 1 everywhere: an episode is short, and
    its return is the reward that the environment defines.

    Attributes:
        algo: Name of the algorithm on the command line.
        agent: Class of its agent, as ``module:class``, imported when one is made.
        output: What its environment returns: NumPy arrays on the host, or tensors.
        num_envs: Inputs that are decided on side by side unless --num-envs says
            otherwise.
        needs_table: Whether it learns from the transition table alone.
        needs_baseline_envs: Whether its agent takes a second environment in DISABLED
            mode over the same split, as ``baseline_envs``.
        steps_per_turn: In co-training, steps of every row between two turns of the
            main network.
    """

    algo: ClassVar[str]
    agent: ClassVar[str]
    output: ClassVar[Literal["numpy", "torch"]] = "numpy"
    num_envs: ClassVar[int] = 64
    needs_table: ClassVar[bool] = False

    total_timesteps: TotalTimesteps
    hidden: Widths = (64, 64)
    """Widths of the hidden layers of each of its networks."""

    @property
    def needs_baseline_envs(self) -> bool:
        """Whether its agent takes a second environment."""
        return False

    @property
    def steps_per_turn(self) -> int:
        """Steps of every row between two turns of the main network."""
        raise ConfigError(
            f"{type(self).__name__} has no steps_per_turn, which co-training needs; "
            "give --co.every"
        )

    def num_kept(self, num_envs: int) -> int:
        """Return how many decisions it keeps to learn from."""
        return num_envs

    def num_learned(self, num_envs: int) -> int:
        """Return how many decisions a gradient step learns from."""
        return self.num_kept(num_envs)

    def check_memory(self, num_envs: int, num_features: int, num_actions: int) -> None:
        """Check that a training fits into memory, before any of it is taken.

        Raises:
            ConfigError: It does not.
        """
        widths = num_features, *self.hidden, num_actions
        weights = sum(below * above for below, above in pairwise(widths))
        kept = self.num_kept(num_envs) * (2 * num_features + 8 * num_actions)
        learned = self.num_learned(num_envs) * 4 * sum(self.hidden)
        # float32; two networks, each with its gradient and two moments
        needed = 4 * (2 * 4 * weights + kept + learned)
        remedy = f"lower --num-envs, or the sizes among --{self.algo}.*"
        check_memory(needed, f"the training of {self.algo}", remedy)

    def __post_init__(self) -> None:
        """Check every field against its annotation; see `dynalay_gym.utils.ranges`.

        Raises:
            ConfigError: An option is out of range; the message names its flag.
        """
        check_fields(self, self.algo)


@dataclass(frozen=True, kw_only=True)
class PolicyConfig(AgentConfig):
    """What agents that learn a policy by sampling from it have in common.

    Both options are against a collapse to stopping at once; see `agents.deep_start`.
    """

    initial_stop_probability: Probability | None = None
    """Probability of stopping at the start of the training. None: the network's own,
    as probable as every other action."""
    penalty_warm_up: Share = 0.0
    """Share of the training over which the penalty rises from 0 to its value."""
