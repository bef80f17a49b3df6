"""What speed is held against does the same work as the package."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import (
    make_vec,
    random_images,
    shared_model,
    tiny_config,
)

from benchmarks.speed.baselines.env import HandEnv
from benchmarks.speed.baselines.layers import (
    KAPPA,
    make_subject,
    operator_norm,
)
from benchmarks.speed.baselines.network import HandNetwork
from benchmarks.speed.common import Options, random_actions
from benchmarks.speed.parts.backward import BASE
from benchmarks.speed.parts.backward import measure_layer as measure_gradients
from benchmarks.speed.parts.env import macs_per_step
from benchmarks.speed.parts.predictor import (
    AtOnce,
    StepByStep,
    iterate_all,
    mean_macs,
    random_plans,
)
from benchmarks.speed.parts.solver import measure_layer
from dynalay_gym.envs.single_env import DynaLayEnv
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.agent_net import AgentNet
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.predictor.policies import NetworkPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor

FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Options, "rounds", 1)


@pytest.fixture(params=["digits", "tiny"])
def make_envs(request: pytest.FixtureRequest) -> Callable[[int], Any]:
    if request.param == "digits":
        return partial(DynaLayVectorEnv, device="cpu")
    return make_vec


@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_network_by_hand_gives_the_packages_logits(
    memory_format: torch.memory_format,
) -> None:
    model, images = shared_model(), random_images(tiny_config(), 6)
    by_hand = HandNetwork(model, memory_format)
    for state in range(8):
        # One at a time: by hand, a batch iterates until its slowest has converged.
        rows = [by_hand.run(one[None], state, 0.1, 20) for one in images]
        with torch.no_grad():
            expected = model.forward_path(images, state, model.solvers[0])
        torch.testing.assert_close(torch.cat(rows), expected, rtol=1e-4, atol=1e-4)


def test_the_environment_by_hand_has_the_same_transitions(
    make_envs: Callable[[int], Any],
) -> None:
    envs = make_envs(1)
    problem = envs.problem
    env = DynaLayEnv(
        checkpoint=problem.session.network,
        split=envs.config.split,
        penalty=problem.penalty_range[0],
        device="cpu",
    )
    network, rng = HandNetwork(problem.session.network), np.random.default_rng(0)
    by_hand = HandEnv(env.problem, network)
    assert by_hand.observation_space == env.observation_space
    assert by_hand.action_space == env.action_space
    for index in range(20):
        expected = *env.reset(seed=0, options={"index": index}), 0.0, False
        found = *by_hand.reset(options={"index": index}), 0.0, False
        while True:
            observation, info, reward, ended = found
            np.testing.assert_allclose(observation, expected[0], atol=1e-4)
            assert observation.dtype == expected[0].dtype
            assert set(info) == {"index", "macs", "correct"}
            assert info == {key: expected[1][key] for key in info}
            assert (ended, reward) == (
                expected[3],
                pytest.approx(expected[2], abs=1e-5),
            )
            if ended:
                break
            action = int(rng.integers(4))
            expected, found = (_step(each, action) for each in (env, by_hand))


def _step(env: Any, action: int) -> tuple[Any, ...]:
    observation, reward, ended, _, info = env.step(action)
    return observation, info, reward, ended


def test_random_actions_stop_half_of_the_time() -> None:
    drawn = random_actions(make_vec(50), 200)
    assert drawn.shape == (200, 50)
    shares = np.bincount(drawn.ravel()) / drawn.size
    np.testing.assert_allclose(shares, [1 / 2, 1 / 6, 1 / 6, 1 / 6], atol=0.02)


def test_multiply_adds_of_a_step_hold_those_of_resets() -> None:
    class Stopping(DynaLayVectorEnv):
        """Whose every step ends an episode, so that a step is one plain pass."""

        def step(self, actions: Any) -> Any:
            return super().step(np.zeros_like(actions))

    envs = Stopping(4, device="cpu")
    assert macs_per_step(envs, 5) == envs.plain_macs


def test_plans_are_ascending_and_end_with_zeros() -> None:
    plans = random_plans(2000, 3, 0.25)
    assert {tuple(plan) for plan in plans.tolist()} == {
        *((0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)),
        *((1, 2, 0), (1, 3, 0), (2, 3, 0), (1, 2, 3)),
    }
    assert (plans > 0).mean() == pytest.approx(0.25, abs=0.02)


def test_policies_follow_their_plans_and_pay_for_the_agent() -> None:
    network, images = shared_model(), random_images(tiny_config(), 24)
    plans = random_plans(24, 3, 0.5)
    first = DynaLayPredictor(network, PlanPolicy(()), penalty=0.0)
    layout = first.observation_layout
    agent = NetworkPolicy(AgentNet(layout["remaining"].stop, 4))
    own = agent.macs_per_decision
    decisions = (plans > 0).sum(1) + 1
    for kind, asked in ((StepByStep, np.minimum(decisions, 4).mean()), (AtOnce, 1)):
        predictor = DynaLayPredictor(
            first.session, kind(agent, plans), penalty=0.0, batch_size=7
        )
        found = predictor.infer(images)
        assert found.actions[:, :3].clamp(min=0).tolist() == plans.tolist()
        macs = float(found.macs.double().mean())
        assert mean_macs(predictor, images) == pytest.approx(macs + asked * own)


def test_what_iterating_everything_costs_by_hand() -> None:
    envs, images = make_vec(1), random_images(tiny_config(), 5)
    session = envs.problem.session
    macs = iterate_all(session, images)
    state, rows = session.begin(images), torch.arange(5)
    taken = session.reach(state, rows, torch.full((5,), 7))
    steps = taken.macs - session.costs.refresh(1)
    assert torch.equal(macs, session.plain_macs + steps)
    assert (macs > session.plain_macs).all()


def test_all_solvers_find_the_same_fixed_points() -> None:
    rows = measure_layer("random-64@4", 8, Options())
    assert len(rows) in (2, 4)  # torchdeq's, where it is installed
    assert max(row["error"] for row in rows) < 5e-3
    assert rows[0]["solver"] == "plain"
    assert rows[0]["over_plain"] == 1.0


def test_all_gradients_but_the_one_step_ones_agree() -> None:
    rows = measure_gradients("random-64@4", 8, Options())
    assert len(rows) in (5, 8)
    cosines = {row["gradient"]: row["cosine"] for row in rows}
    rough = [cosines.pop(k) for k in ("one-step", "torchdeq grad=1") if k in cosines]
    assert rough == pytest.approx([rough[0]] * len(rough), abs=1e-3)
    assert min(cosines.values()) > 0.999 > max(rough)
    saved = {row["gradient"]: row["saved_mib"] for row in rows}
    assert 0 < saved[BASE] < saved["unrolled"] / 3


def test_layers_have_the_norm_that_they_claim() -> None:
    layer, x, labels = make_subject("smoothing-4@6", 3)
    assert x.shape == (3, 4, 6, 6)
    assert labels.shape == (3,)
    assert operator_norm(layer.free_weight.detach(), 6) == pytest.approx(
        KAPPA, abs=1e-3
    )
    with pytest.raises(ConfigError, match="smoothing-32@16"):
        make_subject("smooth-4@6", 3)
