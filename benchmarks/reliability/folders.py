"""Sound folders of main networks and their agents, and what uses each of them.

Using a folder loads it and runs what it holds; the digest of the answers says whether a
change of the folder had an effect.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from agents.config import AgentConfig
from agents.exact.config import ExactConfig
from agents.joint_run import JointRun
from agents.policy_gradient.config import PolicyGradientConfig
from agents.registry import make_agent
from agents.saved_runs import load_run
from agents.saving import load_agent, save_agent
from agents.sb3.config import A2CConfig, DQNConfig, PPOConfig
from agents.training_run import TrainingRun
from dynalay_gym.cotraining.config import CoTrainingConfig
from dynalay_gym.cotraining.env_wrapper import CoTrainingEnv
from dynalay_gym.cotraining.trainer import CoTrainer
from dynalay_gym.data.splits import Split
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.networks.agent_net import AgentNet
from dynalay_gym.networks.checkpoint import Network
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.policy import PlanPolicy, Policy
from dynalay_gym.networks.training import MainTrainer, TrainingConfig
from dynalay_gym.predictor.policies import MaxProbPolicy, NetworkPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.fastest import fastest_session
from dynalay_gym.sessions.measure import export
from dynalay_gym.storage.digest import tensors_digest
from dynalay_gym.storage.run_folder import STATE

CONFIGS = {
    "wide": MainNetworkConfig(
        in_shape=(3, 8, 8),
        num_classes=3,
        form="wide",
        channels=(2, 3),
        strides=(1, 2),
        hidden=(4, 5),
        pools=(2, 1),
        unshuffle=2,
        head_width=4,
    ),
    "state": MainNetworkConfig(
        in_shape=(3, 8, 8),
        num_classes=3,
        form="state",
        stem=2,
        channels=(3, 4),
        strides=(2, 1),
        max_steps=(5, 7),
    ),
    "planner": MainNetworkConfig(
        in_shape=(3, 8, 8),
        num_classes=3,
        form="planner",
        stem=4,
        channels=(3, 3),
        views=(3, 0),
    ),
}
ALGORITHMS: dict[str, AgentConfig] = {
    "policy-gradient": PolicyGradientConfig(num_steps=4, hidden=(8,)),
    "exact": ExactConfig(hidden=(8,)),
    "ppo": PPOConfig(n_steps=4, batch_size=8, hidden=(8,)),
    "a2c": A2CConfig(n_steps=4, hidden=(8,)),
    "dqn": DQNConfig(buffer_size=50, learning_starts=8, batch_size=8, hidden=(8,)),
}
# What `train_agent.py` keeps beside an agent.
_ABOUT = {
    "dataset": "digits",
    "penalty": "0.01:0.3",
    "penalty_unit": 0.1,
    "seed": 0,
    "num_envs": 4,
    "device": "cpu",
    "checkpoint": None,
    "data_dir": None,
    "download": True,
    "rtol": 0.1,
    "max_steps": 20,
    "alpha": 0.5,
    "reward": "paper",
    "max_decisions": 3,
    "transitions": "table",
}
_TRAINING = TrainingConfig(epochs=2, batch_size=12, paths="mixed", augment=True)
_STEPS = {"exact": 2_000}  # timesteps of a training; else 64
_POLICIES = ("agent-net", "mlp", "plan", "plans", "max-prob")


class NotFiniteError(Exception):
    """What a folder holds was accepted, and answers with NaN or infinity."""


@dataclass(frozen=True)
class Kind:
    """One kind of folder.

    Attributes:
        sources: Names of its sound folders.
        make: Writes the sound folder of a name.
        use: Loads a folder of a name, runs what it holds, and returns a digest of the
            answers.
    """

    sources: tuple[str, ...]
    make: Callable[[str, Path], None]
    use: Callable[[str, Path], str]


@cache
def tiny_network(form: str) -> MainNetwork:
    """Return an untrained network in evaluation mode."""
    torch.manual_seed(0)
    return MainNetwork(CONFIGS[form]).eval()


@cache
def tiny_split() -> Split:
    """Return 24 random images with labels in turn."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(24, 3, 8, 8, generator=generator)
    return Split(inputs=images, labels=torch.arange(24) % 3, name="own")


