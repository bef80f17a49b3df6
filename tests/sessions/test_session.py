"""A row's state is a function of which layers sit on their fixed point, bit for bit."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.flops import FlopCount
from helpers.networks import random_images, random_model, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynalay_gym.data.splits import load_split
from dynalay_gym.envs.config import SHIPPED
from dynalay_gym.errors import CheckpointError
from dynalay_gym.fixed_point.progress import SolverStatus
from dynalay_gym.networks.checkpoint import load_network
from dynalay_gym.sessions.calibration import visit_states
from dynalay_gym.sessions.main_state import MainState
from dynalay_gym.sessions.protocol import (
    FiniteStates,
    Inspectable,
    NetworkSession,
    StepCost,
)
from dynalay_gym.sessions.torch_session import TorchSession

NUM_IMAGES = 10
NAMES = ("wide", "state", "shipped")
ALL = torch.arange(NUM_IMAGES)
Kind = type[TorchSession]


class Case:
    """A session with all eight states of a few images, each reached bottom up."""

    def __init__(self, name: str, kind: Kind, rtol: float = 0.1) -> None:
        if name == "shipped":
            network, _ = load_network(SHIPPED / "digits")
            self.inputs = load_split("digits", "agent").inputs[:NUM_IMAGES]
        else:
            network = random_model(tiny_config(name))
            self.inputs = random_images(network.config, NUM_IMAGES)
        self.session = kind(network, rtol=rtol, max_steps=50)
        self.states: dict[int, MainState] = {}
        self.costs: dict[int, dict[int, StepCost]] = {}
        for number, state, costs in visit_states(self.session, self.inputs):
            self.states[number], self.costs[number] = state, costs

    def solve_steps(self, state_id: int) -> Tensor:
        """Iterations of all images on the way to a state, bottom up."""
        steps = torch.zeros(NUM_IMAGES, dtype=torch.int64)
        for layer in (1, 2, 3):
            if state_id >> (layer - 1) & 1:
                below = state_id % 2 ** (layer - 1)
                steps += self.costs[below][layer].solver_steps
        return steps


class Cases(dict[tuple[str, float], Case]):
    """Cases of one kind of session, made when they are asked for."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind

    def get_case(self, name: str, rtol: float = 0.1) -> Case:
        if (name, rtol) not in self:
            self[name, rtol] = Case(name, self.kind, rtol)
        return self[name, rtol]


def session_kind(name: str) -> Kind:
    if name == "torch":
        return TorchSession
    pytest.importorskip("numba")
    from dynalay_gym.sessions.accel.session import CompiledSession

    return CompiledSession


@pytest.fixture(scope="module", params=["compiled", "torch"])
def cases(request: pytest.FixtureRequest) -> Cases:
    return Cases(session_kind(request.param))


def assert_row_is(state: MainState, row: int, other: MainState, at: int) -> None:
    iterated = int(state.state_id[row])
    for i, (mine, theirs) in enumerate(zip(state.layers, other.layers, strict=True)):
        names = ["hidden"] if i == 0 else ["visible"]
        if i > 0 and iterated >> (i - 1) & 1:
            names += ["hidden", "injected"]
        for name in names:
            part, other_part = getattr(mine, name), getattr(theirs, name)
            assert (part is None) == (other_part is None)
            assert part is None or torch.equal(part[row], other_part[at])
    for field in ("pooled", "logits", "state_id", "residual"):
        assert torch.equal(getattr(state, field)[row], getattr(other, field)[at])


def after(state_id: int, layer: int) -> int:
    """Bits after choosing a layer: its own is set, those above are cleared."""
    return (state_id & (2**layer - 1)) | 1 << (layer - 1)


def expected_steps(case: Case, state_id: int, layer: int, image: int) -> int:
    """Iterations of a choice: one if the layer sits there, else what it took before."""
    if state_id >> (layer - 1) & 1:
        return 1
    below = state_id % 2 ** (layer - 1)
    return int(case.costs[below][layer].solver_steps[image])


