"""Calls that cannot be meant: a typed error of one line, and nothing has changed."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from helpers.networks import make_single, make_vec, shared_model, shared_split
from torch import Tensor

from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.errors import ConfigError, InvalidActionError, ResetNeededError
from dynalay_gym.integrations.sb3 import SB3VecEnv
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor

N, A = 3, 4  # rows and actions
NAN, INF = float("nan"), float("inf")


class Hostile:
    """An object whose conversion to an array fails in a way of its own."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise KeyError("no array")


def device_tensor(dtype: torch.dtype) -> Tensor:
    return torch.zeros(N, dtype=dtype, device="meta")  # it has no numbers


BAD_ACTIONS: dict[str, Any] = {
    "None": None,
    "a string": "stop",
    "digits in a string": "012",
    "bytes": b"012",
    "strings": ["0", "1", "2"],
    "array of strings": np.array(["0", "1", "2"]),
    "one number": 1,
    "array without axes": np.array(1),
    "no rows": [],
    "a row too few": [1] * (N - 1),
    "a row too many": [1] * (N + 1),
    "a row more in an array": np.ones(N + 1, dtype=np.int64),
    "column": [[1]] * N,
    "row vector": np.ones((1, N), dtype=np.int64),
    "one-hot": np.eye(N, A, dtype=np.int64),
    "ragged": [1, [1, 2], 1],
    "floats": [0.0, 1.0, 2.0],
    "float32 array": np.array([0, 1, 2], dtype=np.float32),
    "halves": [0.5] * N,
    "NaN": [NAN] * N,
    "infinity": [1, 1, INF],
    "complex": [1j] * N,
    "bools": [True, False, True],
    "array of bools": np.ones(N, dtype=bool),
    "above the range": [0, 0, A],
    "below the range": [-1, 0, 0],
    "far above": [0, 10**30, 0],
    "least int64": np.array([-(2**63), 0, 0]),
    "greatest uint64": np.array([2**64 - 1, 0, 0], dtype=np.uint64),
    "None inside": [0, None, 0],
    "objects": np.array([0, 1, 2], dtype=object),
    "an object": object(),
    "dictionary": dict.fromkeys(range(N), 1),
    "set": {0, 1, 2},
    "generator": (action for action in (0, 1, 2)),
    "dates": np.zeros(N, dtype="datetime64[D]"),
    "durations": np.zeros(N, dtype="timedelta64[s]"),
    "records": np.zeros(N, dtype=[("action", np.int64)]),
    "float tensor": torch.tensor([0.0, 1.0, 2.0]),
    "tensor with a gradient": torch.ones(N, requires_grad=True),
    "bool tensor": torch.ones(N, dtype=torch.bool),
    "tensor out of range": torch.tensor([0, 1, 7]),
    "tensor of two axes": torch.zeros(N, 1, dtype=torch.int64),
    "sparse tensor": torch.ones(N, dtype=torch.int64).to_sparse(),
    "tensor without numbers": device_tensor(torch.int64),
    "hostile object": Hostile(),
}
# Of these the single form takes none, and others that a batch of rows would.
BAD_SINGLE_ACTIONS: dict[str, Any] = BAD_ACTIONS | {
    "one number": [1],
    "array without axes": np.array([1]),
    "True": True,
    "NumPy's True": np.True_,
    "float": 1.0,
    "NumPy's float": np.float32(1),
    "not a number": NAN,
    "complex number": 1j,
    "above": A,
    "below": -1,
    "far above it": 10**30,
    "digit": "1",
    "tuple": (1,),
    "tensor of one": torch.tensor([1]),
    "float in a tensor": torch.tensor(1.0),
    "True in a tensor": torch.tensor(True),
    "tensor above": torch.tensor(A),
}


def same_state(envs: DynaLayVectorEnv, state: dict[str, Tensor]) -> bool:
    now = envs.get_state()
    return now.keys() == state.keys() and all(
        torch.equal(now[name], part) for name, part in state.items()
    )


def refused(
    call: Callable[[], Any], error: type[Exception], envs: DynaLayVectorEnv, what: str
) -> None:
    """Call what must raise one line and leave the state as it is."""
    state = envs.get_state()
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error, what
    text = str(caught.value)
    assert len(text) < 200 and "\n" not in text, what
    assert same_state(envs, state), what


# --- actions --------------------------------------------------------------------------


