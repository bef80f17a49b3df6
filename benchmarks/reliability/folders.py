"""Sound folders of every kind from tiny networks, and what uses each of them.

Using a folder loads it and runs what it holds; the digest of the answers says whether a
change of the folder had an effect.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from agents.config import AgentConfig
from agents.exact.config import ExactConfig
from agents.policy_gradient.config import PolicyGradientConfig
from agents.registry import make_agent
from agents.saved_runs import load_run
from agents.saving import load_agent, save_agent
from agents.sb3.config import A2CConfig, DQNConfig, PPOConfig
from dynalay_gym.data.splits import Split
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.networks.agent_net import AgentNet
from dynalay_gym.networks.main_network import MainNetwork, MainNetworkConfig
from dynalay_gym.networks.policy import PlanPolicy, Policy
from dynalay_gym.networks.training import MainTrainer, TrainingConfig
from dynalay_gym.predictor.policies import MaxProbPolicy, NetworkPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.fastest import fastest_session
from dynalay_gym.sessions.measure import export
from dynalay_gym.storage.digest import tensors_digest

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
    "policy-gradient": PolicyGradientConfig(hidden=(8,)),
    "exact": ExactConfig(hidden=(8,)),
    "ppo": PPOConfig(n_steps=4, batch_size=8, hidden=(8,)),
    "a2c": A2CConfig(n_steps=4, hidden=(8,)),
    "dqn": DQNConfig(hidden=(8,)),
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
_POLICIES = ("agent-net", "mlp", "plan", "plans", "max-prob")


class NotFiniteError(Exception):
    """What a folder holds was accepted, and answers with NaN or infinity."""


@dataclass(frozen=True)
class Kind:
    """One kind of folder.

    Attributes:
        sources: What writes a sound folder, by name.
        use: Loads a folder, runs what it holds, and returns a digest of the answers.
    """

    sources: Mapping[str, Callable[[Path], None]]
    use: Callable[[Path], str]


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


@cache
def tiny_envs(output: Any) -> DynaLayVectorEnv:
    """Return an environment that agents are made for."""
    return DynaLayVectorEnv(
        4,
        checkpoint=tiny_network("wide"),
        split=tiny_split(),
        penalty=0.25,
        device="cpu",
        transitions="table",
        output=output,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )


def _save_network(form: str, folder: Path) -> None:
    splits = dict.fromkeys(("agent", "validation", "test"), tiny_split())
    network = MainNetwork(CONFIGS[form])
    network.load_state_dict(tiny_network(form).state_dict())
    export(folder, network.eval(), splits, {"dataset": "own"})


def _use_network(folder: Path) -> str:
    split = tiny_split()
    options: Any = {"checkpoint": folder, "split": split, "device": "cpu"}
    envs = DynaLayVectorEnv(4, **options)
    observations, _ = envs.reset(seed=0)
    seen = [observations, np.float64(envs.penalty_range[0])]
    for action in (1, envs.num_actions - 1, 0, 0):
        observations, rewards, *_ = envs.step(np.full(4, action))
        seen += [observations, rewards]
    return _digest(seen)


def _save_agent(algo: str, folder: Path) -> None:
    config = ALGORITHMS[algo]
    envs = tiny_envs(config.output)
    save_agent(folder, make_agent(envs, config, seed=0), envs, _ABOUT)


def _use_agent(folder: Path) -> str:
    run = load_run(folder, {})
    envs = tiny_envs(run.config.output)
    agent = load_agent(folder, envs, baseline_envs=envs)
    observations, infos = envs.reset(seed=0)
    net = agent.policy.net
    scores = net(torch.as_tensor(observations)).detach()
    options = str((run.options, run.penalty_range, run.config)).encode()
    chosen = agent.policy.act(observations, infos)
    return _digest([scores, chosen, np.frombuffer(options, np.uint8).copy()])


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


def _use_predictor(folder: Path) -> str:
    found = DynaLayPredictor.load(folder).infer(tiny_split().inputs.numpy())
    return _digest(list(found))


def _trainer() -> MainTrainer:
    network = MainNetwork(CONFIGS["wide"])
    network.load_state_dict(tiny_network("wide").state_dict())
    return MainTrainer(network, tiny_split(), _TRAINING)


def _save_training(folder: Path) -> None:
    trainer = _trainer()
    trainer.train_epoch(lambda step, loss: None)
    trainer.save(folder)


def _use_training(folder: Path) -> str:
    trainer = _trainer()
    trainer.load(folder)
    while trainer.epoch < trainer.config.epochs:
        trainer.train_epoch(lambda step, loss: None)
    return _digest([*trainer.network.state_dict().values()])


def _digest(values: list[Any]) -> str:
    """Return a hash of arrays and tensors, all of which must be finite."""
    tensors = {str(i): torch.as_tensor(value) for i, value in enumerate(values)}
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise NotFiniteError("an answer is NaN or infinite")
    return tensors_digest(tensors)


def _named(save: Callable[[str, Path], None], names: Any) -> dict[str, Any]:
    return {name: lambda folder, name=name: save(name, folder) for name in names}


KINDS = {
    "main-network": Kind(_named(_save_network, CONFIGS), _use_network),
    "agent": Kind(_named(_save_agent, ALGORITHMS), _use_agent),
    "predictor": Kind(_named(_save_predictor, _POLICIES), _use_predictor),
    "main-training": Kind({"wide": _save_training}, _use_training),
}


def make_sources(folder: Path, kinds: list[str]) -> dict[str, dict[str, Path]]:
    """Write all sound folders of some kinds; return their places by kind and name."""
    places: dict[str, dict[str, Path]] = {}
    for kind in kinds:
        places[kind] = {}
        for name, make in KINDS[kind].sources.items():
            places[kind][name] = folder / kind / name
            make(places[kind][name])
    return places