def expected_macs(case: Case, state_id: int, layer: int, steps: int) -> int:
    costs = case.session.costs
    macs = costs.layers[layer - 1]
    total = macs.iteration * steps + costs.head
    total += sum(above.plain for above in costs.layers[layer:])
    if state_id >> (layer - 1) & 1:
        return total
    below_iterated = layer > 1 and bool(state_id >> (layer - 2) & 1)
    return total + macs.setup[below_iterated]


def take(case: Case, images: list[int], choices: list[list[int]]) -> None:
    """Take choices (0: none) in a batch of images; compare every row at every step."""
    session = case.session
    state, rows = session.begin(case.inputs[images]), torch.arange(len(images))
    state_ids = [0] * len(images)
    for choice in choices:
        # Rows that choose nothing take part or stay away.
        asked = rows if choice[0] % 2 else torch.tensor(choice).nonzero()[:, 0]
        cost = session.apply(state, asked, torch.tensor(choice)[asked])
        for k, row in enumerate(asked.tolist()):
            layer, before = choice[row], state_ids[row]
            if layer == 0:
                assert cost.macs[k] == cost.solver_steps[k] == 0
                assert cost.status[k] == 0 and not cost.already_iterated[k]
                continue
            steps = expected_steps(case, before, layer, images[row])
            assert cost.solver_steps[k] == steps
            assert cost.macs[k] == expected_macs(case, before, layer, steps)
            assert cost.already_iterated[k] == bool(before >> (layer - 1) & 1)
            state_ids[row] = after(before, layer)
        assert session.state_ids(state).tolist() == state_ids
        for row, image in enumerate(images):
            assert_row_is(state, row, case.states[state_ids[row]], image)