@pytest.mark.parametrize("transitions", ["live", "table"])
@pytest.mark.parametrize("output", ["numpy", "torch"])
@pytest.mark.parametrize("mode", [mode.value for mode in AutoresetMode])
def test_bad_actions_of_a_batch(mode: str, output: str, transitions: str) -> None:
    config = {"autoreset_mode": mode, "output": output, "transitions": transitions}
    envs, twin = (make_vec(N, **config) for _ in range(2))
    for one in (envs, twin):
        one.reset(seed=4)
        one.step([1, 2, 3])
    for what, actions in BAD_ACTIONS.items():
        refused(lambda a=actions: envs.step(a), InvalidActionError, envs, what)
    for mine, theirs in zip(envs.step([2, 1, 3]), twin.step([2, 1, 3]), strict=True):
        if not isinstance(mine, dict):
            assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("transitions", ["live", "table"])
def test_bad_actions_of_the_single_form(transitions: str) -> None:
    env, twin = (make_single(transitions=transitions) for _ in range(2))
    for one in (env, twin):
        one.reset(seed=4)
        one.step(1)
    for what, action in BAD_SINGLE_ACTIONS.items():
        refused(lambda a=action: env.step(a), InvalidActionError, env._row, what)
    mine, theirs = env.step(2), twin.step(2)
    assert np.array_equal(mine[0], theirs[0]) and mine[1:4] == theirs[1:4]


def test_bad_actions_through_stable_baselines() -> None:
    inner = make_vec(N)
    envs = SB3VecEnv(inner)
    envs.reset()
    for what, actions in BAD_ACTIONS.items():
        refused(lambda a=actions: envs.step(a), InvalidActionError, inner, what)


@pytest.mark.parametrize("what", BAD_ACTIONS)
def test_bad_actions_of_a_predictors_policy(what: str) -> None:
    class Wrong:
        name, macs_per_decision = "wrong", 0

        def act(self, observations: Any, infos: Any) -> Any:
            return BAD_ACTIONS[what]

    images = shared_split().inputs[:N]
    predictor = DynaLayPredictor(shared_model(), Wrong(), penalty=0.1)
    with pytest.raises(InvalidActionError) as caught:
        predictor.predict(images)
    assert len(str(caught.value)) < 200
    predictor.policy = sound = PlanPolicy((1, 2))
    expected = DynaLayPredictor(shared_model(), sound, penalty=0.1).infer(images)
    for mine, theirs in zip(predictor.infer(images), expected, strict=True):
        assert torch.equal(mine, theirs)


def test_finished_rows_are_not_stepped() -> None:
    envs = make_vec(N, autoreset_mode="Disabled")
    envs.reset(seed=0)
    envs.step([1, 0, 1])
    for actions in ([1, 1, 1], [0, 0, 0], [1, -1, 1]):
        refused(lambda a=actions: envs.step(a), InvalidActionError, envs, str(actions))
    env = make_single()
    env.reset(seed=0)
    env.step(0)
    for action in (0, 1, -1, None):
        refused(lambda a=action: env.step(a), ResetNeededError, env._row, str(action))


def test_nothing_goes_before_the_first_reset_or_after_close() -> None:
    envs, env = make_vec(N, render_mode="ansi"), make_single(render_mode="ansi")
    batch: dict[str, Callable[[], Any]] = {
        "step": lambda: envs.step([1] * N),
        "action_masks": envs.action_masks,
        "get_state": envs.get_state,
        "render": envs.render,
    }
    single = {
        "step": lambda: env.step(1),
        "action_masks": env.action_masks,
        "render": env.render,
    }
    for name, call in [*batch.items(), *single.items()]:
        with pytest.raises(ResetNeededError, match=rf"reset\(\) before {name}\(\)"):
            call()
    envs.reset(seed=0)
    env.reset(seed=0)
    state = envs.get_state()
    envs.close()
    env.close()
    envs.close()  # as often as one likes
    batch |= {"reset": envs.reset, "set_state": lambda: envs.set_state(state)}
    single |= {"reset": env.reset}
    for name, call in [*batch.items(), *single.items()]:
        with pytest.raises(ResetNeededError, match=rf"{name}\(\) after close\(\)"):
            call()


# --- seeds and options ----------------------------------------------------------------

BAD_SEEDS: list[Any] = [
    *(True, False, np.True_, 1.0, 1.5, np.float64(2), NAN, 1j, "1", "123", b"123"),
    *(-1, -(2**70), 2**64, 2**64 + 1, 10**30, np.array(3), torch.tensor(3)),
    *([1, 2], [1, 2, 3, 4], [], {}, "", {0, 1, 2}, {0: 1, 1: 2, 2: 3}, object()),
    *([1.0, 2, 3], [1.5, 2, 3], [True, 2, 3], ["1", "2", "3"], [[1], [2], [3]]),
    *([1, -2, 3], [2**64, 1, 2], [None, 1.5, None], [[], [], []], [NAN] * N),
    *(np.array([1.0, 2, 3]), np.array([-1, 2, 3]), np.array([[1, 2, 3]])),
    *(np.array([True] * N), np.array("a")),
    *(torch.tensor([1.0, 2, 3]), torch.tensor([[1, 2, 3]]), device_tensor(torch.int64)),
    *(iter([1, 2, 3]), Hostile(), np.datetime64("2020")),
]


