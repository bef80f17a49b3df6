"""A training in a folder of its own: stopped, killed and resumed without a loss.

config.json   the options; --resume has to bring the same ones
resume/       agent, optimiser, random states, rows, progress: one checkpoint, replaced
              in one step at every validation and every half a minute between them
agent         the agent at the end, or where the training was stopped
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import torch
from msgspec import Meta
from torch import Tensor, nn

from agents.base import Agent, Resumable
from agents.config import AgentConfig
from agents.environments import Environments, build_environments
from agents.options import Options, options_dict
from agents.registry import make_agent
from agents.saving import load_agent, save_agent
from dynalay_gym.evaluation.evaluate import EvaluationResult, evaluate
from dynalay_gym.storage import run_folder
from dynalay_gym.storage.io import make_run_dir, plain
from dynalay_gym.storage.metrics import MetricWriter
from dynalay_gym.storage.saved_folder import (
    MOST_BYTES,
    check_like,
    load_folder,
    save_folder,
)
from dynalay_gym.storage.training_state import strip_prefix, take, training_bytes
from dynalay_gym.utils.interrupts import finish_step

SAVE_SECONDS = 30.0  # longest time between two saves of the state
VALIDATIONS = 10  # in a plain training
# Options that may differ when a run is resumed: where things are, and what runs them.
_FREE = ("num_threads", "data_dir", "download", "log_dir", "resume", "warm_up_from")
KIND = "training-run"

Steps = Annotated[int, Meta(ge=0, le=2**62)]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come: what the manifest of its state holds.

    Attributes:
        taken: Timesteps so far.
        validated: Timesteps at the latest validation.
        best: Best validation return so far; None before the first validation.
        best_step: Timesteps at which it was reached.
        sizes: Of the metrics' files; see `MetricWriter`.
    """

    taken: Steps
    validated: Steps
    best: float | None
    best_step: Steps
    sizes: dict[str, Steps]


