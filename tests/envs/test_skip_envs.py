"""Blocks that are skipped as an environment: one by one, and all at once."""

import itertools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence
from helpers.networks import own_split, shared_model, shared_split
from helpers.residual import random_residual
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from agents.exact.agent import ExactAgent
from agents.exact.config import ExactConfig
from agents.sb3.agent import SB3Agent
from agents.sb3.config import PPOConfig
from dynalay_gym.data.splits import Split
from dynalay_gym.envs.config import SHIPPED
from dynalay_gym.envs.oracle import best_fixed_plan, optimum
from dynalay_gym.envs.skipping.one_shot import OneShot, OneShotVector, to_plans
from dynalay_gym.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    InvalidActionError,
    ResetNeededError,
)
from dynalay_gym.evaluation.comparison import compare
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.integrations.sb3 import SB3VecEnv
from dynalay_gym.networks.checkpoint import load_network_facts
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.sessions.measure import export
from dynalay_gym.sessions.skip.session import SkipSession
from dynalay_gym.testing import check_vector_env

SKIP, BLOCK_DROP = "DynaLay/SkipCIFAR10-v0", "DynaLay/BlockDropCIFAR10-v0"
BEST = (1, 0, 1)  # the blocks whose answer is called right
IMAGES = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
ALL = torch.arange(len(IMAGES))


@torch.no_grad()
def make_problem() -> tuple[ResidualNetwork, Split]:
    """Random network and images; right is what it says with the blocks of `BEST`."""
    network = random_residual(num_classes=4, widths=(6, 12))
    session = SkipSession(network)
    state = session.begin(IMAGES)
    for action in to_plans(BEST).tolist():
        session.apply(state, ALL, torch.full_like(ALL, action))
    logits = session.logits(state, ALL)
    network.head.bias -= logits.mean(0)  # so that all classes are found
    labels = (logits - logits.mean(0)).argmax(1)
    return network, Split(inputs=IMAGES, labels=labels, groups=ALL, name="own")


NETWORK, SPLIT = make_problem()


def kwargs(**changes: Any) -> dict[str, Any]:
    own = {"checkpoint": NETWORK, "split": SPLIT, "penalty": 0.25, "device": "cpu"}
    return own | changes


def make_vec(env_id: str, num_envs: int, **changes: Any) -> Any:
    return gym.make_vec(env_id, num_envs=num_envs, **kwargs(**changes))


def make_one(env_id: str, **changes: Any) -> gym.Env:
    return gym.make(env_id, disable_env_checker=True, **kwargs(**changes))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path / "cache"))


# --- the contract ---------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
@pytest.mark.parametrize("env_id", [SKIP, BLOCK_DROP])
def test_gymnasiums_checker(env_id: str) -> None:
    env = make_one(env_id)
    check_env(env if env_id == BLOCK_DROP else env.unwrapped, skip_render_check=True)


@pytest.mark.parametrize("transitions", ["live", "table"])
@pytest.mark.parametrize("env_id", [SKIP, BLOCK_DROP])
def test_the_batched_checker(env_id: str, transitions: str) -> None:
    def make(num_envs: int, mode: str) -> gym.vector.VectorEnv:
        envs: gym.vector.VectorEnv = make_vec(
            env_id, num_envs, autoreset_mode=mode, transitions=transitions
        )
        return envs

    def single() -> gym.Env:
        return make_one(env_id, transitions=transitions)

    check_vector_env(make, single, num_steps=16)


@pytest.mark.parametrize("reward", ["three-term", "blockdrop", "log-score"])
def test_a_table_is_equal_to_the_network_to_the_bit(reward: str) -> None:
    live, table = (
        make_vec(SKIP, 9, transitions=kind, reward=reward) for kind in ("live", "table")
    )
    assert data_equivalence(live.reset(seed=0), table.reset(seed=0), exact=True)
    rng = np.random.default_rng(0)
    for _ in range(30):
        actions = rng.integers(0, 3, 9)
        assert data_equivalence(table.step(actions), live.step(actions), exact=True)


