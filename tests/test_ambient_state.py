"""Global state that a user's program may have set changes no number."""

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers.networks import shared_split, tiny_config, tiny_kwargs
from helpers.residual import random_gated, tiny_residual_config
from torch import nn

from agents.exact.config import ExactConfig
from agents.policy_gradient.config import PolicyGradientConfig
from agents.registry import make_agent
from agents.sb3.config import PPOConfig
from dynalay_gym.cotraining.new_training import AnyTrainer
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.networks.lcnet.config import GateConfig
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.networks.lcnet.training import GateTrainer, GateTrainingConfig
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.networks.residual.training import (
    ResidualTrainer,
    ResidualTrainingConfig,
)
from dynalay_gym.networks.training import MainTrainer, TrainingConfig
from dynalay_gym.predictor.policies import NetworkPolicy, PlanPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor

ROOT = Path(__file__).parents[1]
DIGITS = "dynalay_gym:DynaLay/Digits-v0"
gated = cache(random_gated)
ENVS: dict[str, Callable[[], gym.vector.VectorEnv]] = {
    "shipped": lambda: gym.make_vec(DIGITS, num_envs=4),
    "portions": lambda: gym.make_vec(DIGITS, num_envs=4, iterations_per_action=2),
    "maps": lambda: gym.make_vec(DIGITS, num_envs=4, observation="dict"),
    "torch": lambda: DynaLayVectorEnv(4, output="torch", **tiny_kwargs()),
    "table": lambda: DynaLayVectorEnv(4, transitions="table", **tiny_kwargs()),
    "gates": lambda: DynaLayVectorEnv(4, **tiny_kwargs() | {"checkpoint": gated()}),
}


def digest(parts: Any) -> str:
    """Hash of nested numbers, their types included."""
    found = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, dict):
            part = tuple(part.values())
        if isinstance(part, tuple | list):
            for each in part:
                add(each)
            return
        array = part.numpy() if isinstance(part, torch.Tensor) else np.asarray(part)
        found.update(str(array.dtype).encode() + array.tobytes())

    add(parts)
    return found.hexdigest()


def walk(envs: gym.vector.VectorEnv) -> str:
    """Hash of all that some steps return, and of a state set again."""
    parts: list[Any] = [envs.reset(seed=3)]
    for step in range(12):
        parts.append(envs.step(np.arange(step, step + 4) % envs.single_action_space.n))
    unwrapped: Any = envs.unwrapped
    parts.append(unwrapped.set_state(unwrapped.get_state()))
    return digest(parts)


def small_net() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(65, 8), nn.Tanh(), nn.Linear(8, 4))
    net.to(device="cpu", dtype=torch.float32)
    for part in net.parameters():
        part.data = torch.randn(
            part.shape, generator=generator, dtype=torch.float32, device="cpu"
        )
    return net


def make_predictor(policy: Any) -> DynaLayPredictor:
    return DynaLayPredictor.from_env(gym.make_vec(DIGITS, num_envs=1), policy)


def answers(predictor: DynaLayPredictor) -> str:
    images = np.random.default_rng(0).random((20, 1, 8, 8), dtype=np.float32)
    return digest(predictor.infer(images))


def make_trainer(kind: str) -> AnyTrainer:
    split, how = shared_split(), {"epochs": 1, "batch_size": 8, "augment": True}
    if kind == "main":
        return MainTrainer(MainNetwork(tiny_config()), split, TrainingConfig(**how))
    network = ResidualNetwork(tiny_residual_config("fast", iterated=(2,)))
    if kind == "gated":
        gated = GatedNetwork(network, GateConfig(kind="binary"))
        return GateTrainer(gated, split, GateTrainingConfig(**how))
    how |= {"skip_rate": 0.5, "distillation": 0.5}
    return ResidualTrainer(network, split, ResidualTrainingConfig(**how))


