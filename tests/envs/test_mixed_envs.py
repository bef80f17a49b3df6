"""Stop, run, skip, iterate as an environment: over a trained network with gates."""

from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from helpers.residual import random_residual
from helpers.striped import striped_split

from agents.exact.agent import ExactAgent
from agents.exact.config import ExactConfig
from agents.sb3.agent import SB3Agent
from agents.sb3.config import PPOConfig
from dynalay_gym.data.splits import Split
from dynalay_gym.envs.oracle import best_fixed_plan, optimum
from dynalay_gym.envs.skipping.one_shot import OneShotVector, to_plans
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.networks.lcnet.config import GateConfig
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.networks.lcnet.training import GateTrainer, GateTrainingConfig
from dynalay_gym.networks.residual.config import ResidualConfig
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.networks.residual.training import (
    ResidualTrainer,
    ResidualTrainingConfig,
)
from dynalay_gym.predictor.export import export_parts
from dynalay_gym.predictor.policies import PlanPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.measure import export
from dynalay_gym.sessions.skip.decisions import ITERATE, RUN, SKIP
from dynalay_gym.sessions.skip.session import SkipSession
from dynalay_gym.testing import check_vector_env

ENV_ID = "dynalay_gym:DynaLay/SkipCIFAR10-v0"
BEST = (ITERATE, SKIP, ITERATE)  # the plan whose answers are called right


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path / "cache"))


@cache
def trained() -> tuple[GatedNetwork, Split]:
    """Network with gates and fixed points, trained on three easy classes."""
    torch.manual_seed(0)
    split = striped_split()
    config = ResidualConfig(
        in_shape=(1, 8, 8),
        num_classes=3,
        form="fast",
        widths=(6, 8),
        depths=(1, 2),
        shortcut="pool",
        iterated=(1, 3),
    )
    whole = ResidualTrainingConfig(epochs=4, batch_size=24, skip_rate=0.5)
    first = ResidualTrainer(ResidualNetwork(config), split, whole)
    for _ in range(whole.epochs):
        first.train_epoch(lambda step, loss: None)
    gated = GatedNetwork(first.network, GateConfig(layers=False))
    gates = GateTrainingConfig(
        epochs=6,
        batch_size=24,
        augment=False,
        target=0.7,
        learning_rate=0.01,
        gate_learning_rate=0.05,
    )
    second = GateTrainer(gated, split, gates)
    for _ in range(gates.epochs):
        second.train_epoch(lambda step, loss: None)
    return second.network.eval(), split


@cache
@torch.no_grad()
def made() -> tuple[ResidualNetwork, Split]:
    """Random network; right is what it says by the plan `BEST`."""
    network = random_residual(num_classes=4, widths=(6, 12), iterated=(1, 3))
    for block in (network.blocks[0], network.blocks[2]):
        torch.nn.init.normal_(block.norm_iterated.bias)
    images = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    session, rows = SkipSession(network), torch.arange(len(images))
    state = session.begin(images)
    for action in BEST:
        session.apply(state, rows, torch.full_like(rows, action))
    logits = session.logits(state, rows)
    network.head.bias -= logits.mean(0)  # so that all classes are found
    labels = (logits - logits.mean(0)).argmax(1)
    return network, Split(inputs=images, labels=labels, groups=rows, name="own")


def make_vec(num_envs: int, problem: Any = trained, **changes: Any) -> Any:
    network, split = problem()
    own = {"checkpoint": network, "split": split, "penalty": 0.1, "device": "cpu"}
    return gym.make_vec(ENV_ID, num_envs=num_envs, **own | changes)


def test_the_trained_example_is_worth_deciding_on() -> None:
    """It has all modes: channels that are shut, iterations that change answers."""
    network, split = trained()
    with torch.no_grad():
        output = network(split.inputs, (1, 3))
        plain = network(split.inputs)
    assert (output.logits.argmax(1) == split.labels).double().mean() > 0.9
    assert (output.macs > plain.macs).any()
    assert not torch.equal(output.logits, plain.logits)
    shut = [gate.channels == 0 for gate in output.gates if gate.channels is not None]
    assert torch.cat(shut, 1).any()


@pytest.mark.parametrize("reward", ["three-term", "blockdrop"])
def test_a_table_is_equal_to_the_network_to_the_bit(reward: str) -> None:
    live, table = (
        make_vec(9, transitions=kind, reward=reward) for kind in ("live", "table")
    )
    assert live.unwrapped.action_names == ("stop", "run", "skip", "iterate")
    assert data_equivalence(live.reset(seed=0), table.reset(seed=0), exact=True)
    rng, steps = np.random.default_rng(0), 0
    for _ in range(40):
        actions = rng.integers(0, 4, 9)
        stepped = live.step(actions)
        assert data_equivalence(table.step(actions), stepped, exact=True)
        steps += int(stepped[4]["solver_steps"].sum())
    assert steps > 0


