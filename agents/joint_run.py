"""Co-training from begin to end: agent, main network, and one folder for both.

Axes: N sub-environments, S states of the main network.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.base import Agent, Resumable
from agents.config import AgentConfig
from agents.environments import Environments, build_environments
from agents.joint_folder import OnStep, check_settings, prepare, read_settings
from agents.options import Options, options_dict
from agents.registry import make_agent
from agents.saving import save_agent
from dynalay_gym.cotraining.env_wrapper import CoTrainingEnv
from dynalay_gym.cotraining.network import Data, accuracy_of_states, measure_again
from dynalay_gym.cotraining.trainer import CoTrainer, TurnReport
from dynalay_gym.cotraining.workers import Workers
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.networks.checkpoint import load_tensors, save_tensors
from dynalay_gym.utils.metrics import MetricWriter
from dynalay_gym.utils.optimizer_state import strip_prefix

_ENV = "rows/"  # prefix of the environment's tensors in resume/
_AGENT = "agent/"


class CoRun:
    """One co-training; building it checks everything and prepares its folder.

    Attributes:
        folder: The run's folder.
        envs: The same problem over all splits; ``train`` is the co-training one.
        agent: The agent.
        trainer: The main network's side; None in a frozen run.
        start: Decisions of the agent's warm-up.
        total: All decisions of the run.
        taken: Decisions so far.

    Args:
        options: The command line.
        config: The agent's hyper-parameters.
        on_step: Called in the main network's warm-up: step, all steps, loss.

    Raises:
        DynaLayError: For anything that cannot be used; nothing is overwritten then.
    """

    def __init__(self, options: Options, config: AgentConfig, on_step: OnStep) -> None:
        self.options = options
        self.workers = Workers.join(options.device)
        settings = check_settings(options, config, self.workers.size)
        self.data = Data.load(
            options.dataset, options.device, options.data_dir, options.download
        )
        self.folder = self._meet(settings, on_step)
        self.start = int(read_settings(self.folder)["start"])
        joint = options.total_timesteps
        self.total = self.start + (config.total_timesteps if joint is None else joint)
        network = self.folder / "warm-up" / "main"
        self.envs = build_environments(replace(options, checkpoint=network), config)
        self.trainer = self._trainer() if options.co_train else None
        self.co_envs = CoTrainingEnv(
            self.envs.train,
            self.trainer,
            every=options.co.every or config.steps_per_turn,
            start=self.start,
            total=self.total,
            followers=[each for each in [self.envs.baseline] if each is not None],
        )
        self.envs = replace(self.envs, train=self.co_envs)
        self.agent = self._make_agent(self.envs, config)
        self.co_envs.policy = self.agent.policy
        self.best, self.best_step, self.taken = float("-inf"), 0, 0
        self._load()

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.workers.rank == 0

    def learn(
        self,
        writer: MetricWriter | None,
        on_progress: Callable[[int, str], None],
    ) -> None:
        """Train to the end, or on from where the folder stands.

        Args:
            writer: Where both learners' metrics go.
            on_progress: Called after every rollout: decisions so far, and how the run
                stands in a few words.
        """
        words = ""

        def listen(report: TurnReport, decisions: int) -> None:
            self.workers.share(list(self.agent.module.parameters()))
            if writer is not None:
                writer.scalars(self._scalars(report), decisions)

        def follow(taken: int) -> None:
            nonlocal words
            if taken <= self.taken:  # what a resumed run begins with
                return
            due, warmed = self._due(taken), self.taken < self.start <= taken
            self.taken = taken
            if warmed and self.leads:
                self._keep_agent(self.folder / "warm-up" / "agent")
            if due:
                words = self._validate(writer)
                self._save()
            on_progress(taken, words)

        self.co_envs.on_turn = listen
        if self.taken < self.total:
            self.agent.learn(self.total, writer=writer, on_progress=follow)
        if self.leads:
            self._keep_agent(self.folder / "agent")

    def take_best(self) -> None:
        """Give agent and environments the weights of the best pair.

        Cost unit and penalty of ``envs`` stay those of the run.
        """
        place = self.folder / "best"
        self.agent.module.load_state_dict(load_tensors(place / "agent")[0])
        weights = load_tensors(place / "main")[0]
        for envs in (self.envs.validation, self.envs.test):
            base: Any = envs.unwrapped
            base.load_weights(weights)

    def measure_best(self) -> dict[str, Any]:
        """Measure the best pair's network anew, beside it.

        Returns:
            Its calibrations, break-even penalty and the accuracies of all states.
        """
        about = self._about() | {"step": self.best_step}
        return measure_again(self.folder / "best" / "main", self.data, about)

    def _meet(self, settings: dict[str, Any], on_step: OnStep) -> Path:
        """The folder, prepared by the leading process while the others wait."""
        folder = ""
        if self.leads:
            folder = str(prepare(self.options, settings, self.data, on_step))
        return Path(self.workers.tell(folder))

    def _trainer(self) -> CoTrainer:
        train: Any = self.envs.train.unwrapped
        return CoTrainer(
            self.data.load_network(self.folder / "warm-up" / "main"),
            self.data.splits["main"],
            train.problem,
            self.options.co,
            seed=self.options.seed,
            augmented=self.data.augmented,
            workers=self.workers,
        )

    def _make_agent(self, envs: Environments, config: AgentConfig) -> Agent:
        agent = make_agent(
            envs.train, config, seed=self.options.seed, baseline_envs=envs.baseline
        )
        assert isinstance(agent, Resumable), "every algorithm's agent is"
        warm = self.folder / "warm-up" / "agent"
        if self.start == 0 and warm.is_dir():
            agent.module.load_state_dict(load_tensors(warm)[0])
        return agent

    def _due(self, taken: int) -> bool:
        """Whether a validation lies between the last progress and this one."""
        times = self.options.co.validations
        return times * taken // self.total > times * self.taken // self.total

    def _validate(self, writer: MetricWriter | None) -> str:
        """Walk the validation split; keep the pair if it is the best so far."""
        if not self.leads:
            return ""
        base: Any = self.envs.validation.unwrapped
        if self.trainer is not None:
            base.load_weights(self.trainer.weights())
        penalty = self.envs.penalty
        found = evaluate(self.envs.validation, self.agent.policy, penalty=penalty)
        if found.mean_return > self.best:
            self.best, self.best_step = found.mean_return, self.taken
            self._keep_agent(self.folder / "best" / "agent")
            self._keep_network(self.folder / "best" / "main")
        states = accuracy_of_states(
            base.problem.session, self.data.splits["validation"]
        )
        if writer is not None:
            numbers = {f"main/accuracy/{name}": one for name, one in states.items()}
            numbers |= {
                "validation/accuracy": found.accuracy,
                "validation/compute": found.compute,
                "validation/return": found.mean_return,
            }
            writer.scalars(numbers, self.taken)
        return f"validation return {found.mean_return:.3f}"

    def _scalars(self, report: TurnReport) -> dict[str, float]:
        """A turn's metrics; the total loss is the paper's CE - lambda R (eq. 3)."""
        assert self.trainer is not None, "a turn has a trainer"
        weighted = self.options.co.loss_lambda * report.mean_return
        names = self.data.state_names(self.trainer.model.num_layers)
        visited = zip(names, report.visited, strict=True)
        return {
            "main/loss": report.cross_entropy,
            "main/keep_loss": report.keep_loss,
            "main/lambda_return": weighted,
            "main/total_loss": report.cross_entropy - weighted,
            "main/return": report.mean_return,
            "main/macs": report.macs,
            "main/grad_norm": report.grad_norm,
            "main/learning_rate": report.learning_rate,
            "main/epsilon": report.epsilon,
            "main/steps": self.trainer.steps,
        } | {f"main/visited/{name}": share for name, share in visited}

    def _about(self) -> dict[str, Any]:
        return {"dataset": self.options.dataset, "options": options_dict(self.options)}

    def _keep_agent(self, folder: Path) -> None:
        save_agent(folder, self.agent, self.envs.train, options_dict(self.options))

    def _keep_network(self, folder: Path) -> None:
        """Write the network with the calibration of the run's start."""
        start, meta = load_tensors(self.folder / "warm-up" / "main")
        weights = start if self.trainer is None else self.trainer.weights()
        kept = {key: meta[key] for key in ("kind", "config", "calibrations")}
        save_tensors(folder, weights, kept | self._about() | {"step": self.taken})

    def _save(self) -> None:
        """Write all that going on needs, as one checkpoint."""
        agent: Any = self.agent
        train: Any = self.co_envs.unwrapped
        rows = train.get_state() if train.is_seeded else {}  # exact begins no episode
        tensors = {_ENV + key: value for key, value in rows.items()}
        tensors |= {_AGENT + k: v for k, v in agent.training_state().items()}
        numbers: dict[str, float] = {}
        if self.trainer is not None:
            parts, numbers = self.trainer.state()
            tensors |= parts
        place = {
            "kind": "co-training",
            "taken": self.taken,
            "decisions": self.co_envs.decisions,
            "best": self.best,
            "best_step": self.best_step,
            "main": numbers,
        }
        if self.leads:
            save_tensors(self.folder / "resume", tensors, place)

    def _load(self) -> None:
        """Go on from the saved state, if there is one."""
        if not (self.folder / "resume").is_dir():
            return
        tensors, place = load_tensors(self.folder / "resume", self.data.device)
        train: Any = self.co_envs.unwrapped
        if self.trainer is not None:
            self.trainer.load(tensors, place["main"])
            for each in (*self.co_envs.followers, train):
                each.load_weights(self.trainer.weights())
        rows = strip_prefix(_ENV, tensors)
        observations, infos = train.set_state(rows) if rows else (None, {})
        agent: Any = self.agent
        agent.load_training_state(strip_prefix(_AGENT, tensors), observations, infos)
        self.co_envs.load_decisions(int(place["decisions"]))
        self.taken = int(place["taken"])
        self.best, self.best_step = place["best"], int(place["best_step"])
