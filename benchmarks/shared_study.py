"""A study of Optuna (https://optuna.org) in a folder that many processes work on.

They may be on one machine, or on several that share a disk. A process that ends in the
middle of a trial, however it ends, loses that trial's work and nothing else: whoever
asks for work next finds the trial abandoned and tries its options again.

    journal.log      what Optuna knows, appended to
    study.lock       held for an instant, by who chooses the next trial
    trial-<k>.lock   held by who runs trial k, and free as soon as that process ends

The disk needs file locks, which local disks and NFS have. Needs the extra ``sweep``.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from dynalay_gym.errors import ConfigError, DivergedError
from dynalay_gym.utils.flags import flag

# Of one set of options: what takes all memory would be tried for ever.
MOST_RETRIES = 3
# Trials are compared with the median of this many or more, from this step on.
_COMPARED, _FROM_STEP = 5, 3
_TAKEN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


# Options by name. A tuple: from the first to the second number, drawn evenly on a
# logarithmic scale; a list: one of its entries.
Space = Mapping[str, tuple[float, float] | list[Any]]
Report = Callable[[int, float], None]


class SharedStudy:
    """Looks for the options with the largest value, together with other processes.

    Options are proposed by the tree-structured Parzen estimator, from a seed and the
    trial's number: one process that is stopped between trials and started again finds
    what it would have found without the stop. Trials that are behind the median of the
    others are ended early.

    Args:
        folder: Of the study; made if it is absent.
        space: What is searched.
        settings: All else that a value depends on, JSON-able.
        first: Options of the first trial, to compare with.
        seed: Of the proposals.

    Attributes:
        study: Optuna's own object.

    Raises:
        ConfigError: The folder holds a study with other settings.
    """

    def __init__(
        self,
        folder: Path,
        space: Space,
        settings: Mapping[str, Any],
        first: Mapping[str, Any],
        seed: int = 0,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._seed = folder, seed
        self._space = {name: _distribution(each) for name, each in space.items()}
        storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
        with FileLock(folder / "study.lock"):
            self.study = optuna.create_study(
                storage=storage,
                study_name="sweep",
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(_COMPARED, _FROM_STEP),
            )
            if not self.study.get_trials(deepcopy=False):
                self.study.set_user_attr("settings", dict(settings))
                self.study.enqueue_trial(dict(first))
        _check_same(folder, self.study.user_attrs["settings"], settings)

    def work(
        self, objective: Callable[[dict[str, Any], Report], float], most: int
    ) -> None:
        """Run trials until so many have been begun, by whomever.

        Args:
            objective: Returns the value of some options. It calls its second argument
                with a step, from 1, and the value there, which ends the trial if it is
                not worth going on.
            most: Trials of the study; what was abandoned does not count.
        """
        while (claimed := self._claim(most)) is not None:
            trial, lock = claimed
            with lock:
                self._run(trial, objective)

    def trials(self) -> list[FrozenTrial]:
        """Return all trials: the best first, those without a value last."""
        worst = float("-inf")
        return sorted(
            self.study.get_trials(),
            key=lambda each: worst if each.value is None else each.value,
            reverse=True,
        )

    def _claim(self, most: int) -> tuple[Trial, FileLock] | None:
        """Return a trial that nobody else runs, and its lock, which is taken."""
        with FileLock(self._folder / "study.lock"):
            for each in self.study.get_trials(states=[TrialState.RUNNING]):
                self._retry_if_abandoned(each)
            trials = self.study.get_trials(deepcopy=False)
            if sum(each.state in _TAKEN for each in trials) >= most:
                return None
            self.study.sampler = optuna.samplers.TPESampler(
                seed=self._seed + len(trials), constant_liar=True
            )
            trial = self.study.ask(self._space)
            lock = self._lock(trial.number)
            lock.acquire()
            return trial, lock

    def _retry_if_abandoned(self, trial: FrozenTrial) -> None:
        """Put the options of a trial back, if its process has ended."""
        try:
            with self._lock(trial.number).acquire(blocking=False):
                self.study.tell(trial.number, state=TrialState.FAIL)
        except Timeout:
            return
        retries = trial.user_attrs.get("retries", 0) + 1
        if retries <= MOST_RETRIES:
            self.study.enqueue_trial(trial.params, user_attrs={"retries": retries})

    def _run(
        self, trial: Trial, objective: Callable[[dict[str, Any], Report], float]
    ) -> None:
        """Tell the study the value of a trial."""

        def report(step: int, value: float) -> None:
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            ended = self.study.tell(trial, objective(trial.params, report))
        except (optuna.TrialPruned, DivergedError) as error:
            if isinstance(error, DivergedError):
                trial.set_user_attr("diverged", str(error))
            ended = self.study.tell(trial, state=TrialState.PRUNED)
        what = ended.state.name.lower()
        print(f"trial {ended.number} is {what}: {ended.value}", flush=True)

    def _lock(self, number: int) -> FileLock:
        return FileLock(self._folder / f"trial-{number}.lock")


def _distribution(choices: tuple[float, float] | list[Any]) -> BaseDistribution:
    """Return what Optuna draws an option from; see `Space`."""
    if isinstance(choices, tuple):
        return FloatDistribution(*choices, log=True)
    return CategoricalDistribution(choices)


def _check_same(
    folder: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> None:
    """Raise ConfigError unless a study was begun with our settings."""
    keys = sorted(theirs.keys() | ours.keys())
    different = [flag(key) for key in keys if theirs.get(key) != ours.get(key)]
    if different:
        raise ConfigError(
            f"{folder} holds a sweep with other options ({', '.join(different)}); give "
            "the same ones, or another --folder"
        )