@pytest.mark.parametrize("transitions", ["live", "table"])
def test_the_batched_checker(transitions: str) -> None:
    def make(num_envs: int, mode: str) -> gym.vector.VectorEnv:
        envs: gym.vector.VectorEnv = make_vec(
            num_envs, autoreset_mode=mode, transitions=transitions
        )
        return envs

    check_vector_env(make, num_steps=16)


def test_saved_rows_go_on_where_they_were() -> None:
    first, second = make_vec(4), make_vec(4)
    first.reset(seed=1)
    first.step([3, 1, 0, 2])
    second.set_state(first.get_state())
    for actions in ([1, 3, 3, 1], [3, 3, 2, 0]):
        assert data_equivalence(first.step(actions), second.step(actions), exact=True)


def test_iterating_is_masked_where_the_block_has_no_fixed_point() -> None:
    envs = make_vec(1, autoreset_mode="Disabled")
    _, infos = envs.reset(seed=0)
    for action, mask in ((3, [1, 1, 1, 0]), (1, [1, 1, 1, 1]), (3, [1, 0, 0, 0])):
        _, _, _, _, infos = envs.step([action])
        assert infos["action_mask"].tolist() == [mask]


def test_one_shot_runs_and_skips_and_never_iterates() -> None:
    bits = np.array([[1, 0, 1], [1, 1, 1]])
    at_once = OneShotVector(make_vec(2, autoreset_mode="Disabled"))
    at_once.reset(seed=0, options={"index": [3, 7]})
    _, _, ends, _, infos = at_once.step(bits)
    assert ends.all() and not infos["solver_steps"].any()
    network, split = trained()
    predictor = DynaLayPredictor(network, PlanPolicy(to_plans(bits[1])), penalty=0.1)
    assert infos["prediction"][1] == predictor.infer(split.inputs[7:8]).labels[0]


def test_a_predictor_comes_back_with_its_fixed_points(tmp_path: Path) -> None:
    network, split = made()
    predictor = DynaLayPredictor(network, PlanPolicy(BEST), penalty=0.1)
    predictor.save(tmp_path)
    loaded = DynaLayPredictor.load(tmp_path)
    pairs = zip(predictor.infer(split.inputs), loaded.infer(split.inputs), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
    assert predictor.infer(split.inputs).solver_steps.min() > 0


def test_fixed_points_are_not_exported_in_parts(tmp_path: Path) -> None:
    predictor = DynaLayPredictor(made()[0], PlanPolicy(BEST), penalty=0.1)
    with pytest.raises(ConfigError, match="without --iterated"):
        export_parts(predictor, tmp_path)


def test_a_folder_says_how_good_iterating_is(tmp_path: Path) -> None:
    network, split = made()
    about = export(tmp_path, network, {"agent": split}, {"dataset": "cifar10"})
    assert about["accuracy"]["agent"].keys() == {"no blocks", "all blocks", "iterated"}
    assert make_vec(1, checkpoint=tmp_path).unwrapped.penalty_range == (0.1, 0.1)


# --- what is best is found ------------------------------------------------------------


def test_the_oracle_and_exact_learning_know_what_is_best() -> None:
    envs = make_vec(16, made, transitions="table", penalty=0.01)
    assert best_fixed_plan(envs.unwrapped) == BEST
    best = optimum(envs.unwrapped).returns
    agent = ExactAgent(envs, ExactConfig(), seed=0)
    agent.learn(60_000)
    walked = make_vec(48, made, autoreset_mode="Disabled", penalty=0.01)
    found = evaluate(walked, agent.policy, penalty=0.01)
    assert found.correct.mean() > 0.9
    assert found.mean_return > 0.9 * best.mean()
    run = evaluate(walked, PlanPolicy((RUN, SKIP, RUN)), penalty=0.01)
    assert run.correct.mean() < 0.8


def test_ppo_learns_to_iterate() -> None:
    config = PPOConfig(n_steps=16, batch_size=128, learning_rate=3e-3)
    agent = SB3Agent(make_vec(16, made, penalty=0.02), config, seed=0)
    agent.learn(3_000)
    walked = make_vec(48, made, autoreset_mode="Disabled", penalty=0.02)
    found = evaluate(walked, agent.policy, penalty=0.02)
    assert found.correct.mean() > 0.85