def shown(value: Any) -> str:
    """Return how a value looks, without its address: all processes need one id."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


@pytest.mark.parametrize("seed", BAD_SEEDS, ids=shown)
def test_bad_seeds(seed: Any) -> None:
    envs, env = make_vec(N), make_single()
    envs.reset(seed=4)
    env.reset(seed=4)
    refused(lambda: envs.reset(seed=seed), ConfigError, envs, repr(seed))
    refused(lambda: env.reset(seed=seed), ConfigError, env._row, repr(seed))


def test_the_seed_of_the_last_row_counts() -> None:
    envs = make_vec(N)
    envs.reset(seed=2**64 - N)
    refused(lambda: envs.reset(seed=2**64 - N + 1), ConfigError, envs, "too large")


@pytest.mark.parametrize(
    "seed",
    [
        *([3, 4, 5], (3, 4, 5), range(3, 6), np.int64(3), np.array([3, 4, 5])),
        *(np.array([3, 4, 5], dtype=np.uint8), torch.tensor([3, 4, 5])),
        [np.int64(3), 4, np.uint64(5)],
    ],
    ids=shown,
)
def test_good_seeds_of_any_kind_are_the_same(seed: Any) -> None:
    envs = make_vec(N)
    envs.reset(seed=3)
    state = envs.get_state()
    envs.reset(seed=seed)
    assert same_state(envs, state)
    env = make_single()
    drawn = [env.reset(seed=one)[1]["index"] for one in (3, np.int64(3))]
    assert drawn[0] == drawn[1]
    assert env.np_random_seed == 3


BAD_OPTIONS: list[Any] = [
    *([], 1, 0, False, "", (), "index", [("index", 1)], object()),
    *({1: 2}, {None: 1}, {"index": 1, 2: 3, "x": 4}, {"Index": 1}, {"seed": 1}),
    *({"index": value} for value in (24, -1, 2**64, -(2**70), 10**30, 1.0, 1.5, NAN)),
    *({"index": value} for value in (None, True, "1", b"1", {}, {1}, [], object())),
    *({"index": value} for value in ([1, 2], [1, 2, 3, 4], [[1, 2, 3]], [1, None, 2])),
    *({"index": value} for value in ([1, [2], 3], [True] * N, np.ones(N), Hostile())),
    *({"index": value} for value in (device_tensor(torch.int64), torch.ones(N))),
    *({"penalty": value} for value in (-0.1, NAN, INF, -INF, 1e39, 3.5e38, 10**400)),
    *({"penalty": value} for value in (np.float64(1e300), 1j, None, True, "0.1:0.3")),
    *({"penalty": value} for value in ([0.1, 0.2], [[0.1] * N], [0.1, NAN, 0.1], [])),
    *({"penalty": value} for value in ([None] * N, np.zeros((N, 1)), Hostile())),
    *({"penalty": value} for value in (device_tensor(torch.float32), [0.1, [0.2], 1])),
    *({"reset_mask": value} for value in (True, 1, "abc", [1, 0, 1], [True] * 4, [])),
    *({"reset_mask": value} for value in (np.ones((N, 1), bool), np.ones(N), object())),
    *({"reset_mask": value} for value in ([True, [False], True], Hostile())),
    {"reset_mask": device_tensor(torch.bool)},
]


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=shown)
def test_bad_reset_options(options: Any) -> None:
    envs, env = make_vec(N), make_single()
    for seed in (None, 99):
        for reset, row in ((envs.reset, envs), (env.reset, env._row)):
            reset(seed=4)
            call = lambda r=reset, s=seed: r(seed=s, options=options)  # noqa: E731
            refused(call, ConfigError, row, repr(options))


# --- states ---------------------------------------------------------------------------


def started(transitions: str = "live", **config: Any) -> DynaLayVectorEnv:
    """Rows that have taken two decisions each."""
    envs = make_vec(N, transitions=transitions, autoreset_mode="NextStep", **config)
    envs.reset(seed=1)
    envs.step([1, 2, 3])
    envs.step([1, 0, 2])
    return envs


BAD_VALUES: dict[str, list[Any]] = {
    "state_ids": [-1, 8, 2**62, 0, 7],
    "index": [-1, 24, 2**62, -(2**63)],
    "penalty": [NAN, INF, -INF, -0.5],
    "last_action": [-2, 4, 2**40, -1, 0],
    "consecutive": [-1, 0, 1, 3, 5, 2**40],
    "decisions": [-1, 0, 1, 3, 4, 5, 2**40],
    "macs": [-1, -(2**63)],
    "solver_steps": [-1, -(2**63)],
    "status": [-1, 3, 2**40],
    "history": [-2, 4, 2**40, -1, 0, 2],
    "best_prob": [NAN, 0.5, INF, -2.0],
    "best_answer": [-1, 3, 2**40],
    "episodes": [-1, 0, 2**63 - 1],
    "finished": [True],
}


@pytest.mark.parametrize("transitions", ["live", "table"])
@pytest.mark.parametrize("name", BAD_VALUES)
def test_numbers_that_no_row_can_have(name: str, transitions: str) -> None:
    envs = started(transitions)
    for value in BAD_VALUES[name]:
        for row in (0, 2) if name == "finished" else (0,):
            state = envs.get_state()
            part = state[name][row]
            (part[0] if part.dim() else part).fill_(value)
            call = lambda s=state: envs.set_state(s)  # noqa: E731
            refused(call, ConfigError, envs, f"{name} {value}")


WRONG_PARTS: dict[str, Callable[[Tensor], Any]] = {
    "short": lambda part: part[:-1],
    "one row": lambda part: part[:1],
    "empty": lambda part: part[:0],
    "long": lambda part: torch.cat([part, part]),
    "an axis more": lambda part: part[None],
    "a last axis more": lambda part: part[..., None],
    "no axis": lambda part: part.flatten()[0],
    "doubles": lambda part: part.double(),
    "halves": lambda part: part.half(),
    "int32": lambda part: part.int(),
    "uint8": lambda part: part.to(torch.uint8),
    "complex": lambda part: part.to(torch.complex64),
    "no numbers": lambda part: part.to("meta"),
    "sparse": lambda part: part.to_sparse(),
    "list": lambda part: part.tolist() if part.dtype == torch.float32 else [None],
    "None": lambda part: None,
    "text": lambda part: "part",
    "hostile": lambda part: Hostile(),
}


@pytest.mark.parametrize("wrong", WRONG_PARTS)
def test_parts_of_another_shape_or_type(wrong: str) -> None:
    envs = started()
    whole = envs.get_state()
    for name, part in whole.items():
        state = whole | {name: WRONG_PARTS[wrong](part)}
        call = lambda s=state: envs.set_state(s)  # noqa: E731
        refused(call, ConfigError, envs, f"{wrong} {name}")


def test_parts_that_are_missing_or_too_many() -> None:
    envs = started()
    whole = envs.get_state()
    for name in whole:
        state = {key: part for key, part in whole.items() if key != name}
        refused(lambda s=state: envs.set_state(s), ConfigError, envs, name)
    for state in ({}, whole | {"more": whole["index"]}, None, [], "state", 3):
        refused(lambda s=state: envs.set_state(s), ConfigError, envs, str(state)[:20])


def test_the_state_of_another_environment() -> None:
    envs = started()
    others = [make_vec(N + 1), make_vec(N, max_decisions=9), make_vec(N, recall=True)]
    for other in others:
        other.reset(seed=0)
        state = other.get_state()
        refused(lambda s=state: envs.set_state(s), ConfigError, envs, "another's")


@pytest.mark.parametrize("recall", [False, True])
@pytest.mark.parametrize("transitions", ["live", "table"])
def test_a_state_goes_into_a_fresh_environment(transitions: str, recall: bool) -> None:
    envs = started(transitions, recall=recall, penalty="0.1:0.9")
    fresh = make_vec(
        N,
        transitions=transitions,
        autoreset_mode="NextStep",
        recall=recall,
        penalty="0.1:0.9",
    )
    state = envs.get_state()
    fresh.set_state(state)
    assert same_state(fresh, state)
    for actions in np.random.default_rng(0).integers(A, size=(20, N)):
        mine, theirs = fresh.step(actions), envs.step(actions)
        assert all(np.array_equal(mine[i], theirs[i]) for i in range(4))
    assert same_state(fresh, envs.get_state())


def test_no_row_may_be_reset_even_where_none_has_begun_here() -> None:
    envs, fresh = started(), make_vec(N, autoreset_mode="NextStep")
    state = envs.get_state()
    fresh.set_state(state)
    fresh.reset(options={"reset_mask": np.zeros(N, dtype=bool)})
    assert same_state(fresh, state)
