"""A row's state is a function of which layers sit on their fixed point, to the bit."""

import pytest
import torch
from helpers.flops import FlopCount
from helpers.networks import random_images, random_model, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st

from dynalay_gym.data.splits import load_split
from dynalay_gym.envs.config import SHIPPED
from dynalay_gym.fixed_point.progress import SolverStatus
from dynalay_gym.networks.checkpoint import load_network
from dynalay_gym.sessions.accel.session import CompiledSession
from dynalay_gym.sessions.calibration import parent_state, visit_states
from dynalay_gym.sessions.protocol import SessionState
from dynalay_gym.sessions.torch_session import TorchSession

NUM_IMAGES = 10
NAMES = ("wide", "state", "shipped")
Kind = type[TorchSession]


class Case:
    """A session with all eight states of a few images, each reached bottom up."""

    def __init__(self, name: str, rtol: float = 0.1, kind: Kind = TorchSession) -> None:
        if name == "shipped":
            model, _ = load_network(SHIPPED / "digits")
            self.inputs = load_split("digits", "agent").inputs[:NUM_IMAGES]
        else:
            model = random_model(tiny_config(name))
            self.inputs = random_images(model.config, NUM_IMAGES)
        self.session = kind(model, rtol=rtol, max_steps=50)
        self.states: dict[int, SessionState] = {}
        self.steps: dict[int, torch.Tensor] = {}
        for path, state, cost in visit_states(self.session, self.inputs):
            before = self.steps[parent_state(path)] if path else 0
            self.states[path], self.steps[path] = state, before + cost.solver_steps