def new_envs(config: AgentConfig) -> DynaLayVectorEnv:
    """Return an environment that an algorithm learns in."""
    return DynaLayVectorEnv(
        4,
        checkpoint=tiny_network("wide"),
        split=tiny_split(),
        penalty=0.25,
        device="cpu",
        transitions="table" if config.needs_table else "live",
        output=config.output,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )


@cache
def tiny_envs(algo: str) -> DynaLayVectorEnv:
    """Return the environment that an algorithm's agents act in."""
    return new_envs(ALGORITHMS[algo])


def save_main_network(form: str, folder: Path) -> None:
    """Write an untrained network."""
    network = MainNetwork(CONFIGS[form])
    network.load_state_dict(tiny_network(form).state_dict())
    save_measured(folder, network.eval())


def save_measured(folder: Path, network: Network) -> None:
    """Write a network with all that is measured of it."""
    splits = dict.fromkeys(("agent", "validation", "test"), tiny_split())
    export(folder, network, splits, {"dataset": "own"})


def use_network(name: str, folder: Path) -> str:
    """Take some steps in an environment over a network of any kind."""
    split = tiny_split()
    options: Any = {"checkpoint": folder, "split": split, "device": "cpu"}
    envs = DynaLayVectorEnv(4, **options)
    observations, _ = envs.reset(seed=0)
    seen = [observations, np.float64(envs.penalty_range[0])]
    for action in (1, envs.num_actions - 1, 0, 0):
        observations, rewards, *_ = envs.step(np.full(4, action))
        seen += [observations, rewards]
    return digest(seen)


def _save_agent(algo: str, folder: Path) -> None:
    config = ALGORITHMS[algo]
    envs = tiny_envs(algo)
    save_agent(folder, make_agent(envs, config, seed=0), envs, _ABOUT)


def _use_agent(_: str, folder: Path) -> str:
    run = load_run(folder, {})
    envs = tiny_envs(run.config.algo)
    agent = load_agent(folder, envs, baseline_envs=envs)
    observations, infos = envs.reset(seed=0)
    net = agent.policy.net
    scores = net(torch.as_tensor(observations)).detach()
    options = str((run.options, run.penalty_range, run.config)).encode()
    chosen = agent.policy.act(observations, infos)
    return digest([scores, chosen, np.frombuffer(options, np.uint8).copy()])


def _policy(kind: str) -> Policy:
    """Return a policy of one of the kinds that a predictor can save."""
    session = fastest_session(tiny_network("wide"))
    columns = DynaLayPredictor(session, PlanPolicy([1]), penalty=0.1).observation_layout
    size, torch_net = columns["remaining"].stop, torch.nn
    torch.manual_seed(0)
    if kind == "agent-net":
        return NetworkPolicy(AgentNet(size, 3, (8,)))
    if kind == "mlp":
        layers = torch_net.Linear(size, 8), torch_net.Tanh(), torch_net.Linear(8, 3)
        return NetworkPolicy(torch_net.Sequential(*layers))
    if kind == "plans":
        return PlanPolicy([[1, 2], [2, 0]] * 12)
    if kind == "max-prob":
        column = columns["max_prob"].start
        return MaxProbPolicy(column, [1, 2], [0.5, 0.4], [0.1, 0.2])
    return PlanPolicy([1, 2])


def _save_predictor(kind: str, folder: Path) -> None:
    network = tiny_network("planner" if kind == "plan" else "wide")
    portion = 4 if kind == "plan" else None
    predictor = DynaLayPredictor(
        network, _policy(kind), penalty=0.1, iterations_per_action=portion
    )
    predictor.save(folder)


