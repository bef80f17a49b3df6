"""Solves that are taken in portions: equal to uninterrupted ones, bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from helpers.networks import make_vec, random_images, shared_model, shared_split
from torch import Tensor

from dynalay_gym.envs.oracle import optimum
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.calibration import visit_states
from dynalay_gym.sessions.main_state import MainState
from dynalay_gym.sessions.states import default_decisions
from dynalay_gym.sessions.torch_session import TorchSession
from dynalay_gym.testing import check_vector_env

NUM, RTOL, MOST, PORTION = 6, 1e-3, (7, 4, 10), 3
LEVELS = (3, 2, 4)  # portions of 3, 3, 1; of 3, 1; and of 3, 3, 3, 1 iterations
ALL = torch.arange(NUM)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path / "cache"))


def make_session(form: str, **changes: Any) -> TorchSession:
    options = {"rtol": RTOL, "max_steps": MOST, "iterations_per_action": PORTION}
    return TorchSession(shared_model(form), **options | changes)


def images(form: str) -> Tensor:
    return random_images(shared_model(form).config, NUM)


def assert_same(one: MainState, other: MainState, *, but: str = "state_id") -> None:
    for name in {"pooled", "logits", "residual", "state_id"} - {but}:
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for mine, theirs in zip(one.layers[1:], other.layers[1:], strict=True):
        for part, expected in zip(mine.read(ALL), theirs.read(ALL), strict=True):
            assert (part is None) == (expected is None)
            assert part is None or torch.equal(part, expected)


def choose(session: TorchSession, state: MainState, action: int) -> Any:
    return session.apply(state, ALL, torch.full_like(ALL, action))


@pytest.mark.parametrize("form", ["wide", "state"])
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_portions_end_where_one_solve_of_as_many_iterations_does(
    form: str, layer: int
) -> None:
    session = make_session(form)
    state, iterations = session.begin(images(form)), torch.zeros(NUM)
    for level in range(1, LEVELS[layer - 1] + 1):
        cost = choose(session, state, layer)
        iterations += cost.solver_steps * ~cost.already_iterated
        most = min(level * PORTION, MOST[layer - 1])
        once = make_session(form, max_steps=most, iterations_per_action=None)
        whole = once.begin(images(form))
        expected = choose(once, whole, layer)
        assert_same(state, whole)
        assert torch.equal(iterations, expected.solver_steps)


@pytest.mark.parametrize("form", ["wide", "state"])
def test_every_state_is_reached_directly_as_well(form: str) -> None:
    session = make_session(form)
    visited = 0
    for number, state, _ in visit_states(session, images(form)):
        direct = session.begin(images(form))
        session.reach(direct, ALL, torch.full_like(ALL, number))
        assert_same(direct, state, but="nothing")
        visited += 1
    assert visited == 4 * 3 * 5


def test_rows_at_different_levels_do_not_disturb_each_other() -> None:
    session = make_session("wide")
    mixed, plans = session.begin(images("wide")), [[1, 1, 2], [3, 3, 3], [2, 3, 1]]
    actions = torch.tensor(plans + plans).T
    for column in actions:
        session.apply(mixed, ALL, column)
    for row in range(NUM):
        alone = session.begin(images("wide")[[row]])
        for action in actions[:, [row]]:
            session.apply(alone, torch.zeros(1, dtype=torch.int64), action)
        assert torch.equal(alone.logits[0], mixed.logits[row])
        assert torch.equal(alone.pooled[0], mixed.pooled[row])


def test_a_portion_costs_its_iterations_and_what_lies_above() -> None:
    session = make_session("wide", rtol=1e-9)
    state, layers = session.begin(images("wide")), session.costs.layers
    above = layers[2].plain + session.costs.head
    first, second, last = (choose(session, state, 2) for _ in range(3))
    assert set(first.macs.tolist()) == {
        3 * layers[1].iteration + layers[1].setup[0] + above
    }
    assert set(second.macs.tolist()) == {1 * layers[1].iteration + above}
    # The layer has taken all its portions: one iteration checks it.
    assert set(last.macs.tolist()) == {1 * layers[1].iteration + above}
    assert last.already_iterated.all()
    assert not second.already_iterated.any()


def test_a_converged_layer_is_masked_and_only_checked() -> None:
    session = make_session("wide", rtol=0.3)
    state = session.begin(images("wide"))
    assert session.useful_actions(state, ALL).all()
    choose(session, state, 1)
    done = state.residual[:, 0] < 0.3
    assert done.any()
    assert torch.equal(session.useful_actions(state, ALL)[:, 1], ~done)
    before = state.clone()
    cost = choose(session, state, 1)
    assert torch.equal(cost.already_iterated, done)
    assert set(cost.solver_steps[done].tolist()) == {1}
    rows = done.nonzero()[:, 0]
    for name in ("logits", "pooled", "residual"):
        assert torch.equal(getattr(state, name)[rows], getattr(before, name)[rows])
    assert set(state.state_id.tolist()) == {2}


def test_levels_are_seen_as_shares_of_all_portions() -> None:
    session = make_session("wide")
    state = session.begin(images("wide"))
    for action in (1, 1, 3):
        choose(session, state, action)
    seen = session.features(state, ALL)[:, -3:]
    assert torch.allclose(seen, torch.tensor([2 / 3, 0.0, 1 / 4]))
    assert default_decisions(session) == sum(LEVELS) + 1


def test_residual_curves_follow_the_portions() -> None:
    session = make_session("wide", rtol=1e-9)
    state = session.begin(images("wide"))
    for action in (1, 1, 3):
        choose(session, state, action)
    curves = session.residual_curves(state, 2)
    assert [len(curve) for curve in curves.values()] == [6, 0, 3]
    assert curves["layer 1"][-1] == pytest.approx(float(state.residual[2, 0]), rel=1e-4)


def test_an_empty_portion_is_refused() -> None:
    with pytest.raises(ConfigError, match="iterations_per_action"):
        make_session("wide", iterations_per_action=0)


# --- in an environment ----------------------------------------------------------------

PORTIONS: dict[str, Any] = {"iterations_per_action": 4, "rtol": 0.03, "max_steps": 10}


@pytest.mark.parametrize("transitions", ["live", "table"])
def test_the_batched_checker(transitions: str) -> None:
    def make(num_envs: int, mode: str) -> Any:
        options = PORTIONS | {"autoreset_mode": mode, "transitions": transitions}
        return make_vec(num_envs, "wide", **options)

    check_vector_env(make, num_envs=3, num_steps=16)


@pytest.mark.parametrize("form", ["wide", "state"])
def test_a_table_is_equal_to_the_network_to_the_bit(form: str) -> None:
    live, table = (
        make_vec(16, form, transitions=kind, max_decisions=9, **PORTIONS)
        for kind in ("live", "table")
    )
    assert data_equivalence(table.reset(seed=3), live.reset(seed=3), exact=True)
    rng, masked = np.random.default_rng(0), 0
    for _ in range(60):
        actions = np.minimum(rng.integers(0, 8, 16), 3)  # seldom stop
        expected, got = live.step(actions), table.step(actions)
        assert data_equivalence(got, expected, exact=True)
        masked += int((expected[4]["action_mask"] == 0).sum())
    assert masked > 0


def test_consecutive_choices_are_paid_as_the_paper_says() -> None:
    envs = make_vec(1, "wide", penalty=0.5, autoreset_mode="Disabled", **PORTIONS)
    envs.reset(seed=0)
    for consecutive in (1, 2, 3):
        _, rewards, _, _, infos = envs.step([3])
        cost = infos["macs"][0] / envs.always_extra_macs
        assert rewards[0] == pytest.approx(-0.5 * cost * consecutive, rel=1e-5)


def test_the_oracle_earns_what_its_plans_return() -> None:
    envs = make_vec(
        8,
        "state",
        transitions="table",
        penalty=0.02,
        max_decisions=4,
        autoreset_mode="Disabled",
        **PORTIONS,
    )
    best = optimum(envs, 0.02)
    result = evaluate(envs, PlanPolicy(best.plans, name="oracle"), penalty=0.02)
    assert np.allclose(result.returns, best.returns, atol=1e-6)
    plans = [[], [1], [3], [1, 1], [2, 3], [3, 3, 3]]
    others = [evaluate(envs, PlanPolicy(plan), penalty=0.02).returns for plan in plans]
    assert (best.returns >= np.max(others, axis=0) - 1e-6).all()
    assert (best.plans != 0).any()


def test_saved_rows_go_on_where_they_were() -> None:
    first, second = (make_vec(5, "wide", **PORTIONS) for _ in range(2))
    first.reset(seed=1)
    for actions in ([1, 1, 3, 2, 1], [1, 2, 3, 1, 1]):
        first.step(actions)
    second.set_state(first.get_state())
    for actions in ([1, 2, 3, 1, 3], [3, 2, 1, 0, 1]):
        expected, got = first.step(actions), second.step(actions)
        assert data_equivalence(got, expected, exact=True)


def test_a_predictor_keeps_its_portions(tmp_path: Path) -> None:
    envs = make_vec(4, "wide", penalty=0.1, **PORTIONS)
    predictor = DynaLayPredictor.from_env(envs, PlanPolicy([1, 1, 2]))
    predictor.save(tmp_path)
    loaded = DynaLayPredictor.load(tmp_path)
    inputs = shared_split().inputs
    expected, got = predictor.infer(inputs), loaded.infer(inputs)
    assert torch.equal(torch.as_tensor(got.macs), torch.as_tensor(expected.macs))
    assert torch.equal(
        torch.as_tensor(got.probabilities), torch.as_tensor(expected.probabilities)
    )
    whole = DynaLayPredictor(shared_model("wide"), PlanPolicy([1, 1, 2]), penalty=0.1)
    assert not torch.equal(
        torch.as_tensor(whole.infer(inputs).macs), torch.as_tensor(expected.macs)
    )
