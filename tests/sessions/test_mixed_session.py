"""Run, skip, thin and iterate in one network; each switched off is the network without.

Three blocks; the second and the third can be iterated.
"""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from helpers.flops import FlopCount
from helpers.residual import random_gated, random_residual
from torch import Tensor

from dynalay_gym.fixed_point.progress import SolverStatus
from dynalay_gym.networks.lcnet.config import GateConfig
from dynalay_gym.networks.lcnet.network import GatedNetwork
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.sessions.calibration import visit_states
from dynalay_gym.sessions.fastest import as_session
from dynalay_gym.sessions.protocol import FiniteStates
from dynalay_gym.sessions.skip.decisions import (
    ITERATE,
    RUN,
    SKIP,
    STOP,
    DecisionStates,
)
from dynalay_gym.sessions.skip.gated import GatedSession
from dynalay_gym.sessions.skip.session import SkipSession
from dynalay_gym.sessions.states import default_decisions, useful_actions

ITERATED, NUM_BLOCKS, NUM_IMAGES = (2, 3), 3, 5
ROWS = torch.arange(NUM_IMAGES)
LEAVES = list(itertools.product((RUN, SKIP), (RUN, SKIP, ITERATE), (SKIP, ITERATE)))
TWO, THREE = (RUN, SKIP), (RUN, SKIP, ITERATE)  # what a block can do


@pytest.fixture(scope="module", params=["pad", "fast"])
def network(request: pytest.FixtureRequest) -> ResidualNetwork:
    return random_residual(request.param, iterated=ITERATED)


@pytest.fixture(scope="module")
def gated() -> GatedNetwork:
    return random_gated("fast", {"iterated": ITERATED})


@pytest.fixture(scope="module")
def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(NUM_IMAGES, 1, 8, 8, generator=generator)


@torch.no_grad()
def answer(network: ResidualNetwork, images: Tensor, actions: Any) -> Tensor:
    """Logits of a network whose blocks are run, skipped and iterated."""
    x = network.stem(images)
    for block, action in itertools.zip_longest(network.blocks, actions):
        if action in (RUN, ITERATE):
            x = block(x, iterates=action == ITERATE)
        else:
            x = block.merge(block.shortcut(x))
    return network.answer(x)


def play(session: SkipSession, images: Tensor, actions: Any) -> tuple[Any, Tensor]:
    """Take the same actions in all rows; return the state, and what it took [3, n]."""
    state, rows = session.begin(images), torch.arange(len(images))
    total = torch.zeros(3, len(images), dtype=torch.int64)
    for action in actions:
        cost = session.apply(state, rows, torch.full_like(rows, action))
        total += torch.stack([cost.macs, cost.solver_steps, cost.status])
        assert not cost.already_iterated.any()
    return state, total


