"""New weights under a running environment, and rows that are put back."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import make_single, random_model, tiny_config, tiny_kwargs
from numpy.typing import NDArray

from dynalay_gym.envs.oracle import optimum
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.errors import CheckpointError
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.sessions.torch_session import TorchSession

PLANS = [(3,), (1, 3), (2, 1), (2, 2), (1, 2, 3), (3, 1), (0,), (2,)]


def network(seed: int, form: str = "wide") -> MainNetwork:
    return random_model(tiny_config(form), seed)


def envs(model: MainNetwork, **options: Any) -> DynaLayVectorEnv:
    # The unit of cost stays that of the first network: give both the same one.
    return DynaLayVectorEnv(8, **tiny_kwargs(checkpoint=model, **options))


def play(one: DynaLayVectorEnv, num_steps: int) -> Any:
    observations, infos = one.reset(seed=0)
    for t in range(num_steps):
        actions = [plan[t] if t < len(plan) else 0 for plan in PLANS]
        observations, _, _, _, infos = one.step(actions)
    return observations, infos


@pytest.mark.parametrize("num_steps", [0, 1, 2, 3])
@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_rows_stand_in_the_same_bits_under_the_new_weights(
    num_steps: int, mode: str
) -> None:
    """As if the new network had been there all along, bit for bit."""
    changed, fresh = (envs(network(s), autoreset_mode=mode) for s in (0, 1))
    old, _ = play(changed, num_steps)
    expected, infos = play(fresh, num_steps)
    got, got_infos = changed.load_weights(network(1).state_dict())
    assert np.array_equal(got, expected)
    assert not np.array_equal(got, old)
    for key in ("index", "decisions", "prediction", "correct", "action_mask"):
        assert np.array_equal(got_infos[key], infos[key])
    a, b = changed.step([1] * 8), fresh.step([1] * 8)
    assert np.array_equal(a[0], b[0])


def test_cost_unit_and_penalty_stay() -> None:
    one = envs(network(0), penalty=None)
    before = one.always_extra_macs, one.penalty_range
    one.load_weights(network(1).state_dict())
    assert (one.always_extra_macs, one.penalty_range) == before
    assert envs(network(1)).always_extra_macs != before[0]


def test_a_table_is_computed_anew(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path))
    table, live = (envs(network(0), transitions=kind) for kind in ("table", "live"))
    play(table, 2), play(live, 2)
    before = table.problem.table
    files = sorted(tmp_path.iterdir())
    weights = network(1).state_dict()
    got, expected = (one.load_weights(weights)[0] for one in (table, live))
    assert np.array_equal(got, expected)
    a, b = table.step([2] * 8), live.step([2] * 8)
    assert np.array_equal(a[0], b[0])
    np.testing.assert_allclose(a[1], b[1])
    assert sorted(tmp_path.iterdir()) == files, "passing weights fill no cache"
    assert table.problem.table is not before
    assert np.array_equal(optimum(table).returns, optimum(live).returns)


def test_a_shared_session_leaves_no_table_behind(
    tmp_path: Any, monkeypatch: Any
) -> None:
    """The second environment finds its session changed, but not yet its table."""
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path))
    session: Any = TorchSession(network(0))
    first, second = (envs(session, transitions="table") for _ in range(2))
    play(first, 2), play(second, 2)
    weights = network(1).state_dict()
    a, b = (one.load_weights(weights)[0] for one in (first, second))
    assert np.array_equal(a, b)
    a, b = (one.step([2] * 8) for one in (first, second))
    assert np.array_equal(a[0], b[0])


def test_equal_weights_keep_the_table(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path))
    one = envs(network(0), transitions="table")
    table = one.problem.table
    one.load_weights(network(0).state_dict())
    assert one.problem.table is table


def test_other_architectures_are_refused() -> None:
    one, same = envs(network(0)), envs(network(0))
    play(one, 1), play(same, 1)
    wider = random_model(tiny_config(channels=(2, 3, 5)), 1)
    for other in (network(1, "state"), wider):
        with pytest.raises(CheckpointError, match="another architecture"):
            one.load_weights(other.state_dict())
    assert np.array_equal(one.step([1] * 8)[0], same.step([1] * 8)[0])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", ["live", "table", "interpreted"])
def test_weights_that_are_not_finite_are_refused(
    kind: str, value: float, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path))

    def make() -> DynaLayVectorEnv:
        if kind == "interpreted":
            session: Any = TorchSession(network(0))
            return envs(session)
        return envs(network(0), transitions=kind)

    one, same = make(), make()
    play(one, 1), play(same, 1)
    weights = {k: v.clone() for k, v in network(1).state_dict().items()}
    weights["layers.1.norm.running_var"][0, 0] = value
    before = one.problem.session.fingerprint()
    with pytest.raises(CheckpointError, match="running_var is not finite"):
        one.load_weights(weights)
    assert one.problem.session.fingerprint() == before
    for actions in ([1] * 8, [3] * 8):
        assert np.array_equal(one.step(actions)[0], same.step(actions)[0])


def test_the_single_form_takes_weights_too() -> None:
    one, fresh = make_single(checkpoint=network(0)), make_single(checkpoint=network(1))
    one.load_weights(network(1).state_dict())
    assert np.array_equal(one.reset(seed=3)[0], fresh.reset(seed=3)[0])


def test_workers_of_stable_baselines_take_weights() -> None:
    """By the name that SubprocVecEnv would send to its processes."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    workers = DummyVecEnv([lambda: make_single(checkpoint=network(0))] * 2)
    workers.env_method("load_weights", network(1).state_dict())
    workers.seed(3)
    fresh = make_single(checkpoint=network(1))
    assert np.array_equal(workers.reset()[0], fresh.reset(seed=3)[0])


def steps(one: DynaLayVectorEnv, actions: NDArray[np.int64]) -> list[Any]:
    return [one.step(row)[:3] for row in actions]


@pytest.mark.parametrize("transitions", ["live", "table"])
@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_rows_go_on_where_they_were(
    mode: str, transitions: str, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path))
    options = {"autoreset_mode": mode, "penalty": "0.1:0.4", "transitions": transitions}
    first, second = (envs(network(0), **options) for _ in range(2))
    actions = np.random.default_rng(0).integers(4, size=(20, 8))
    first.reset(seed=5)
    steps(first, actions[:7])
    state = {key: value.clone() for key, value in first.get_state().items()}
    observations, infos = second.set_state(state)
    assert np.array_equal(observations, first._observations())
    assert np.array_equal(infos["decisions"], first.process.infos()["decisions"])
    ahead, again = steps(first, actions[7:]), steps(second, actions[7:])
    for one, other in zip(ahead, again, strict=True):
        for part, same in zip(one, other, strict=True):
            assert np.array_equal(part, same)


def test_state_is_plain_tensors() -> None:
    one = envs(network(0))
    one.reset(seed=0)
    assert all(isinstance(v, torch.Tensor) for v in one.get_state().values())