def test_sessions_have_all_parts_of_the_protocol(cases: Cases) -> None:
    session: NetworkSession = cases.get_case("wide").session
    assert isinstance(session, FiniteStates)
    assert isinstance(session, Inspectable)
    assert session.action_names == ("stop", "layer 1", "layer 2", "layer 3")
    assert session.full_plan == (1, 2, 3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rtol", [0.5, 0.1, 1e-3])
def test_any_order_in_any_batch_gives_the_same_bits(
    name: str, rtol: float, cases: Cases
) -> None:
    case = cases.get_case(name, rtol)
    generator = torch.Generator().manual_seed(int(1000 * rtol))
    for size in (1, 2, 3, 7):
        images = torch.randint(NUM_IMAGES, (size,), generator=generator).tolist()
        choices = torch.randint(0, 4, (8, size), generator=generator)
        take(case, images, choices.tolist())


@pytest.mark.parametrize("form", ["wide", "state"])
def test_any_sequence_of_choices(form: str, cases: Cases) -> None:
    case = cases.get_case(form)
    row = st.tuples(
        st.integers(0, NUM_IMAGES - 1), st.lists(st.integers(1, 3), max_size=5)
    )

    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(st.lists(row, min_size=1, max_size=4))
    def run(rows: list[tuple[int, list[int]]]) -> None:
        longest = max(len(plan) for _, plan in rows)
        padded = [plan + [0] * (longest - len(plan)) for _, plan in rows]
        choices = [list(step) for step in zip(*padded, strict=True)]
        take(case, [image for image, _ in rows], choices)

    run()


@pytest.mark.parametrize("name", NAMES)
def test_choosing_clears_the_bits_above(name: str, cases: Cases) -> None:
    case = cases.get_case(name)
    for state_id, layer in [(7, 1), (7, 2), (6, 1), (5, 2), (4, 3), (3, 1), (0, 2)]:
        state = case.states[state_id].clone()
        case.session.apply(state, ALL, torch.full_like(ALL, layer))
        bits = [float(after(state_id, layer) >> i & 1) for i in range(3)]
        assert state.state_id.tolist() == [after(state_id, layer)] * NUM_IMAGES
        iterated = case.session.features(state, ALL)[:, -3:]
        assert iterated.tolist() == [bits] * NUM_IMAGES
        assert (state.residual[iterated == 0] == 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_check_costs_one_iteration_and_moves_nothing(name: str, cases: Cases) -> None:
    case = cases.get_case(name)
    costs = case.session.costs
    for state_id in range(1, 8):
        layer = state_id.bit_length()  # nothing above it is iterated
        state = case.states[state_id].clone()
        cost = case.session.apply(state, ALL, torch.full_like(ALL, layer))
        by_hand = costs.layers[layer - 1].iteration + costs.head
        by_hand += sum(above.plain for above in costs.layers[layer:])
        assert cost.macs.tolist() == [by_hand] * NUM_IMAGES
        assert cost.solver_steps.tolist() == [1] * NUM_IMAGES
        assert cost.already_iterated.all()
        for row in range(NUM_IMAGES):
            assert_row_is(state, row, case.states[state_id], row)


def test_a_check_of_a_converged_layer_says_converged(cases: Cases) -> None:
    case = cases.get_case("wide", 1e-3)
    state = case.states[1].clone()
    cost = case.session.apply(state, ALL[:4], torch.ones_like(ALL[:4]))
    assert cost.status.tolist() == [SolverStatus.CONVERGED] * 4


def test_a_layer_short_of_its_tolerance_says_so_and_counts_as_iterated(
    cases: Cases,
) -> None:
    session = cases.kind(random_model(tiny_config()), rtol=1e-6, max_steps=2)
    state = session.begin(random_images(tiny_config(), 4))
    cost = session.apply(state, ALL[:4], torch.ones_like(ALL[:4]))
    assert cost.status.tolist() == [SolverStatus.MAX_STEPS] * 4
    assert cost.solver_steps.tolist() == [2] * 4
    assert state.state_id.tolist() == [1] * 4
    assert (state.residual[:, 0] >= 1e-6).all()


def test_without_iterations_a_layer_starts_from_its_input(cases: Cases) -> None:
    session = cases.kind(random_model(tiny_config("state")), max_steps=0)
    state = session.begin(random_images(tiny_config("state"), 4))
    before = session.maps(state, ALL[:4])["map/0"]
    cost = session.apply(state, ALL[:4], torch.ones_like(ALL[:4]))
    assert torch.equal(session.maps(state, ALL[:4])["map/0"], before)
    assert cost.solver_steps.tolist() == [0] * 4
    assert state.residual[:, 0].tolist() == [1.0] * 4


def test_an_action_is_useful_unless_it_is_a_check_alone(cases: Cases) -> None:
    session = cases.get_case("wide").session
    for state_id, state in cases.get_case("wide").states.items():
        useful = [True, *(after(state_id, layer) != state_id for layer in (1, 2, 3))]
        assert session.useful_actions(state, ALL[:1]).tolist() == [useful]


@pytest.mark.parametrize("name", NAMES)
def test_features_have_their_layout_and_bounds(name: str, cases: Cases) -> None:
    case = cases.get_case(name)
    layout = case.session.feature_layout
    assert list(layout)[-2:] == ["residual", "iterated"]
    for state in case.states.values():
        features = case.session.features(state, ALL)
        assert features.shape == (NUM_IMAGES, sum(layout.values()))
        assert features.dtype == torch.float32
        assert ((features >= 0) & (features <= 1)).all()
        rows = torch.tensor([6, 1])
        assert torch.equal(case.session.features(state, rows), features[rows])
        assert torch.equal(case.session.logits(state, rows), state.logits[rows])


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_choose_nothing_run_nothing(name: str) -> None:
    case = Case(name, TorchSession)
    state = case.states[2].clone()
    with FlopCount() as counter:
        cost = case.session.apply(state, ALL[:0], ALL[:0])
        case.session.apply(state, ALL, torch.zeros_like(ALL))
    assert counter.total() == 0
    assert cost.macs.shape == (0,)
    # Rows 1 and 4 start from copies of one image, so neither is ever alone.
    case.session.restart(state, torch.tensor([4]), case.inputs[1:2])
    case.session.restart(state, torch.tensor([1]), case.inputs[1:2])
    with FlopCount() as counter:
        cost = case.session.apply(state, torch.tensor([1, 4]), torch.tensor([3, 3]))
    assert counter.total() == 2 * int(cost.macs.sum())
    for row in (0, 2, 3, 5):
        assert_row_is(state, row, case.states[2], row)


@pytest.mark.parametrize("form", ["wide", "state"])
def test_a_restart_overwrites_rows_and_no_others(form: str, cases: Cases) -> None:
    case = cases.get_case(form)
    state = case.states[7].clone()
    case.session.restart(state, torch.tensor([3, 0]), case.inputs[[5, 6]])
    assert_row_is(state, 3, case.states[0], 5)
    assert_row_is(state, 0, case.states[0], 6)
    for row in (1, 2, 4, 9):
        assert_row_is(state, row, case.states[7], row)


@pytest.mark.parametrize("form", ["wide", "state"])
def test_residual_curves_end_where_the_solve_did(form: str, cases: Cases) -> None:
    case = cases.get_case(form, 1e-3)
    state = case.states[5]
    for row in (0, 3):
        curves = case.session.residual_curves(state, row)
        lengths = [len(curves[name]) for name in case.session.action_names[1:]]
        first = int(case.solve_steps(1)[row])
        assert lengths == [first, 0, int(case.solve_steps(5)[row]) - first]
        last = curves["layer 1"][-1]
        assert last == pytest.approx(float(state.residual[row, 0]), rel=1e-3)


def test_maps_are_what_the_next_layer_reads(cases: Cases) -> None:
    case = cases.get_case("wide")
    rows = torch.tensor([4, 2])
    maps = case.session.maps(case.states[1], rows)
    assert [maps[f"map/{i}"].shape[1:] for i in range(3)] == [
        (2, 8, 8),
        (3, 4, 4),
        (4, 4, 4),
    ]
    for i, found in enumerate(maps.values()):
        expected = case.states[1].layers[i + 1].visible
        assert expected is not None
        assert torch.equal(found, expected[rows].relu())


def test_states_of_one_image_differ(cases: Cases) -> None:
    states = cases.get_case("shipped").states
    logits = torch.stack([states[state_id].logits for state_id in range(8)])
    assert len(logits[:, 0].unique(dim=0)) == 8


@pytest.mark.parametrize("name", NAMES)
def test_reach_brings_rows_to_any_state(name: str, cases: Cases) -> None:
    case = cases.get_case(name)
    target, sample = torch.cartesian_prod(torch.arange(8), ALL).T
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(0))
    target, sample = target[order], sample[order]
    state = case.session.begin(case.inputs[sample])
    cost = case.session.reach(state, torch.arange(len(target)), target)
    for row, state_id in enumerate(target.tolist()):
        assert_row_is(state, row, case.states[state_id], int(sample[row]))
        assert cost.solver_steps[row] == case.solve_steps(state_id)[sample[row]]
    assert ((cost.macs == 0) == (target == 0)).all()
    assert not cost.already_iterated.any()


def test_reach_runs_no_refresh_in_between(cases: Cases) -> None:
    case = Case("wide", cases.kind)
    costs, images = case.session.costs, case.inputs.repeat_interleave(2, 0)
    rows = torch.arange(len(images))  # no row is ever alone, and padded
    walked, state = torch.zeros_like(rows), case.session.begin(images)
    for layer in (1, 2, 3):
        walked += case.session.apply(state, rows, torch.full_like(rows, layer)).macs
    state = case.session.begin(images)
    with FlopCount() as counter:
        swept = case.session.reach(state, rows, torch.full_like(rows, 7))
    if cases.kind is TorchSession:
        assert counter.total() == 2 * int(swept.macs.sum())
    # After 1 and 2 no head; layer 3 is applied once less.
    spared = 2 * costs.head + costs.layers[2].plain
    assert (walked - swept.macs).tolist() == [spared] * len(rows)


@pytest.mark.parametrize(
    "copied",
    [MainState.clone, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))],
    ids=["clone", "deepcopy", "pickle"],
)
def test_a_copy_shares_no_memory_and_goes_on(
    copied: Callable[[Any], Any], cases: Cases
) -> None:
    case = cases.get_case("wide")
    state = case.session.begin(case.inputs)
    other = copied(state)
    case.session.apply(other, ALL, torch.full_like(ALL, 2))
    for row in range(NUM_IMAGES):
        assert_row_is(state, row, case.states[0], row)
        assert_row_is(other, row, case.states[2], row)
    case.session.apply(state, ALL, torch.full_like(ALL, 1))
    for row in range(NUM_IMAGES):
        assert_row_is(state, row, case.states[1], row)
        assert_row_is(other, row, case.states[2], row)