def assert_same(first: Any, second: Any) -> None:
    for mine, theirs in zip(first.maps, second.maps, strict=True):
        assert torch.equal(mine, theirs)
    for name in ("pooled", "logits", "position", "taken"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


# --- the automaton --------------------------------------------------------------------


def test_a_block_that_can_be_iterated_has_three_branches() -> None:
    states = DecisionStates([TWO, THREE]).next_state()
    assert states is not None
    inner = [[0, 1, 2, 0], [1, 3, 4, 5], [2, 6, 7, 8]]
    assert states.tolist() == [*inner, *([leaf] * 4 for leaf in range(3, 9))]


@pytest.mark.parametrize(
    "choices",
    [
        (THREE,),
        (THREE, TWO, THREE),
        (TWO,) * 6 + (THREE,) * 4,
        ((RUN, ITERATE), THREE, TWO),
    ],
)
def test_a_state_is_its_decisions(choices: tuple[tuple[int, ...], ...]) -> None:
    tree = DecisionStates(choices)
    states = tree.next_state()
    assert states is not None and len(states) == tree.num_states
    position, taken = tree.from_ids(torch.arange(len(states)))
    assert torch.equal(tree.to_ids(position, taken), torch.arange(len(states)))
    for action in (RUN, SKIP, ITERATE):
        there, taken_there = tree.from_ids(torch.from_numpy(states[:, action]))
        here = torch.arange(len(choices)) == position[:, None]
        here &= torch.tensor([action in own for own in choices])
        assert torch.equal(there, position + here.sum(1))
        assert torch.equal(taken_there, taken + action * here)


def test_too_many_states_leave_the_session_without_them() -> None:
    """Nine blocks that can be iterated have 29,524, ten 88,573."""
    nine = DecisionStates([THREE] * 9).next_state()
    assert nine is not None and len(nine) == (3**10 - 1) // 2
    assert DecisionStates([THREE] * 10).next_state() is None
    assert DecisionStates([THREE] * 200).next_state() is None
    every = tuple(range(1, 13))
    sizes: dict[str, Any] = {"in_shape": (1, 4, 4), "widths": (1,), "depths": (12,)}
    many = random_residual(**sizes, iterated=every)
    session = SkipSession(many)
    assert not isinstance(session, FiniteStates)
    assert default_decisions(session) == 13
    images = torch.randn(2, 1, 4, 4)
    state, _ = play(session, images, [ITERATE] * 12)
    with torch.no_grad():
        assert torch.equal(state.logits, many(images, every))


# --- what a row holds, and what it takes ----------------------------------------------


@pytest.mark.parametrize("actions", LEAVES)
def test_every_mix_is_what_its_parts_say(
    actions: tuple[int, ...], network: ResidualNetwork, images: Tensor
) -> None:
    """MACs in closed form: branches, iterations, and the way to the answer again."""
    session = as_session(network)
    assert type(session) is SkipSession
    with FlopCount() as count:
        state, (macs, steps, status) = play(session, images, actions)
    assert torch.equal(session.logits(state, ROWS), answer(network, images, actions))
    assert count.total() == 2 * int(macs.sum() + NUM_IMAGES * session.plain_macs)
    assert bool(steps.all()) == (ITERATE in actions) and not status.any()
    parts = [
        block.macs(size)
        for block, size in zip(network.blocks, network.block_sizes, strict=True)
    ]
    expected = torch.zeros(NUM_IMAGES, dtype=torch.int64)
    for level, action in enumerate(actions):
        if action != SKIP:
            above = sum(part.shortcut for part in parts[level:])
            expected += parts[level].branch + above + network.head_macs
    solved = [parts[i] for i in range(NUM_BLOCKS) if actions[i] == ITERATE]
    if len(solved) < 2:  # of two the steps are added up
        iteration = sum(part.num_channels * part.iteration for part in solved)
        assert torch.equal(macs, expected + steps * iteration)
    reached = session.begin(images)
    cost = session.reach(reached, ROWS, session.state_ids(state))
    assert_same(reached, state)
    assert torch.equal(cost.solver_steps, steps) and (cost.macs <= macs).all()


@pytest.mark.parametrize("kind", ["residual", "gated"])
def test_any_batch_in_any_order_gives_the_same_bits(
    kind: str, gated: GatedNetwork, images: Tensor
) -> None:
    network = gated if kind == "gated" else gated.backbone
    session: Any = as_session(network)
    alone = {
        (image, number): (session.features(state, ROWS[:1])[0], costs)
        for image in range(NUM_IMAGES)
        for number, state, costs in visit_states(session, images[image : image + 1])
    }
    rng = np.random.default_rng(0)
    chosen = rng.integers(NUM_IMAGES, size=6)
    state, number = session.begin(images[chosen]), np.zeros(6, dtype=np.int64)
    for _ in range(12):
        rows = rng.permutation(6)[: rng.integers(1, 7)]
        actions = rng.integers(4, size=len(rows))
        cost = session.apply(state, *map(torch.from_numpy, (rows, actions)))
        for at, (row, action) in enumerate(zip(rows, actions, strict=True)):
            expected = alone[int(chosen[row]), int(number[row])][1]
            if action != STOP:
                own = expected[int(action)]
                for name in ("macs", "solver_steps", "status", "already_iterated"):
                    assert getattr(cost, name)[at] == getattr(own, name)[0], name
        number[rows] = session.next_state[number[rows], actions]
        assert session.state_ids(state).tolist() == number.tolist()
        seen = session.features(state, torch.arange(6))
        for row in range(6):
            features = alone[int(chosen[row]), int(number[row])][0]
            assert torch.equal(seen[row], features)


def test_iterating_what_cannot_be_iterated_does_nothing(
    network: ResidualNetwork, images: Tensor
) -> None:
    session = SkipSession(network)
    state, before = session.begin(images), session.begin(images)
    useful = useful_actions(session.next_state)
    for action in (STOP, RUN, ITERATE, RUN):
        allowed = session.useful_actions(state, ROWS)
        assert allowed.tolist() == [list(useful[int(session.state_ids(state)[0])])] * 5
        if action == STOP:
            cost = session.apply(state, ROWS, torch.full_like(ROWS, ITERATE))
            assert not cost.macs.any() and cost.already_iterated.all()
            assert_same(state, before)
        else:
            session.apply(state, ROWS, torch.full_like(ROWS, action))
    cost = session.apply(state, ROWS, torch.full_like(ROWS, ITERATE))  # none is left
    assert cost.already_iterated.all() and not cost.macs.any()


def test_features_tell_iterated_from_run(
    network: ResidualNetwork, images: Tensor
) -> None:
    session = SkipSession(network)
    assert session.action_names == ("stop", "run", "skip", "iterate")
    assert list(session.feature_layout)[-2:] == ["iterated", "solved"]
    assert session.feature_layout["solved"] == 2
    for actions, seen in (
        ([], [0, 0, 0, 0, 0]),
        ([RUN, ITERATE], [1, 1, 0, 1, 0]),
        ([SKIP, RUN, ITERATE], [0, 1, 1, 0, 1]),
    ):
        state, _ = play(session, images, actions)
        assert session.features(state, ROWS)[:, -5:].tolist() == [seen] * NUM_IMAGES


def test_a_solve_that_does_not_end_well_is_reported(images: Tensor) -> None:
    session = SkipSession(random_residual(iterated=(1, 3), rtol=1e-6, max_steps=2))
    broken = images.clone()
    broken[2] = torch.nan
    state, (_, steps, _) = play(session, broken, [ITERATE, RUN, ITERATE])
    assert steps.tolist() == [4, 4, 2, 4, 4]
    fresh = session.begin(broken)
    cost = session.reach(fresh, ROWS, session.state_ids(state))
    expected = [SolverStatus.MAX_STEPS] * NUM_IMAGES
    expected[2] = SolverStatus.NONFINITE
    assert cost.status.tolist() == expected
    seen = session.features(state, ROWS)
    assert ((seen >= 0) & (seen <= 1)).all()


def test_other_weights_bring_other_fixed_points(images: Tensor) -> None:
    first, second = (random_residual(seed=i, iterated=ITERATED) for i in (0, 1))
    session = SkipSession(first)
    session.load_weights(second.state_dict())
    state, _ = play(session, images, [RUN, ITERATE, ITERATE])
    with torch.no_grad():
        assert torch.equal(state.logits, second(images, ITERATED))


# --- each mode switched off -----------------------------------------------------------


def test_never_iterating_is_the_network_that_cannot(images: Tensor) -> None:
    """To the bit, in every state: answers, features and costs."""
    mixed, plain = random_residual(iterated=ITERATED), random_residual()
    weights = mixed.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    with_it, without = SkipSession(mixed), SkipSession(plain)
    assert with_it.plain_macs == without.plain_macs
    assert with_it.full_plan == without.full_plan
    for length in range(NUM_BLOCKS + 1):
        for actions in itertools.product((RUN, SKIP), repeat=length):
            first, taken = play(with_it, images, actions)
            second, cost = play(without, images, actions)
            assert_same(first, second)
            assert torch.equal(taken, cost)
            seen = with_it.features(first, ROWS)
            assert torch.equal(seen[:, :-2], without.features(second, ROWS))
            assert not seen[:, -2:].any()


@pytest.mark.parametrize("kind", ["scale", "binary"])
def test_open_gates_are_the_network_without(
    kind: Any, network: ResidualNetwork, images: Tensor
) -> None:
    opened = GatedNetwork(network, GateConfig(kind=kind)).eval()
    session, plain = GatedSession(opened), SkipSession(network)
    for actions in LEAVES:
        gated_state, (macs, steps, _) = play(session, images, actions)
        state, (plain_macs, plain_steps, _) = play(plain, images, actions)
        assert_same(gated_state, state)
        assert torch.equal(steps, plain_steps)
        looks = sum(opened.gate_macs(level) for level in (1, 2))
        assert torch.equal(macs, plain_macs + looks)


@torch.no_grad()
def test_following_the_gates_is_the_gated_network(
    gated: GatedNetwork, images: Tensor
) -> None:
    """Iterated or not, but for what a look at the answer in between takes."""
    for iterated in ((), (2,), ITERATED):
        output = gated(images, iterated)
        session = GatedSession(gated)
        state = session.begin(images)
        macs = torch.full_like(ROWS, session.plain_macs)
        for level in range(NUM_BLOCKS):
            open_action = ITERATE if level + 1 in iterated else RUN
            gate = session.features(state, ROWS)[:, -1]
            actions = torch.where(gate > 0, open_action, SKIP)
            macs += session.apply(state, ROWS, actions).macs
        assert torch.equal(state.logits, output.logits)
        is_open = torch.stack([gate.layer for gate in output.gates], 1) > 0
        parts = [
            block.macs(size).shortcut
            for block, size in zip(gated.blocks, gated.block_sizes, strict=True)
        ]
        refreshed = torch.tensor([sum(parts[level:]) for level in range(NUM_BLOCKS)])
        looks = (is_open * (refreshed + gated.head_macs)).sum(1)
        assert torch.equal(macs, output.macs + looks)


def test_thinner_rows_iterate_for_less(gated: GatedNetwork, images: Tensor) -> None:
    session = GatedSession(gated)
    state, rows = session.begin(images), ROWS
    for _ in range(2):
        session.apply(state, rows, torch.full_like(rows, RUN))
    ran = session.apply(state.clone(), rows, torch.full_like(rows, RUN))
    cost = session.apply(state, rows, torch.full_like(rows, ITERATE))
    kept = state.gates[2][:, 1:].count_nonzero(1)
    assert 0 < int(kept.min()) < int(kept.max()) < 8
    iteration = gated.blocks[2].macs(gated.block_sizes[2]).iteration
    assert torch.equal(cost.macs - ran.macs, kept * cost.solver_steps * iteration)


def test_skipping_everything_is_the_plain_pass(
    network: ResidualNetwork, images: Tensor
) -> None:
    session = SkipSession(network)
    state, cost = play(session, images, [SKIP] * NUM_BLOCKS)
    plain = session.begin(images)
    assert not cost.any() and torch.equal(state.logits, plain.logits)
    for mine, theirs in zip(state.maps, plain.maps, strict=True):
        assert torch.equal(mine, theirs)
