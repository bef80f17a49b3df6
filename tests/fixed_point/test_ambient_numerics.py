"""Global settings of PyTorch and NumPy that a user's program may have made."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import make_vec, random_model, shared_split, tiny_config
from torch import Tensor, nn

from agents.exact.config import ExactConfig
from agents.policy_gradient.config import PolicyGradientConfig
from agents.registry import make_agent
from agents.sb3.config import PPOConfig
from dynalay_gym.cotraining.config import CoTrainingConfig
from dynalay_gym.cotraining.trainer import CoTrainer
from dynalay_gym.networks.agent_net import AgentNet
from dynalay_gym.networks.policy import GreedyNetPolicy
from dynalay_gym.networks.training import MainTrainer, TrainingConfig
from dynalay_gym.predictor.policies import PlanPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.torch_session import TorchSession


def flat(module: nn.Module) -> Tensor:
    return torch.cat([part.flatten().double() for part in module.state_dict().values()])


def environment(**options: Any) -> Tensor:
    envs, parts = make_vec(4, **options), list[Tensor]()
    parts.append(torch.as_tensor(envs.reset(seed=0)[0]))
    for action in (1, 3, 2, 0, 1):
        observations, rewards, *_ = envs.step([action] * 4)
        parts += [torch.as_tensor(observations), torch.as_tensor(rewards)[:, None]]
    return torch.cat(parts, 1).double()


def live() -> Tensor:
    return torch.cat([environment(form=form) for form in ("state", "wide")], 1)


def interpreted() -> Tensor:
    return environment(checkpoint=TorchSession(random_model(tiny_config())))


def predictor() -> Tensor:
    model = random_model(tiny_config())
    found = DynaLayPredictor(model, PlanPolicy((1, 3)), penalty=0.25)
    return found.infer(shared_split().inputs).probabilities.double()


def agent(config: Any, **options: Any) -> Tensor:
    learner: Any = make_agent(make_vec(4, output=config.output, **options), config)
    learner.learn(64)
    return flat(learner.module)


def main_network(**options: Any) -> Tensor:
    config = TrainingConfig(epochs=1, batch_size=12, **options)
    trainer = MainTrainer(random_model(tiny_config()), shared_split(), config)
    trainer.train_epoch(lambda step, loss: None)
    return flat(trainer.network)


def co_training(mode: Callable[[], Any] = nullcontext) -> Tensor:
    envs = make_vec(4)
    config = CoTrainingConfig(batch_size=8, replay_size=8)
    trainer = CoTrainer(envs.problem, shared_split(), config, seed=0)
    torch.manual_seed(0)
    net = AgentNet(envs.single_observation_space.shape[0], 4, (8,))
    policy = GreedyNetPolicy(net, name="fixed")
    with mode():  # of the loop that steps the environment
        trainer.turn(policy, 16)
    return flat(trainer.network)


WORK: dict[str, Callable[[], Tensor]] = {
    "live": live,
    "interpreted": interpreted,
    "predictor": predictor,
    "policy-gradient": lambda: agent(PolicyGradientConfig(num_steps=8, hidden=(8,))),
    "exact": lambda: agent(ExactConfig(hidden=(8,)), transitions="table"),
    "ppo": lambda: agent(PPOConfig(n_steps=8, n_epochs=1, hidden=(8,))),
    "all": lambda: main_network(paths="all", augment=True),
    "portions": lambda: main_network(paths="portions"),
    "bf16": lambda: main_network(paths="mixed", precision="bf16"),
    "co": co_training,
}


@contextmanager
def no_gradients() -> Iterator[None]:
    with torch.set_grad_enabled(False):
        yield


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def numpy_raises() -> Iterator[None]:
    with np.errstate(all="raise"):
        yield


@contextmanager
def medium_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Tensor]]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("DYNALAY_CACHE_DIR", str(folder))
        yield {name: work() for name, work in WORK.items()}


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize(
    "setting", [no_gradients, deterministic, numpy_raises, medium_precision]
)
def test_a_global_setting_changes_nothing(
    work: str,
    setting: Callable[[], Any],
    expected: dict[str, Tensor],
) -> None:
    with setting():
        found = WORK[work]()
    if setting is medium_precision:  # it may round products to half precision
        torch.testing.assert_close(found, expected[work], rtol=0.05, atol=0.05)
    else:
        assert torch.equal(found, expected[work])


def test_a_network_learns_while_a_loop_steps_in_inference_mode() -> None:
    assert torch.equal(co_training(torch.inference_mode), co_training())