def test_an_image_without_a_number_spoils_no_other_row(cases: Cases) -> None:
    case = cases.get_case("shipped")
    images = case.inputs[:3].clone()
    images[1] = torch.nan
    state, rows = case.session.begin(images), ALL[:3]
    for state_id in (0, 1):
        for row in (0, 2):
            assert_row_is(state, row, case.states[state_id], row)
        assert case.session.features(state, rows).isfinite().all()
        cost = case.session.apply(state, rows, torch.ones_like(rows))
        assert cost.status.tolist() == [0, 2, 0]


@pytest.mark.parametrize(("size", "status"), [(1e25, 0), (3e38, 2)])
def test_large_numbers_are_solved_while_they_are_finite(
    size: float, status: int, cases: Cases
) -> None:
    session = cases.kind(random_model(tiny_config()))
    state = session.begin(torch.full((1, 1, 8, 8), size))
    cost = session.apply(state, ALL[:1], torch.ones_like(ALL[:1]))
    assert cost.status.tolist() == [status]
    assert session.features(state, ALL[:1]).isfinite().all()


def test_other_weights_are_taken(cases: Cases) -> None:
    first, second = (random_model(tiny_config(), seed) for seed in (0, 1))
    images, session = random_images(tiny_config(), 3), cases.kind(first)
    before, weights = session.fingerprint(), second.state_dict()
    session.load_weights(weights)
    expected = cases.kind(second)
    assert session.fingerprint() == expected.fingerprint() != before
    found, other = session.begin(images), expected.begin(images)
    target = torch.full((3,), 7)
    for each, state in ((session, found), (expected, other)):
        each.reach(state, ALL[:3], target)
    assert torch.equal(found.logits, other.logits)
    assert first.state_dict()["head"].ne(weights["head"]).any()  # a copy has changed
    with pytest.raises(CheckpointError, match="another architecture"):
        session.load_weights(random_model(tiny_config("state")).state_dict())


