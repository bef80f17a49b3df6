"""A gated network decided on from outside: whoever follows its gates gets it whole."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers.flops import FlopCount
from helpers.networks import own_split
from helpers.residual import look_macs, random_gated
from torch import Tensor

from dynalay_gym.evaluation.comparison import make_reference_policies
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.fastest import as_session
from dynalay_gym.sessions.skip.decisions import RUN, SKIP, DecisionStates
from dynalay_gym.sessions.skip.gated import GatedSession
from dynalay_gym.testing import check_vector_env

NUM_IMAGES, NUM_BLOCKS = 12, 3
ROWS = torch.arange(NUM_IMAGES)
GATES: dict[str, dict[str, Any]] = {
    "layers": {"form": "pad", "channels": False},
    "channels": {"form": "project", "layers": False, "kind": "binary"},
    "both": {"form": "fast"},
}


@pytest.fixture(scope="module", params=GATES)
def network(request: pytest.FixtureRequest) -> GatedNetwork:
    return random_gated(**GATES[request.param])


@pytest.fixture(scope="module")
def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(NUM_IMAGES, 1, 8, 8, generator=generator)


def make_vec(network: GatedNetwork, images: Tensor, num_envs: int, **how: Any) -> Any:
    own = {"checkpoint": network, "split": own_split(images), "penalty": 0.25}
    return gym.make_vec(
        "dynalay_gym:DynaLay/SkipCIFAR10-v0", num_envs=num_envs, **own | how
    )


def follow_gates(session: GatedSession, images: Tensor) -> tuple[Any, Tensor]:
    """Run what is open; return the state and the MACs of every row."""
    state, rows = session.begin(images), torch.arange(len(images))
    macs = torch.full_like(rows, session.plain_macs)
    for _ in range(NUM_BLOCKS):
        gate = session.features(state, rows)[:, -1]
        macs += session.apply(state, rows, torch.where(gate > 0, RUN, SKIP)).macs
    return state, macs


@torch.no_grad()
def test_following_the_gates_is_the_network(
    network: GatedNetwork, images: Tensor
) -> None:
    session = as_session(network)
    assert type(session) is GatedSession
    state, macs = follow_gates(session, images)
    output = network(images)
    assert torch.equal(session.logits(state, ROWS), output.logits)
    is_open = torch.stack([gate.layer for gate in output.gates], 1) > 0
    assert torch.equal(state.ran, is_open)
    if network.gate_config.layers:
        assert 0 < is_open.double().mean() < 1
    # What a look at the answer in between takes is all that comes on top.
    assert torch.equal(macs, output.macs + look_macs(network, is_open))


@torch.no_grad()
def test_a_block_runs_though_its_gate_is_shut(images: Tensor) -> None:
    network = random_gated(channels=False)
    session = GatedSession(network)
    state = session.begin(images)
    shut = state.gates[0][:, 0] == 0
    assert 0 < shut.sum() < NUM_IMAGES
    cost = session.apply(state, ROWS, torch.full_like(ROWS, RUN))
    below = network.stem(images)
    whole = network.blocks[0](below)
    assert torch.equal(state.maps[1][shut], whole[shut])
    branch = network.blocks[0].macs(8).branch
    expected = branch + network.gate_macs(1) + network.head_macs
    assert cost.macs.tolist() == [expected] * NUM_IMAGES


def test_macs_are_those_that_run(network: GatedNetwork, images: Tensor) -> None:
    """Two rows a group at least: a lone row is convolved beside a copy of itself."""
    session, twice = GatedSession(network), images.repeat_interleave(2, 0)
    rows = torch.arange(len(twice))
    with FlopCount() as count:
        _, macs = follow_gates(session, twice)
    assert count.total() == 2 * int(macs.sum())
    state_ids = torch.tensor([3, 5, 7, 8, 10, 14]).repeat_interleave(4)
    state = session.begin(twice)
    with FlopCount() as count:
        cost = session.reach(state, rows, state_ids)
    assert count.total() == 2 * int(cost.macs.sum())


def test_reach_finds_the_same_gates_bits_and_features(
    network: GatedNetwork, images: Tensor
) -> None:
    session, state_ids = GatedSession(network), torch.arange(3, 15)
    reached, walked = session.begin(images), session.begin(images)
    session.reach(reached, ROWS, state_ids)
    _, taken = DecisionStates([(RUN, SKIP)] * NUM_BLOCKS).from_ids(state_ids)
    for actions in taken.T:
        session.apply(walked, ROWS, actions)
    assert torch.equal(session.state_ids(walked), state_ids)
    seen = session.features(reached, ROWS)
    assert torch.equal(seen, session.features(walked, ROWS))
    assert ((seen >= 0) & (seen <= 1)).all()
    for row in range(NUM_IMAGES):
        alone = session.begin(images[row : row + 1])
        session.reach(alone, ROWS[:1], state_ids[row : row + 1])
        assert torch.equal(session.features(alone, ROWS[:1])[0], seen[row])
        assert torch.equal(alone.logits[0], reached.logits[row])


@pytest.mark.parametrize("transitions", ["live", "table"])
def test_the_batched_checker(
    transitions: str, images: Tensor, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path))
    network = random_gated("fast")

    def make(num_envs: int, mode: str) -> gym.vector.VectorEnv:
        envs: gym.vector.VectorEnv = make_vec(
            network, images, num_envs, autoreset_mode=mode, transitions=transitions
        )
        return envs

    check_vector_env(make, num_steps=16)


def test_gates_are_a_reference_policy(network: GatedNetwork, images: Tensor) -> None:
    envs = make_vec(network, images, 4, autoreset_mode="Disabled")
    policies = make_reference_policies(envs, envs, 0.25)
    gates = next(each for each in policies if each.name == "gates")
    found = evaluate(envs, gates, penalty=0.25)
    with torch.no_grad():
        logits = network(images).logits
    right = logits.argmax(1) == own_split(images).labels
    assert np.array_equal(found.correct, right.numpy())
    predictor = DynaLayPredictor.from_env(envs, gates)
    assert torch.equal(predictor.infer(images).labels, logits.argmax(1))


def test_a_predictor_comes_back(network: GatedNetwork, images: Tensor, tmp_path: Any):
    from dynalay_gym.predictor.policies import PlanPolicy

    predictor = DynaLayPredictor(network, PlanPolicy([RUN, SKIP, RUN]), penalty=0.1)
    predictor.save(tmp_path)
    loaded = DynaLayPredictor.load(tmp_path)
    assert type(loaded.session) is GatedSession
    for mine, theirs in zip(predictor.infer(images), loaded.infer(images), strict=True):
        assert torch.equal(mine, theirs)