def train(kind: str = "main") -> str:
    """Hash of the weights after an epoch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trainer = make_trainer(kind)
    trainer.train_epoch(lambda step, loss: None)
    return digest(trainer.network.state_dict())


STATES: dict[str, Callable[[], Any]] = {
    "double": lambda: torch.set_default_dtype(torch.float64),
    "half": lambda: torch.set_default_dtype(torch.bfloat16),
    "device": lambda: torch.set_default_device("meta"),
    "no-gradients": lambda: torch.set_grad_enabled(False),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "matmul": lambda: torch.set_float32_matmul_precision("medium"),
    "numpy-errors": lambda: np.seterr(all="raise"),
}


@contextlib.contextmanager
def ambient(name: str) -> Iterator[None]:
    before = torch.get_default_dtype(), torch.is_grad_enabled()
    numpy_errors, matmul = np.geterr(), torch.get_float32_matmul_precision()
    try:
        STATES[name]()
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(before[0])
        torch.set_grad_enabled(before[1])
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision(matmul)
        np.seterr(**numpy_errors)


@cache
def expected_walk(kind: str) -> str:
    return walk(ENVS[kind]())


CASES = [("shipped", state) for state in STATES]
CASES += [(kind, state) for kind in ENVS for state in ("double", "device")][2:]


@pytest.mark.parametrize(("kind", "state"), CASES)
def test_environments(kind: str, state: str) -> None:
    expected, made_before = expected_walk(kind), ENVS[kind]()
    with ambient(state):
        assert walk(made_before) == expected
        assert walk(ENVS[kind]()) == expected


@pytest.mark.parametrize("state", STATES)
def test_predictors(state: str, tmp_path: Path) -> None:
    for number, policy in enumerate((PlanPolicy((1, 2)), NetworkPolicy(small_net()))):
        made_before, folder = make_predictor(policy), tmp_path / str(number)
        expected = answers(made_before)
        made_before.save(folder)
        with ambient(state):
            assert answers(made_before) == expected
            assert answers(make_predictor(policy)) == expected
            assert answers(DynaLayPredictor.load(folder)) == expected


@pytest.mark.parametrize("kind", ["main", "residual", "gated"])
@pytest.mark.parametrize("state", [name for name in STATES if name != "device"])
def test_training(state: str, kind: str) -> None:
    shared_split()  # samples of one's own have the type that they were made with
    expected = train(kind)
    with ambient(state):
        assert train(kind) == expected


CONFIGS: dict[str, Any] = {
    "policy-gradient": PolicyGradientConfig(num_steps=8),
    "exact": ExactConfig(),
    "ppo": PPOConfig(n_steps=8, batch_size=16),
}


def learn(kind: str) -> str:
    """Hash of all that an agent has after some steps."""
    transitions = "table" if kind == "exact" else "live"
    options: dict[str, Any] = {"split": "validation", "transitions": transitions}
    agent: Any = make_agent(gym.make_vec(DIGITS, num_envs=4, **options), CONFIGS[kind])
    agent.learn(64)
    return digest(agent.training_state())


@pytest.mark.parametrize("state", ["double", "numpy-errors"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_agents(kind: str, state: str) -> None:
    expected = learn(kind)
    with ambient(state):
        assert learn(kind) == expected


# --- what a process starts with -------------------------------------------------------

PROGRAM = """
import locale, sys
sys.path.append("tests")
try:
    locale.setlocale(locale.LC_ALL, "")
except locale.Error:
    pass  # it is not installed here
import test_ambient_state as tests
print(tests.walk(tests.ENVS["shipped"]()), tests.answers(
    tests.make_predictor(tests.PlanPolicy((1, 2)))), tests.train())
"""


@pytest.mark.slow  # processes that import torch
def test_locales_hash_seeds_and_optimisation(tmp_path: Path) -> None:
    def run(*options: str, **environment: str) -> str:
        result = subprocess.run(
            [sys.executable, *options, "-c", PROGRAM],
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    expected = run(PYTHONHASHSEED="0")
    assert run("-O", PYTHONHASHSEED="1") == expected
    assert run(LC_ALL="C") == expected
    assert run(LC_ALL="de_DE.UTF-8") == expected