def test_saved_rows_go_on_where_they_were() -> None:
    first, second = make_vec(SKIP, 4), make_vec(SKIP, 4)
    first.reset(seed=1)
    first.step([1, 1, 0, 2])
    second.set_state(first.get_state())
    for actions in ([1, 2, 1, 1], [1, 1, 2, 0]):
        assert data_equivalence(first.step(actions), second.step(actions), exact=True)


# --- what is paid ---------------------------------------------------------------------


def test_a_run_of_blocks_is_charged_by_its_macs_alone() -> None:
    """The paper's reward would charge the second block twice, the third thrice."""
    envs = make_vec(SKIP, 1, autoreset_mode="Disabled")
    unit = envs.unwrapped.always_extra_macs
    envs.reset(seed=0, options={"index": 5})
    total, spent = 0.0, 0
    for action in (1, 1, 1, 0):
        _, rewards, ends, _, infos = envs.step([action])
        total, spent = total + float(rewards[0]), spent + int(infos["macs"][0])
    assert ends[0] and spent == unit
    assert total == pytest.approx(0.5 * int(infos["correct"][0]) - 0.25)


def test_deciding_behind_the_last_block_is_redundant() -> None:
    envs = make_vec(SKIP, 1, autoreset_mode="Disabled", max_decisions=9)
    envs.reset(seed=0)
    for _ in range(3):
        _, rewards, _, _, infos = envs.step([2])
        assert rewards[0] == 0.0
    assert infos["action_mask"].tolist() == [[1, 0, 0]]
    assert envs.step([1])[1][0] == pytest.approx(-0.2)


@pytest.mark.parametrize("bits", list(itertools.product((0, 1), repeat=3)))
def test_blockdrop_pays_by_the_share_that_ran(bits: tuple[int, ...]) -> None:
    envs = make_vec(BLOCK_DROP, len(SPLIT), autoreset_mode="Disabled")
    envs.reset(options={"index": np.arange(len(SPLIT))})
    _, rewards, ends, _, infos = envs.step(np.tile(bits, (len(SPLIT), 1)))
    right = infos["correct"] == 1
    assert ends.all() and (right.all() if bits == BEST else not right.all())
    share = np.float32(sum(bits) / 3)
    assert rewards == pytest.approx(np.where(right, 1 - share**2, -1), abs=1e-6)


@pytest.mark.parametrize("mode", ["SameStep", "NextStep", "Disabled"])
def test_one_shot_is_the_same_blocks_one_by_one(mode: str) -> None:
    bits = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], dtype=np.int8)
    by_block = make_vec(SKIP, 4, autoreset_mode="Disabled")
    at_once = OneShotVector(make_vec(SKIP, 4, autoreset_mode=mode))
    index = {"index": [3, 7, 7, 20]}
    first, _ = by_block.reset(seed=0, options=index)
    second, infos = at_once.reset(seed=0, options=index)
    assert np.array_equal(first, second) and "action_mask" not in infos
    total, macs = np.zeros(4, dtype=np.float32), np.zeros(4, dtype=np.int64)
    for actions in [*to_plans(bits).T, np.zeros(4, dtype=np.int64)]:
        seen, rewards, _, _, last = by_block.step(actions)
        total, macs = total + rewards, macs + last["macs"]
    _, rewards, ends, cuts, infos = at_once.step(bits)
    assert ends.all() and not cuts.any()
    assert np.array_equal(rewards, total)
    assert np.array_equal(infos["final_obs"], seen)
    final = infos.get("final_info", infos)
    assert np.array_equal(final["macs"], macs)
    assert np.array_equal(final["prediction"], last["prediction"])


