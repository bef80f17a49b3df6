"""What a row holds is a function of which blocks ran, bit for bit."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from helpers.flops import FlopCount
from helpers.networks import own_split
from helpers.residual import FORMS, random_residual
from torch import Tensor

from dynalay_gym.errors import CheckpointError, ConfigError
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.sessions.calibration import calibrate, visit_states
from dynalay_gym.sessions.fastest import as_session
from dynalay_gym.sessions.protocol import FiniteStates, Inspectable, Savable
from dynalay_gym.sessions.skip.decisions import (
    RUN,
    SKIP,
    STOP,
    DecisionStates,
)
from dynalay_gym.sessions.skip.session import SkipSession
from dynalay_gym.sessions.skip.state import SkipState
from dynalay_gym.sessions.states import default_decisions
from dynalay_gym.sessions.transition_table import finite

NUM_IMAGES, NUM_BLOCKS = 6, 3
ROWS = torch.arange(NUM_IMAGES)
LEAVES = list(itertools.product((True, False), repeat=NUM_BLOCKS))


@pytest.fixture(scope="module", params=FORMS)
def network(request: pytest.FixtureRequest) -> ResidualNetwork:
    return random_residual(request.param)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(NUM_IMAGES, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def answer(network: ResidualNetwork, images: Tensor, ran: Any) -> Tensor:
    """Logits of a network of which only some blocks have their branch."""
    x = network.stem(images)
    for block, did_run in zip(network.blocks, ran, strict=True):
        x = block(x) if did_run else block.merge(block.shortcut(x))
    return network.answer(x)


def play(
    session: SkipSession, images: Tensor, actions: list[int]
) -> tuple[SkipState, int]:
    """Take the same actions in all rows; return the state and MACs of one row."""
    state, rows, macs = session.begin(images), torch.arange(len(images)), 0
    for action in actions:
        cost = session.apply(state, rows, torch.full_like(rows, action))
        assert (cost.macs == cost.macs[0]).all()
        macs += int(cost.macs[0])
    return state, macs


def plan(ran: Any) -> list[int]:
    return [RUN if each else SKIP for each in ran]


def assert_equal(state: SkipState, row: int, other: SkipState, at: int) -> None:
    for mine, theirs in zip(state.maps, other.maps, strict=True):
        assert torch.equal(mine[row], theirs[at])
    for name in ("pooled", "logits", "position", "taken"):
        assert torch.equal(getattr(state, name)[row], getattr(other, name)[at]), name


# --- the automaton --------------------------------------------------------------------


def test_two_blocks_are_a_tree_of_seven_states() -> None:
    expected = [[0, 1, 2], [1, 3, 4], [2, 5, 6], *([leaf] * 3 for leaf in range(3, 7))]
    states = DecisionStates([(RUN, SKIP)] * 2).next_state()
    assert states is not None and states.tolist() == expected


@pytest.mark.parametrize("num_blocks", [1, 3, 15])
def test_a_state_is_its_decisions(num_blocks: int) -> None:
    tree = DecisionStates([(RUN, SKIP)] * num_blocks)
    states = tree.next_state()
    assert states is not None and len(states) == 2 ** (num_blocks + 1) - 1
    state_ids = torch.arange(len(states))
    position, taken = tree.from_ids(state_ids)
    assert torch.equal(tree.to_ids(position, taken), state_ids)
    goes_on = position < num_blocks
    for action in (RUN, SKIP):
        there, taken_there = tree.from_ids(torch.from_numpy(states[:, action]))
        assert torch.equal(there, position + goes_on)
        added = torch.arange(num_blocks) == position[:, None]
        assert torch.equal(taken_there, taken + action * added)


def test_sixteen_blocks_have_too_many_states() -> None:
    """2 ** 17 - 1; rows still run, what needs the states says so."""
    many = random_residual(in_shape=(1, 4, 4), widths=(1,), depths=(16,))
    session = SkipSession(many)
    assert DecisionStates([(RUN, SKIP)] * 16).next_state() is None
    assert not isinstance(session, FiniteStates)
    with pytest.raises(ConfigError, match="finitely many states"):
        finite(session, "a transition table")
    assert default_decisions(session) == 17
    images = torch.randn(3, 1, 4, 4)
    state, _ = play(session, images, [RUN] * 16)
    assert torch.equal(session.logits(state, torch.arange(3)), many(images))


# --- what a row holds -----------------------------------------------------------------


def test_it_has_all_parts_of_the_protocol(network: ResidualNetwork) -> None:
    session = as_session(network)
    assert type(session) is SkipSession
    for part in (FiniteStates, Inspectable, Savable):
        assert isinstance(session, part)
    assert default_decisions(session) == NUM_BLOCKS + 1


def test_the_network_is_all_blocks_run(
    network: ResidualNetwork, images: Tensor
) -> None:
    session = SkipSession(network)
    state, _ = play(session, images, [RUN] * NUM_BLOCKS)
    with torch.no_grad():
        assert torch.equal(session.logits(state, ROWS), network(images))


@pytest.mark.parametrize("ran", LEAVES)
def test_what_is_skipped_is_left_out(
    ran: tuple[bool, ...], network: ResidualNetwork, images: Tensor
) -> None:
    session = SkipSession(network)
    state, _ = play(session, images, plan(ran))
    assert torch.equal(session.logits(state, ROWS), answer(network, images, ran))
    assert state.ran.tolist() == [list(ran)] * NUM_IMAGES


def test_whoever_stops_early_skips_the_rest(
    network: ResidualNetwork, images: Tensor
) -> None:
    session = SkipSession(network)
    for actions, ran in (([], (0, 0, 0)), ([RUN], (1, 0, 0)), ([SKIP, RUN], (0, 1, 0))):
        state, _ = play(session, images, [*actions, STOP])
        assert torch.equal(session.logits(state, ROWS), answer(network, images, ran))


@pytest.mark.parametrize("seed", range(5))
def test_any_batch_in_any_order_gives_the_same_bits(
    seed: int, network: ResidualNetwork, images: Tensor
) -> None:
    session = SkipSession(network)
    alone = {
        (image, state_id): state
        for image in range(NUM_IMAGES)
        for state_id, state, _ in visit_states(session, images[image : image + 1])
    }
    rng = np.random.default_rng(seed)
    chosen = rng.integers(NUM_IMAGES, size=5)
    state, state_ids = session.begin(images[chosen]), np.zeros(5, dtype=np.int64)
    for _ in range(6):
        rows = rng.permutation(5)[: rng.integers(1, 6)]
        actions = rng.integers(3, size=len(rows))
        session.apply(state, torch.from_numpy(rows), torch.from_numpy(actions))
        state_ids[rows] = session.next_state[state_ids[rows], actions]
        assert session.state_ids(state).tolist() == state_ids.tolist()
        for row, (image, state_id) in enumerate(zip(chosen, state_ids, strict=True)):
            expected = alone[int(image), int(state_id)]
            reached = session.begin(images[image : image + 1])
            session.reach(reached, ROWS[:1], torch.tensor([state_id]))
            assert_equal(state, row, reached, 0)
            assert torch.equal(state.logits[row], expected.logits[0])


def test_reach_brings_rows_to_different_states_at_once(
    network: ResidualNetwork, images: Tensor
) -> None:
    session = SkipSession(network)
    state_ids = torch.tensor([14, 0, 3, 7, 1, 9])
    state = session.begin(images)
    session.reach(state, ROWS, state_ids)
    assert torch.equal(session.state_ids(state), state_ids)
    for row in range(NUM_IMAGES):
        expected = answer(network, images[row : row + 1], state.ran[row])
        assert torch.equal(session.logits(state, ROWS[row : row + 1]), expected)


def test_a_restart_overwrites_rows_and_no_others(
    network: ResidualNetwork, images: Tensor
) -> None:
    session = SkipSession(network)
    state, _ = play(session, images, [RUN, SKIP, RUN])
    before, fresh = state.clone(), session.begin(images.flip(0))
    some = torch.tensor([4, 1])
    session.restart(state, some, images.flip(0)[some])
    for row in range(NUM_IMAGES):
        source = fresh if row in (1, 4) else before
        assert_equal(state, row, source, row)


def test_a_broken_image_spoils_no_other_row(
    network: ResidualNetwork, images: Tensor
) -> None:
    session, broken = SkipSession(network), images.clone()
    broken[2] = torch.nan
    state, _ = play(session, broken, [RUN, RUN, SKIP])
    whole, _ = play(session, images, [RUN, RUN, SKIP])
    for row in (0, 1, 3, 4, 5):
        assert_equal(state, row, whole, row)
    seen = session.features(state, ROWS)
    assert ((seen >= 0) & (seen <= 1)).all()


# --- what it costs --------------------------------------------------------------------


def test_the_plain_pass_costs_stem_shortcuts_and_head(
    network: ResidualNetwork, images: Tensor
) -> None:
    session = SkipSession(network)
    with FlopCount() as count:
        session.begin(images)
    assert count.total() == 2 * NUM_IMAGES * session.plain_macs
    branches = [
        block.macs(size).branch
        for block, size in zip(network.blocks, network.block_sizes, strict=True)
    ]
    assert session.plain_macs + sum(branches) == network.macs


@pytest.mark.parametrize("ran", LEAVES)
def test_macs_are_those_that_run(
    ran: tuple[bool, ...], network: ResidualNetwork, images: Tensor
) -> None:
    """A running block refreshes the shortcuts above it and the head."""
    session = SkipSession(network)
    state, expected = session.begin(images), 0
    with FlopCount() as count:
        _, macs = play(session, images, plan(ran))
    parts = [
        block.macs(size)
        for block, size in zip(network.blocks, network.block_sizes, strict=True)
    ]
    for level, did_run in enumerate(ran):
        if did_run:
            above = sum(part.shortcut for part in parts[level:])
            expected += parts[level].branch + above + network.head_macs
    assert macs == expected
    assert count.total() == 2 * NUM_IMAGES * (session.plain_macs + macs)
    leaf = session.state_ids(play(session, images, plan(ran))[0])[:1]
    with FlopCount() as count:
        cost = session.reach(state, ROWS, leaf.expand(NUM_IMAGES))
    assert count.total() == 2 * int(cost.macs.sum())
    assert int(cost.macs[0]) <= macs  # nothing in between is refreshed


def test_skipping_moves_on_and_costs_nothing(
    network: ResidualNetwork, images: Tensor
) -> None:
    session = SkipSession(network)
    state, _ = play(session, images, [RUN])
    before = state.clone()
    with FlopCount() as count:
        cost = session.apply(state, ROWS, torch.full_like(ROWS, SKIP))
    assert count.total() == 0
    assert not cost.macs.any() and not cost.already_iterated.any()
    assert torch.equal(state.position, before.position + 1)
    before.position += 1
    before.taken[:, 1] = SKIP
    for row in range(NUM_IMAGES):
        assert_equal(state, row, before, row)


def test_behind_the_last_block_only_stop_is_useful(
    network: ResidualNetwork, images: Tensor
) -> None:
    session = SkipSession(network)
    state, _ = play(session, images, [SKIP, RUN])
    assert session.useful_actions(state, ROWS).all()
    session.apply(state, ROWS, torch.full_like(ROWS, RUN))
    useful = session.useful_actions(state, ROWS)
    assert useful.tolist() == [[True, False, False]] * NUM_IMAGES
    before = state.clone()
    cost = session.apply(state, ROWS, torch.tensor([0, 1, 2, 0, 1, 2]))
    assert not cost.macs.any()
    assert cost.already_iterated.tolist() == [False, True, True] * 2
    for row in range(NUM_IMAGES):
        assert_equal(state, row, before, row)


def test_a_calibration_compares_none_with_all(
    network: ResidualNetwork, images: Tensor
) -> None:
    session, split = SkipSession(network), own_split(images)
    found = calibrate(session, split)
    _, macs = play(session, images, [RUN] * NUM_BLOCKS)
    right = {
        ran: (answer(network, images, ran).argmax(1) == split.labels).float().mean()
        for ran in ((0, 0, 0), (1, 1, 1))
    }
    assert found.plain_accuracy == pytest.approx(float(right[0, 0, 0]))
    assert found.always_accuracy == pytest.approx(float(right[1, 1, 1]))
    assert found.always_extra_macs == macs


# --- what is seen ---------------------------------------------------------------------


def test_features_show_the_next_block_and_what_ran(
    network: ResidualNetwork, images: Tensor
) -> None:
    session = SkipSession(network)
    widths = {"activations": 8, "max_prob": 1, "entropy": 1, "margin": 1}
    assert session.feature_layout == widths | {"next_block": 3, "iterated": 3}
    for actions in ([], [RUN], [SKIP, RUN], [RUN, SKIP, RUN]):
        state, _ = play(session, images, actions)
        seen = session.features(state, ROWS)
        assert seen.shape == (NUM_IMAGES, 17) and seen.dtype == torch.float32
        assert ((seen >= 0) & (seen <= 1)).all()
        x = network.stem(images)
        for block, action in zip(network.blocks, actions, strict=False):
            x = block(x) if action == RUN else block.merge(block.shortcut(x))
        pooled = x.mean((2, 3))
        activations = 0.5 + pooled / (1 + pooled.abs()) / 2
        assert torch.allclose(seen[:, : x.shape[1]], activations, atol=1e-6)
        assert (seen[:, x.shape[1] : 8] == 0.5).all()
        place = [float(block == len(actions)) for block in range(NUM_BLOCKS)]
        ran = [float(action == RUN) for action in actions] + [0.0] * NUM_BLOCKS
        expected = [*place, *ran[:NUM_BLOCKS]]
        assert seen[:, 11:].tolist() == [expected] * NUM_IMAGES


def test_maps_are_what_the_blocks_read(
    network: ResidualNetwork, images: Tensor
) -> None:
    session = SkipSession(network)
    state, _ = play(session, images, [RUN])
    maps = session.maps(state, ROWS[2:4])
    assert list(maps) == ["map/0", "map/1", "map/2", "map/3"]
    with torch.no_grad():
        stem = network.stem(images)
        assert torch.equal(maps["map/0"], stem[2:4].abs())
        assert torch.equal(maps["map/1"], network.blocks[0](stem)[2:4].abs())
    assert session.residual_curves(state, 0) == {}


# --- weights, and what is refused -----------------------------------------------------


def test_other_weights_are_taken_and_the_network_is_copied() -> None:
    network, other = random_residual(), random_residual(seed=1)
    images = torch.randn(4, 1, 8, 8)
    session = SkipSession(network)
    first = session.fingerprint()
    assert (
        SkipSession(network).fingerprint() == first != SkipSession(other).fingerprint()
    )
    session.load_weights(other.state_dict())
    assert session.fingerprint() == SkipSession(other).fingerprint()
    assert SkipSession(network).fingerprint() == first
    state, _ = play(session, images, [RUN] * NUM_BLOCKS)
    assert torch.equal(state.logits, other(images))
    wider = random_residual(widths=(4, 9))
    with pytest.raises(CheckpointError, match="another architecture"):
        session.load_weights(wider.state_dict())


def test_a_network_has_no_solver_settings() -> None:
    with pytest.raises(ConfigError, match="ResidualNetwork takes no rtol"):
        as_session(random_residual(), rtol=0.1)


@pytest.mark.parametrize(
    ("rows", "actions"),
    [([0, 6], [1, 1]), ([-1], [1]), ([0], [3]), ([0], [-1]), ([0, 1], [1])],
)
def test_rows_and_actions_out_of_range_change_nothing(
    rows: list[int], actions: list[int], images: Tensor
) -> None:
    session = SkipSession(random_residual())
    state, _ = play(session, images, [RUN])
    before = state.clone()
    with pytest.raises(ValueError, match=r"must (lie|have)"):
        session.apply(state, torch.tensor(rows), torch.tensor(actions))
    for row in range(NUM_IMAGES):
        assert_equal(state, row, before, row)


def test_inputs_and_states_that_cannot_be() -> None:
    session = SkipSession(random_residual())
    with pytest.raises(ValueError, match="shape"):
        session.begin(torch.randn(2, 1, 9, 9))
    with pytest.raises(ValueError, match="float32"):
        session.begin(torch.randn(2, 1, 8, 8).double())
    state = session.begin(torch.randn(2, 1, 8, 8))
    with pytest.raises(ValueError, match="state_ids"):
        session.reach(state, torch.tensor([0]), torch.tensor([15]))


def test_no_rows_are_no_error() -> None:
    session, none = SkipSession(random_residual()), torch.arange(0)
    state = session.begin(torch.randn(0, 1, 8, 8))
    assert session.features(state, none).shape == (0, 17)
    assert session.apply(state, none, none).macs.shape == (0,)
    assert session.reach(state, none, none).macs.shape == (0,)
