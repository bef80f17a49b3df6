"""The workloads of ``compare_checkouts.py``, in the spelling of this checkout.

``WORKLOADS`` maps a name to a function that prepares the work and returns a job; a job
does some units of work and returns how many. Another checkout may spell them otherwise.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from agents.options import default_configs
from agents.registry import make_agent
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.envs.config import SHIPPED
from dynalay_gym.envs.single_env import DynaLayEnv
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.fixed_point.layers import ConvFixedPointLayer
from dynalay_gym.fixed_point.solve import SolverConfig, SolverMethod
from dynalay_gym.networks.agent_net import AgentNet
from dynalay_gym.networks.checkpoint import load_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.networks.presets import make_config
from dynalay_gym.predictor.policies import NetworkPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.transition_table import build_table

Job = Callable[[], int]
DIGITS_OBSERVATION = 65
STEPS = 4096  # of a training


def step_env(num_envs: int, **kwargs: Any) -> Job:
    """Return random steps of a batched environment, half of them action 0."""
    envs = DynaLayVectorEnv(num_envs, device="cpu", **kwargs)
    chances = [1 / 2, 1 / 6, 1 / 6, 1 / 6]
    drawn = np.random.default_rng(0).choice(4, (256, num_envs), p=chances)
    actions = itertools.cycle(drawn)
    envs.reset(seed=0)

    def job() -> int:
        envs.step(next(actions))
        return num_envs

    return job


def step_small() -> Job:
    """Return the same on random weights and images of the small preset."""
    torch.manual_seed(0)
    network = MainNetwork(make_config("small", (3, 32, 32), 10))
    number = torch.arange(2048)
    images = torch.randn(2048, 3, 32, 32)
    split = Split(inputs=images, labels=number % 10, groups=number, name="random")
    return step_env(64, checkpoint=network, split=split, penalty=0.1)


def step_single() -> Job:
    """Return episodes of the single form: one layer, then the answer."""
    env = DynaLayEnv(device="cpu")

    def job() -> int:
        env.reset()
        env.step(1)
        env.step(0)
        return 2

    return job


def solve(method: SolverMethod, backward: bool = False) -> Job:
    """Return solves of a layer that contracts slowly: 32 channels, side 16."""
    torch.manual_seed(0)
    solver = SolverConfig(rtol=1e-3, max_steps=200, method=method, adjoint_rtol=1e-3)
    layer = ConvFixedPointLayer(32, 16, 16, kappa=0.95, solver=solver)
    with torch.no_grad():
        layer.free_weight.abs_()
    x = torch.randn(64, 32, 16, 16, requires_grad=backward)

    def job() -> int:
        with torch.set_grad_enabled(backward):
            value = layer(x)
        if backward:
            value.square().sum().backward()
        return len(x)

    return job


def predict(num: int, with_agent: bool) -> Job:
    """Return answers to digits by a plan, or by an AgentNet that was not trained."""
    network, _ = load_network(SHIPPED / "digits")
    torch.manual_seed(3)  # this one takes every action, 2.3 decisions on average
    agent = AgentNet(DIGITS_OBSERVATION, 4)
    weights = agent.state_dict()
    weights["torso.0.weight"] *= 8
    for name in ("policy_head.head.weight", "policy_head.tail.0.1.weight"):
        weights[name] *= 100
    policy: Any = NetworkPolicy(agent) if with_agent else PlanPolicy((1, 2))
    predictor = DynaLayPredictor(network, policy, penalty=0.1)
    images = load_split("digits", "test").inputs[:num]
    return lambda: len(predictor.predict(images))


def learn() -> Job:
    """Return trainings of the policy gradient on the table."""
    config = default_configs()["policy-gradient"]
    env_id = "dynalay_gym:DynaLay/Digits-v0"
    kwargs: Any = {"transitions": "table", "output": config.output, "device": "cpu"}
    agent = make_agent(gym.make_vec(env_id, 64, **kwargs), config)

    def job() -> int:
        agent.learn(STEPS)
        return STEPS

    return job


def make_table() -> Job:
    """Return tables of the digits' agent split."""
    problem = DynaLayVectorEnv(1, device="cpu").problem
    session: Any = problem.session

    def job() -> int:
        build_table(session, problem.inputs, problem.labels)
        return 1

    return job


WORKLOADS: dict[str, Callable[[], Job]] = {
    "env live, digits, 64 rows": partial(step_env, 64),
    "env live, digits, 1024 rows": partial(step_env, 1024),
    "env live, small, 64 rows": step_small,
    "env live, digits, single form": step_single,
    "env table, 64 rows": partial(step_env, 64, transitions="table"),
    "env table, 1024 rows": partial(step_env, 1024, transitions="table"),
    "table, made": make_table,
    "solver, plain": partial(solve, SolverMethod.PLAIN),
    "solver, Anderson": partial(solve, SolverMethod.ANDERSON),
    "backward, implicit": partial(solve, SolverMethod.ANDERSON, backward=True),
    "predictor, plan, 32 digits": partial(predict, 32, with_agent=False),
    "predictor, plan, 256 digits": partial(predict, 256, with_agent=False),
    "predictor, AgentNet, 32 digits": partial(predict, 32, with_agent=True),
    "predictor, AgentNet, 256 digits": partial(predict, 256, with_agent=True),
    "policy gradient, table, 64 rows": learn,
}