class TrainingRun:
    """An agent that learns, and what it takes to go on after any kind of end.

    A subclass builds the parts, and says what a validation does and what it saves.

    Attributes:
        options: The command line.
        folder: The run's folder.
        envs: The same problem over all splits.
        agent: The agent.
        total: All timesteps of the run.
        validations: Evaluations on the validation split, at equal intervals.
        taken: Timesteps so far.
        validated: Timesteps at the latest validation.
        best: Best validation return so far, reached after `best_step` timesteps.
        sizes: Of the metrics' files where the run goes on, for `MetricWriter`.
    """

    options: Options
    folder: Path
    envs: Environments
    agent: Any
    total: int
    validations: int = VALIDATIONS
    device: torch.device | str = "cpu"

    def __init__(self, options: Options) -> None:
        self.options = options
        self.taken, self.validated, self.best_step = 0, 0, 0
        self.best = float("-inf")
        self.sizes: dict[str, int] | None = None
        self._has_state, self._saved_at = False, time.monotonic()
        self._open = ExitStack()

    def learn(
        self, writer: MetricWriter | None, on_progress: Callable[[int, str], None]
    ) -> None:
        """Train to the end, from where the folder stands.

        Args:
            writer: Where the metrics go.
            on_progress: Called after every rollout with the timesteps so far and the
                latest validation in a few words.

        Raises:
            Stopped: A signal came; the run is saved after the rollout that it was in.
        """
        words = ""

        def follow(taken: int) -> None:
            nonlocal words
            if taken <= self.taken:  # a resumed run reports where it starts
                return
            self.taken = taken
            if not self._has_state:
                self._save(writer)  # before anything that follows from it
            validated, late = self._catch_up(writer), self._is_late()
            if validated or late:
                self._save(writer)
            words = validated or words
            on_progress(taken, words)
            if stop:
                self._save(writer)
                self.save_agent("agent")
                stop.obey()

        with finish_step() as stop:
            self._catch_up(writer)
            if self.taken < self.total:
                self.agent.learn(self.total, writer=writer, on_progress=follow)
        self.finish()

    def finish(self) -> None:
        """Save the agent at the end of the training."""
        self.save_agent("agent")

    def catch_up(self) -> None:
        """Do what is due at this time of the training and has not been done."""

    def validate(self, writer: MetricWriter | None) -> EvaluationResult:
        """Evaluate on the validation split; keep what is the best so far."""
        result = evaluate(
            self.envs.validation, self.agent.policy, penalty=self.envs.penalty
        )
        self.validated = self.taken
        if result.mean_return > self.best:
            self.best, self.best_step = result.mean_return, self.taken
            self.keep_best()
        if writer is not None:
            metrics = result.scalars("validation") | self.further_metrics()
            writer.scalars(metrics, self.taken)
        return result

    def keep_best(self) -> None:
        """Keep the agent as it is now."""
        raise NotImplementedError

    def further_metrics(self) -> dict[str, float]:
        """Return what is recorded beside the agent's validation, by tag."""
        return {}

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """Return all that a resumed run starts from, in named parts."""
        train: Any = self.envs.train.unwrapped
        rows = train.get_state() if train.is_seeded else {}  # exact steps none
        return {"rows": rows, "agent": self.agent.training_state()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned, as ``<part>/<name>``."""
        train: Any = self.envs.train.unwrapped
        rows = strip_prefix("rows/", tensors)
        shown = train.set_state(rows) if rows else (None, {})
        self.agent.load_training_state(strip_prefix("agent/", tensors), *shown)

    @property
    def networks(self) -> list[nn.Module]:
        """All that is trained."""
        return [self.agent.module]

    def save_agent(self, name: str) -> None:
        """Write the agent to a folder in the run's."""
        about = options_dict(self.options)
        save_agent(self.folder / name, self.agent, self.envs.train, about)

    def resumable(self) -> AbstractContextManager[None]:
        """Let whatever ends the run early say how to go on."""
        if isinstance(self.agent, Resumable):
            return run_folder.resumable(self.folder)
        return nullcontext()

    def hold(self) -> None:
        """Keep other processes out of the folder, until `close`."""
        self._open.enter_context(run_folder.lock(self.folder))

    def close(self) -> None:
        """Let other processes have the folder."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _is_late(self) -> bool:
        return time.monotonic() - self._saved_at > SAVE_SECONDS

    def _catch_up(self, writer: MetricWriter | None) -> str:
        """Do what is due; return the validation's return in words, if there was one."""
        self.catch_up()
        times = self.validations
        if times * self.taken // self.total == times * self.validated // self.total:
            return ""
        return f"validation return {self.validate(writer).mean_return:.3f}"

    def _save(self, writer: MetricWriter | None) -> None:
        """Write what a resumed run starts from, as one checkpoint."""
        if not isinstance(self.agent, Resumable):
            return
        parts = self.state().items()
        tensors = {
            f"{p}/{name}": value for p, part in parts for name, value in part.items()
        }
        progress = Progress(
            taken=self.taken,
            validated=self.validated,
            best=self.best if self.validated else None,
            best_step=self.best_step,
            sizes={} if writer is None else writer.sizes(),
        )
        save_folder(self.folder / run_folder.STATE, KIND, tensors, asdict(progress))
        self._has_state, self._saved_at = True, time.monotonic()

    def _load(self) -> None:
        """Continue from what `_save` wrote; without it the run begins again."""
        if run_folder.begins_again(self.folder, results=("best", "agent")):
            self.sizes = {}
            return
        state = self.folder / run_folder.STATE
        most = MOST_BYTES + buffer_bytes(self.agent)
        most += sum(map(training_bytes, self.networks))
        saved = load_folder(state, KIND, Progress, most_bytes=most, device=self.device)
        progress = saved.facts
        self.taken, self.validated = progress.taken, progress.validated
        if progress.best is not None:
            self.best, self.best_step = progress.best, progress.best_step
        self.sizes, self._has_state = progress.sizes, True
        taken = progress.taken
        take(saved.tensors, "agent/taken", torch.int64, least=taken, most=taken)
        self.load_state(saved.tensors)


class PlainRun(TrainingRun):
    """An agent that learns on a main network that stays as it is.

    Args:
        options: The command line.
        config: The agent's hyper-parameters.

    Raises:
        DynaLayError: For anything that cannot be used; nothing is written then.
    """

    def __init__(self, options: Options, config: AgentConfig) -> None:
        super().__init__(options)
        settings = run_settings(options, config)
        if options.resume is not None:
            run_folder.check_same(options.resume, settings)
        self.envs = build_environments(options, config)
        self.agent = build_agent(options, config, self.envs)
        steps = options.total_timesteps
        self.total = config.total_timesteps if steps is None else steps
        self._best: dict[str, Tensor] = {}
        self.folder = options.resume or make_run_dir(
            options.log_dir, options.dataset, config.algo
        )
        self.hold()
        if options.resume is None:
            run_folder.write_settings(self.folder, settings)
        else:
            self._load()

    def keep_best(self) -> None:
        """Keep the weights, if the agent of the end shall be the best one."""
        if self.options.keep_best:
            weights = self.agent.module.state_dict()
            self._best = {name: part.clone() for name, part in weights.items()}

    def finish(self) -> None:
        """Save the agent of the end, or the best one (``--keep-best``).

        An agent that sees few inputs learns them by heart: its return on the split that
        it learns from rises while that on others falls. The weights with the best
        validation return are early stopping without a decision on when to stop.
        """
        if self._best:
            self.agent.module.load_state_dict(self._best)
        super().finish()

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """Return what every run starts from, and the best weights."""
        return super().state() | {"best": self._best}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        self._best = strip_prefix("best/", tensors)
        if self._best:
            check_like(self._best, self.agent.module.state_dict(), "the best weights")
        super().load_state(tensors)


def buffer_bytes(agent: Any) -> int:
    """Return the bytes of an agent's replay buffer; 0 if it has none."""
    buffer = getattr(getattr(agent, "model", None), "replay_buffer", None)
    parts = () if buffer is None else vars(buffer).values()
    return sum(getattr(part, "nbytes", 0) for part in parts)


def build_agent(options: Options, config: AgentConfig, envs: Environments) -> Agent:
    """Return the agent: fresh, or a saved one."""
    how: Any = {"seed": options.seed, "baseline_envs": envs.baseline}
    if options.load is None:
        return make_agent(envs.train, config, **how)
    return load_agent(options.load, envs.train, **how)


def run_settings(options: Options, config: AgentConfig) -> dict[str, Any]:
    """Return all that a run's numbers depend on, by flag, as JSON has it."""
    values = options_dict(options) | {"algo": config.algo}
    settings = {key: value for key, value in values.items() if key not in _FREE}
    groups: list[tuple[str, Any]] = [(config.algo, config)]
    if options.joint:
        groups.append(("co", options.co))
    for group, nested in groups:
        settings |= {f"{group}.{key}": value for key, value in asdict(nested).items()}
    return {key: plain(value) for key, value in settings.items()}