def test_a_last_decision_that_ends_the_episode_is_no_obstacle() -> None:
    envs = OneShotVector(make_vec(SKIP, 2, max_decisions=3))
    envs.reset(seed=0)
    _, _, ends, _, infos = envs.step([[1, 1, 1], [0, 0, 0]])
    assert ends.all() and infos["final_info"]["decisions"].tolist() == [3, 3]
    env = OneShot(make_one(SKIP, max_decisions=3))
    env.reset(seed=0)
    assert env.step([1, 1, 1])[2]


# --- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize("env_id", [SKIP, BLOCK_DROP])
def test_a_network_ships(env_id: str) -> None:
    images = Split(torch.randn(2, 3, 32, 32), torch.tensor([1, 2]))
    env = gym.make(env_id, split=images)
    _, info = env.reset(seed=0)
    run_all: Any = [1] * 6 if env_id == BLOCK_DROP else 1
    _, _, _, _, after = env.step(run_all)
    assert after["macs"] > info["macs"]
    facts = load_network_facts(SHIPPED / "cifar10-skip").about
    assert facts["accuracy"]["test"] == {"no blocks": 0.5383, "all blocks": 0.9116}
    with pytest.raises(CheckpointError, match="takes inputs of shape"):
        gym.make(env_id, split=shared_split())


@pytest.mark.parametrize("env_id", [SKIP, BLOCK_DROP])
def test_the_ids_need_a_network_of_blocks(env_id: str) -> None:
    with pytest.raises(CheckpointError, match=r"residual blocks.*layer 1"):
        gym.make_vec(env_id, checkpoint=shared_model(), split=shared_split())
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        gym.make(env_id, checkpoint="nowhere")


def test_other_environments_cannot_be_played_at_once() -> None:
    layers = gym.make_vec(
        "DynaLay/Digits-v0", checkpoint=shared_model(), split=shared_split()
    )
    with pytest.raises(ConfigError, match="stop, run, skip, not stop, layer 1"):
        OneShotVector(layers)
    with pytest.raises(ConfigError, match="CartPole"):
        OneShot(gym.make("CartPole-v1"))
    with pytest.raises(ConfigError, match="max_decisions=2 ends"):
        OneShotVector(make_vec(SKIP, 2, max_decisions=2))


@pytest.mark.parametrize(
    "action", [[[1, 0, 1]], [[1, 0]] * 2, [[2, 0, 0]] * 2, [[0.5, 0, 0]] * 2, "run", 1]
)
def test_an_action_that_is_no_bit_changes_nothing(action: Any) -> None:
    envs, untouched = make_vec(BLOCK_DROP, 2), make_vec(BLOCK_DROP, 2)
    for each in (envs, untouched):
        each.reset(seed=0)
    with pytest.raises(InvalidActionError, match="0 or 1 for every block"):
        envs.step(action)
    bits = np.ones((2, 3), dtype=np.float32)  # as Stable-Baselines3 gives them
    assert data_equivalence(envs.step(bits), untouched.step(bits), exact=True)


def test_order_and_modes_are_looked_at() -> None:
    envs = make_vec(BLOCK_DROP, 2, autoreset_mode="Disabled")
    with pytest.raises(ResetNeededError):
        envs.step(np.zeros((2, 3)))
    envs.reset(seed=0)
    envs.step(np.zeros((2, 3)))
    with pytest.raises(InvalidActionError, match="have finished"):
        envs.step(np.zeros((2, 3)))
    next_step = make_vec(BLOCK_DROP, 2, autoreset_mode="NextStep")
    with pytest.raises(ConfigError, match="start together"):
        next_step.reset(options={"reset_mask": np.array([True, False])})