def test_a_fingerprint_tells_settings_and_kinds_apart(cases: Cases) -> None:
    network = random_model(tiny_config())
    sessions = [cases.kind(network), cases.kind(network, rtol=0.2)]
    sessions += [cases.kind(network, max_steps=7)]
    prints = [session.fingerprint() for session in sessions]
    assert len(set(prints)) == 3
    assert cases.kind(network).fingerprint() == prints[0]
    is_reference = TorchSession(network).fingerprint() == prints[0]
    assert is_reference == (cases.kind is TorchSession)


# --- what is refused ------------------------------------------------------------------


def bad_rows(num_rows: int) -> list[Tensor]:
    """Row numbers that are none, at the place of a good one."""
    values = [num_rows, -1, 1 << 40, -(1 << 63), (1 << 63) - 1]
    return [torch.tensor([0, value]) for value in values]


def test_rows_out_of_range_are_refused_and_nothing_moves(cases: Cases) -> None:
    case = cases.get_case("wide")
    session, state = case.session, case.session.begin(case.inputs)
    two = torch.tensor([1, 2])
    for rows in bad_rows(NUM_IMAGES):
        for ask in (
            lambda rows=rows: session.apply(state, rows, two),
            lambda rows=rows: session.reach(state, rows, two),
            lambda rows=rows: session.restart(state, rows, case.inputs[:2]),
            lambda rows=rows: session.features(state, rows),
            lambda rows=rows: session.logits(state, rows),
            lambda rows=rows: session.useful_actions(state, rows),
            lambda rows=rows: session.maps(state, rows),
            lambda rows=rows: session.residual_curves(state, int(rows[1])),
        ):
            with pytest.raises(ValueError, match=r"rows must lie in 0\.\.9"):
                ask()
    for row in range(NUM_IMAGES):
        assert_row_is(state, row, case.states[0], row)