def _use_predictor(_: str, folder: Path) -> str:
    found = DynaLayPredictor.load(folder).infer(tiny_split().inputs.numpy())
    return digest(list(found))


def _trainer() -> MainTrainer:
    network = MainNetwork(CONFIGS["wide"])
    network.load_state_dict(tiny_network("wide").state_dict())
    return MainTrainer(network, tiny_split(), _TRAINING)


def _save_training(_: str, folder: Path) -> None:
    trainer = _trainer()
    trainer.train_epoch(lambda step, loss: None)
    trainer.save(folder)


def _use_training(_: str, folder: Path) -> str:
    trainer = _trainer()
    trainer.load(folder)
    while trainer.epoch < trainer.config.epochs:
        trainer.train_epoch(lambda step, loss: None)
    return digest([*trainer.network.state_dict().values()])


class _Run(TrainingRun):
    """A training on the tiny environment, without a command line."""

    def __init__(self, algo: str, folder: Path) -> None:
        TrainingRun.__init__(self, None)  # type: ignore[arg-type]
        self.folder, self.total = folder, _STEPS.get(algo, 64)
        config = ALGORITHMS[algo]
        self._build(new_envs(config), config)

    def _build(self, envs: Any, config: AgentConfig) -> None:
        self.envs = SimpleNamespace(train=envs)  # type: ignore[assignment]
        self.agent = make_agent(envs, config, seed=0)

    def begin(self) -> None:
        """Train to the middle and save the state."""

        def save(taken: int) -> None:
            self.taken = taken
            self._save(None)

        self.agent.learn(self.total // 2, on_progress=save)

    def go_on(self) -> str:
        """Load the state, train to the end, and return a digest of what was learned."""
        self._load()
        self.agent.learn(self.total)
        return digest(self.weights())

    def weights(self) -> list[Any]:
        """Return all that learns."""
        return [*self.agent.module.state_dict().values()]


class _JointRun(_Run, JointRun):
    """A co-training on the tiny environment, without a command line."""

    def _build(self, envs: Any, config: AgentConfig) -> None:
        ratio, every = 16 / self.total, config.steps_per_turn
        co = CoTrainingConfig(batch_size=4, replay_size=9, update_ratio=ratio)
        self.trainer = CoTrainer(envs.problem, tiny_split(), co, seed=0)
        self.train_envs = CoTrainingEnv(
            envs, self.trainer, every=every, start=0, total=self.total
        )
        super()._build(self.train_envs, config)
        self.train_envs.policy = self.agent.policy

    def weights(self) -> list[Any]:
        """Return all that learns."""
        return [*super().weights(), *self.trainer.weights().values()]


def _save_run(kind: type[_Run], algo: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        kind(algo, Path(place)).begin()
        shutil.copytree(Path(place) / STATE, folder)


def _use_run(kind: type[_Run], algo: str, folder: Path) -> str:
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / STATE).symlink_to(folder)
        (Path(place) / "agent").mkdir()  # it was saved after its first state
        return kind(algo, Path(place)).go_on()


def digest(values: list[Any]) -> str:
    """Return a hash of arrays and tensors, all of which must be finite."""
    tensors = {str(i): torch.as_tensor(value) for i, value in enumerate(values)}
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise NotFiniteError("an answer is NaN or infinite")
    return tensors_digest(tensors)


ITERATED_KINDS = {
    "main-network": Kind(tuple(CONFIGS), save_main_network, use_network),
    "agent": Kind(tuple(ALGORITHMS), _save_agent, _use_agent),
    "predictor": Kind(_POLICIES, _save_predictor, _use_predictor),
    "main-training": Kind(("wide",), _save_training, _use_training),
    "training-run": Kind(
        tuple(ALGORITHMS), partial(_save_run, _Run), partial(_use_run, _Run)
    ),
    "co-training": Kind(
        ("policy-gradient", "exact", "ppo"),
        partial(_save_run, _JointRun),
        partial(_use_run, _JointRun),
    ),
}