def test_broken_weights_and_images_are_refused() -> None:
    broken = random_residual()
    with torch.no_grad():
        broken.head.weight[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="NaN or infinite weights"):
        make_one(SKIP, checkpoint=broken)
    images = torch.full((3, 1, 8, 8), torch.inf)
    with pytest.raises(DataError, match="infinite"):
        make_one(SKIP, split=own_split(images))
    with pytest.raises(CheckpointError, match=r"\(1, 8, 8\).*\(3, 8, 8\)"):
        make_one(SKIP, split=own_split(torch.zeros(3, 3, 8, 8)))


# --- everything above it --------------------------------------------------------------


def test_the_oracle_the_best_plan_and_exact_learning_know_what_is_best() -> None:
    """With compute nearly free, the blocks that make the labels are best for all."""
    envs = make_vec(SKIP, 16, transitions="table", penalty=0.01)
    assert best_fixed_plan(envs.unwrapped) == tuple(to_plans(BEST).tolist())
    best = optimum(envs.unwrapped).returns
    assert best.min() > 0.5 - 0.01
    agent = ExactAgent(envs, ExactConfig(), seed=0)
    agent.learn(60_000)
    walked = make_vec(SKIP, 48, autoreset_mode="Disabled", penalty=0.01)
    found = evaluate(walked, agent.policy, penalty=0.01)
    assert found.correct.mean() > 0.9
    assert found.mean_return > 0.9 * best.mean()


def test_reference_policies_are_compared() -> None:
    envs = make_vec(SKIP, 16, autoreset_mode="Disabled")
    fixed = PlanPolicy(to_plans(BEST), name="found")
    results = {each.policy: each for each in compare(fixed, envs, envs, 0.25)}
    assert list(results) == (
        "found nop always random max-prob entropy patience fixed-k max-prob-once "
        "entropy-once best-fixed oracle random-mix".split()
    )
    assert results["found"].correct.all()
    always = results["always"].macs
    assert (always == envs.unwrapped.always_extra_macs).all()


def test_ppo_learns_to_skip_block_by_block() -> None:
    """Every other plan is right on two thirds of the images at most."""
    config = PPOConfig(n_steps=16, batch_size=128, learning_rate=3e-3)
    agent = SB3Agent(make_vec(SKIP, 16, penalty=0.02), config, seed=0)
    agent.learn(2_000)
    walked = make_vec(SKIP, 48, autoreset_mode="Disabled", penalty=0.02)
    assert evaluate(walked, agent.policy, penalty=0.02).correct.mean() > 0.9


def test_ppo_learns_all_blocks_at_once() -> None:
    model = PPO(
        "MlpPolicy",
        VecMonitor(SB3VecEnv(make_vec(BLOCK_DROP, 16))),
        n_steps=32,
        batch_size=128,
        learning_rate=3e-3,
        seed=0,
        device="cpu",
    )
    model.learn(5_000)
    envs = make_vec(BLOCK_DROP, len(ALL), autoreset_mode="Disabled")
    seen, _ = envs.reset(options={"index": ALL.numpy()})
    bits, _ = model.predict(seen, deterministic=True)
    _, rewards, _, _, infos = envs.step(bits)
    assert infos["correct"].mean() > 0.9
    assert rewards.mean() > 0.9 * (1 - (2 / 3) ** 2)
    walked = make_vec(SKIP, 48, autoreset_mode="Disabled")  # beside other policies
    found = evaluate(walked, PlanPolicy(to_plans(bits)), penalty=0.25)
    assert np.array_equal(found.correct, infos["correct"] == 1)


@pytest.mark.parametrize("env_id", [SKIP, BLOCK_DROP])
def test_a_folder_is_a_checkpoint(env_id: str, tmp_path: Path) -> None:
    """With the cost unit that is stored, and the break-even as penalty."""
    export(tmp_path, NETWORK, {"agent": SPLIT}, {"dataset": "cifar10"})
    env: Any = make_one(env_id, checkpoint=tmp_path, penalty=None)
    expected: Any = make_one(env_id, penalty=None)
    assert env.unwrapped.penalty_range == expected.unwrapped.penalty_range
    env.reset(seed=0)