def test_actions_and_states_out_of_range_are_refused(cases: Cases) -> None:
    case = cases.get_case("wide")
    session, state = case.session, case.session.begin(case.inputs)
    for action in (4, -1, 1 << 40):
        actions = torch.tensor([1, action])
        with pytest.raises(ValueError, match=r"actions must lie in 0\.\.3"):
            session.apply(state, ALL[:2], actions)
    for state_id in (8, -1, 1 << 40):
        with pytest.raises(ValueError, match=r"state_ids must lie in 0\.\.7"):
            session.reach(state, ALL[:2], torch.tensor([1, state_id]))
    for row in range(NUM_IMAGES):
        assert_row_is(state, row, case.states[0], row)


def test_types_and_shapes_are_looked_at(cases: Cases) -> None:
    case = cases.get_case("wide")
    session, state = case.session, case.session.begin(case.inputs)
    two, three = ALL[:2], ALL[:3]
    for rows in (two.int(), two.float(), two[None]):
        with pytest.raises(ValueError, match="rows must be int64"):
            session.apply(state, rows, two)
        with pytest.raises(ValueError, match="rows must be int64"):
            session.restart(state, rows, case.inputs[:2])
    with pytest.raises(ValueError, match="actions must have 2 entries"):
        session.apply(state, two, three)
    with pytest.raises(ValueError, match="actions must be int64"):
        session.apply(state, two, two.int())
    with pytest.raises(ValueError, match="state_ids must have 3 entries"):
        session.reach(state, three, two)
    for bad in (case.inputs[:3], case.inputs[:2, :, :4], case.inputs[:2].double()):
        with pytest.raises(ValueError, match="inputs must be"):
            session.restart(state, two, bad)
    with pytest.raises(ValueError, match="inputs must be"):
        session.begin(case.inputs[:, 0])


WRONG_ROWS = [
    *(None, 0, [0, 1], "rows", slice(None), np.array([0, 1])),
    *(torch.tensor(0), torch.tensor([0.0, 1.0]), torch.tensor([True, False])),
    *(ALL[:2].int(), ALL[:2].to("meta"), ALL[:2].to_sparse()),
]


@pytest.mark.parametrize("rows", WRONG_ROWS, ids=repr)
def test_rows_that_are_no_row_numbers(rows: Any, cases: Cases) -> None:
    case = cases.get_case("wide")
    session, state = case.session, case.session.begin(case.inputs)
    for ask in (session.features, session.logits, session.useful_actions, session.maps):
        with pytest.raises(ValueError, match="rows must be int64 of one axis"):
            ask(state, rows)
    for ask in (session.apply, session.reach):
        with pytest.raises(ValueError, match="rows must be int64 of one axis"):
            ask(state, rows, ALL[:2])
        with pytest.raises(ValueError, match="must be int64 of one axis"):
            ask(state, ALL[:2], rows)
    with pytest.raises(ValueError, match="rows must be int64 of one axis"):
        session.restart(state, rows, case.inputs[:2])