class Cases(dict[tuple[str, float], Case]):
    """Cases of one kind of session, made when they are asked for."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind


@pytest.fixture(scope="module", params=[CompiledSession, TorchSession])
def cases(request: pytest.FixtureRequest) -> Cases:
    return Cases(request.param)


def get_case(cases: Cases, name: str, rtol: float = 0.1) -> Case:
    if (name, rtol) not in cases:
        cases[name, rtol] = Case(name, rtol, cases.kind)
    return cases[name, rtol]


def assert_row_is(state: SessionState, row: int, other: SessionState, at: int) -> None:
    for i, (mine, theirs) in enumerate(zip(state.layers, other.layers, strict=True)):
        here, there = mine.at(torch.tensor([row])), theirs.at(torch.tensor([at]))
        names = ["h"] if i == 0 else ["u"]
        if i > 0 and state.iterated[row, i - 1]:
            names += ["h", "x"]
        for name in names:
            part, other_part = getattr(here, name), getattr(there, name)
            assert (part is None) == (other_part is None)
            assert part is None or torch.equal(part, other_part)
    for field in ("features", "logits", "iterated", "residual"):
        assert torch.equal(getattr(state, field)[row], getattr(other, field)[at])


def after(path: int, layer: int) -> int:
    """Bits after choosing a layer: its own is set, those above are cleared."""
    return (path & (2**layer - 1)) | 1 << (layer - 1)


def expected_steps(case: Case, path: int, layer: int, image: int) -> int:
    """Iterations of a choice: one if the layer sits there, else what it took before."""
    if path >> (layer - 1) & 1:
        return 1
    below = path & (2 ** (layer - 1) - 1)
    reached = case.steps[below | 1 << (layer - 1)]
    return int(reached[image] - case.steps[below][image])


def expected_macs(case: Case, path: int, layer: int, steps: int) -> int:
    costs = case.session.costs
    macs = costs.layers[layer - 1]
    total = macs.iteration * steps + costs.head
    total += sum(above.plain for above in costs.layers[layer:])
    if path >> (layer - 1) & 1:
        return total
    below_iterated = layer > 1 and bool(path >> (layer - 2) & 1)
    return total + macs.setup[below_iterated]


def walk(case: Case, images: list[int], choices: list[list[int]]) -> None:
    """Take choices (0: none) in a batch of images; compare every row at every step."""
    state = case.session.begin(case.inputs[images])
    paths = [0] * len(images)
    for choice in choices:
        rows = [row for row, layer in enumerate(choice) if layer > 0]
        layers = [choice[row] for row in rows]
        cost = case.session.apply(state, torch.tensor(rows), torch.tensor(layers))
        for k, (row, layer) in enumerate(zip(rows, layers, strict=True)):
            steps = expected_steps(case, paths[row], layer, images[row])
            assert cost.solver_steps[k] == steps
            assert cost.macs[k] == expected_macs(case, paths[row], layer, steps)
            paths[row] = after(paths[row], layer)
        for row, image in enumerate(images):
            assert_row_is(state, row, case.states[paths[row]], image)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rtol", [0.5, 0.1, 1e-3])
def test_any_order_in_any_batch_gives_the_same_bits(
    name: str, rtol: float, cases: Cases
) -> None:
    case = get_case(cases, name, rtol)
    generator = torch.Generator().manual_seed(int(1000 * rtol))
    for size in (1, 2, 3, 7):
        images = torch.randint(NUM_IMAGES, (size,), generator=generator).tolist()
        choices = torch.randint(0, 4, (8, size), generator=generator)
        choices[:, 0].clamp_(min=1)  # an empty choice has its own test
        walk(case, images, choices.tolist())


@pytest.mark.parametrize("form", ["wide", "state"])
def test_any_sequence_of_choices(form: str, cases: Cases) -> None:
    case = get_case(cases, form)
    row = st.tuples(
        st.integers(0, NUM_IMAGES - 1), st.lists(st.integers(1, 3), max_size=5)
    )

    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(st.lists(row, min_size=1, max_size=4))
    def run(rows: list[tuple[int, list[int]]]) -> None:
        longest = max(len(plan) for _, plan in rows)
        padded = [plan + [0] * (longest - len(plan)) for _, plan in rows]
        choices = [list(step) for step in zip(*padded, strict=True)]
        walk(case, [image for image, _ in rows], choices)

    run()


@pytest.mark.parametrize("name", NAMES)
def test_choosing_clears_the_bits_above(name: str, cases: Cases) -> None:
    case = get_case(cases, name)
    rows = torch.arange(NUM_IMAGES)
    for path, layer in [(7, 1), (7, 2), (6, 1), (5, 2), (4, 3), (3, 1), (0, 2)]:
        state = case.states[path].clone()
        case.session.apply(state, rows, torch.full_like(rows, layer))
        bits = [bool(after(path, layer) >> i & 1) for i in range(3)]
        assert state.iterated.tolist() == [bits] * NUM_IMAGES
        plain = ~state.iterated
        assert (state.residual[plain] == 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_check_costs_one_iteration_and_moves_nothing(name: str, cases: Cases) -> None:
    case = get_case(cases, name)
    costs, rows = case.session.costs, torch.arange(NUM_IMAGES)
    for path in range(1, 8):
        layer = path.bit_length()  # nothing above it is iterated
        state = case.states[path].clone()
        cost = case.session.apply(state, rows, torch.full_like(rows, layer))
        by_hand = costs.layers[layer - 1].iteration + costs.head
        by_hand += sum(above.plain for above in costs.layers[layer:])
        assert cost.macs.tolist() == [by_hand] * NUM_IMAGES
        assert cost.solver_steps.tolist() == [1] * NUM_IMAGES
        for row in range(NUM_IMAGES):
            assert_row_is(state, row, case.states[path], row)


def test_a_check_of_a_converged_layer_says_converged(
    cases: Cases,
) -> None:
    case = get_case(cases, "wide", 1e-3)
    state = case.states[1].clone()
    cost = case.session.apply(state, torch.arange(4), torch.ones(4, dtype=torch.int64))
    assert cost.status.tolist() == [SolverStatus.CONVERGED] * 4


def test_a_layer_short_of_its_tolerance_says_so_and_counts_as_iterated() -> None:
    session = TorchSession(random_model(tiny_config()), rtol=1e-6, max_steps=2)
    state = session.begin(random_images(tiny_config(), 4))
    cost = session.apply(state, torch.arange(4), torch.ones(4, dtype=torch.int64))
    assert cost.status.tolist() == [SolverStatus.MAX_STEPS] * 4
    assert cost.solver_steps.tolist() == [2] * 4
    assert state.iterated[:, 0].all()
    assert (state.residual[:, 0] >= 1e-6).all()


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_choose_nothing_run_nothing(name: str) -> None:
    case = Case(name)
    state = case.states[2].clone()
    with FlopCount() as counter:
        nobody = torch.empty(0, dtype=torch.int64)
        cost = case.session.apply(state, nobody, nobody)
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


def test_put_overwrites_rows_and_no_others(
    cases: Cases,
) -> None:
    case = get_case(cases, "wide")
    state = case.states[7].clone()
    case.session.restart(state, torch.tensor([3, 0]), case.inputs[[5, 6]])
    assert_row_is(state, 3, case.states[0], 5)
    assert_row_is(state, 0, case.states[0], 6)
    for row in (1, 2, 4, 9):
        assert_row_is(state, row, case.states[7], row)


@pytest.mark.parametrize("form", ["wide", "state"])
def test_residual_curves_end_where_the_solve_did(form: str, cases: Cases) -> None:
    case = get_case(cases, form, 1e-3)
    state, steps = case.states[5], case.steps
    for row in (0, 3):
        curves = case.session.residual_curves(state, row)
        assert [len(curve) > 0 for curve in curves] == [True, False, True]
        assert len(curves[0]) == steps[1][row]
        assert len(curves[0]) + len(curves[2]) == steps[5][row]
        assert curves[0][-1] == pytest.approx(float(state.residual[row, 0]), rel=1e-3)


def test_states_of_one_image_differ(cases: Cases) -> None:
    case = get_case(cases, "shipped")
    logits = torch.stack([case.states[path].logits for path in range(8)])
    assert len(logits[:, 0].unique(dim=0)) == 8


@pytest.mark.parametrize("name", NAMES)
def test_reach_brings_rows_to_any_state(name: str, cases: Cases) -> None:
    case = get_case(cases, name)
    target, sample = torch.cartesian_prod(torch.arange(8), torch.arange(NUM_IMAGES)).T
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(0))
    target, sample = target[order], sample[order]
    state = case.session.begin(case.inputs[sample])
    cost = case.session.reach(state, torch.arange(len(target)), target)
    for row, path in enumerate(target.tolist()):
        assert_row_is(state, row, case.states[path], int(sample[row]))
        assert cost.solver_steps[row] == (case.steps[path][sample[row]] if path else 0)
    assert ((cost.macs == 0) == (target == 0)).all()


def test_reach_runs_no_refresh_in_between() -> None:
    case = Case("wide")
    costs = case.session.costs
    images = case.inputs.repeat_interleave(2, 0)  # no row is ever alone, and padded
    rows = torch.arange(len(images))
    walked = torch.zeros_like(rows)
    state = case.session.begin(images)
    for layer in (1, 2, 3):
        walked += case.session.apply(state, rows, torch.full_like(rows, layer)).macs
    state = case.session.begin(images)
    with FlopCount() as counter:
        swept = case.session.reach(state, rows, torch.full_like(rows, 7))
    assert counter.total() == 2 * int(swept.macs.sum())
    spared = (
        2 * costs.head + costs.layers[2].plain
    )  # after 1 and 2; 3 applied once less
    assert (walked - swept.macs).tolist() == [spared] * len(rows)