@pytest.mark.parametrize("wrong", ["to_sparse", "meta", "numpy", "None"])
def test_inputs_without_numbers(wrong: str, cases: Cases) -> None:
    case = cases.get_case("wide")
    session, state = case.session, case.session.begin(case.inputs)
    images: Any = case.inputs[:2]
    images = {
        "to_sparse": images.to_sparse(),
        "meta": images.to("meta"),
        "numpy": images.numpy(),
        "None": None,
    }[wrong]
    with pytest.raises(ValueError, match="dense tensor"):
        session.restart(state, ALL[:2], images)


ROW = st.integers(-2, NUM_IMAGES + 1) | st.sampled_from([2**31, 2**62, -(2**63)])
CALL = st.tuples(
    st.sampled_from(["apply", "reach", "restart", "look"]),
    st.lists(ROW, max_size=4, unique=True),
    st.lists(st.integers(-1, 9) | ROW, max_size=4),
)


def ask(case: Case, state: MainState, name: str, rows: Tensor, numbers: Tensor) -> None:
    session = case.session
    if name == "look":
        session.features(state, rows)
        session.logits(state, rows)
        session.useful_actions(state, rows)
    elif name == "restart":
        session.restart(state, rows, case.inputs[: len(rows)])
    else:
        getattr(session, name)(state, rows, numbers)


@settings(max_examples=40, deadline=None)
@given(st.lists(CALL, max_size=8))
def test_whatever_is_asked_is_answered_or_refused(
    cases: Cases, calls: list[tuple[str, list[int], list[int]]]
) -> None:
    """A call out of range raises ValueError and moves nothing; every other is done."""
    case = cases.get_case("wide")
    session, state = case.session, case.session.begin(case.inputs)
    for name, given_rows, given_numbers in calls:
        rows = torch.tensor(given_rows, dtype=torch.int64)
        numbers = torch.tensor(given_numbers, dtype=torch.int64)
        if name == "reach":  # from state 0
            state = session.begin(case.inputs)
        before = state.clone()
        inside = all(0 <= row < NUM_IMAGES for row in given_rows)
        if name in ("apply", "reach"):
            limit = 4 if name == "apply" else 8
            inside &= len(rows) == len(numbers)
            inside &= all(0 <= number < limit for number in given_numbers)
        if inside:
            ask(case, state, name, rows, numbers)
            continue
        with pytest.raises(ValueError, match="must"):
            ask(case, state, name, rows, numbers)
        for row in range(NUM_IMAGES):
            assert_row_is(state, row, before, row)


def test_no_rows_are_no_error(cases: Cases) -> None:
    case = cases.get_case("wide")
    session, none = case.session, ALL[:0]
    state = session.begin(case.inputs[:0])
    assert session.logits(state, none).shape == (0, 3)
    assert session.apply(state, none, none).macs.shape == (0,)
    session.restart(state, none, case.inputs[:0])
    with pytest.raises(ValueError, match="rows"):
        session.apply(state, ALL[:1], ALL[:1])


def test_memory_layout_of_what_is_asked_does_not_matter(cases: Cases) -> None:
    case = cases.get_case("wide")
    rows, actions = ALL.flip(0)[::2], torch.tensor([[1, 0], [2, 0], [3, 0]] * 2)[:5, 0]
    channels_last = case.inputs.contiguous(memory_format=torch.channels_last)
    strided = case.inputs.repeat_interleave(2, 3)[..., ::2]
    found = []
    for inputs in (case.inputs, channels_last, strided):
        state = case.session.begin(inputs)
        case.session.apply(state, rows, actions)
        found.append(state.logits)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
