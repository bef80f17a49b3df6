"""Any order of calls: a batch does what single environments over the network do.

The model is one live single environment per row. Autoresets are made by hand, a saved
state is a copy of the whole environment, and one that is closed is made anew.
"""

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from helpers.networks import make_single, make_vec, random_model, tiny_config
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dynalay_gym.envs.single_env import DynaLayEnv
from dynalay_gym.errors import ConfigError, InvalidActionError, ResetNeededError

N, A, SAMPLES = 3, 4, 24
MODES = [mode.value for mode in AutoresetMode]
SEED = st.sampled_from([0, 1, 7, 2**31, 2**32 + 1, 2**63 - 1])
ACTIONS = st.lists(st.integers(0, A - 1), min_size=N, max_size=N)
MASK = st.lists(st.booleans(), min_size=N, max_size=N)
NUMBER = st.sampled_from([0.0, 0.25, 1.0, 40.0])


@cache
def weights(number: int) -> dict[str, torch.Tensor]:
    return random_model(tiny_config(), number).state_dict()


@cache
def template(kind: str, mode: str) -> Any:
    """A batch over a network, or a single environment over its own copy of it."""
    config: dict[str, Any] = {"checkpoint": random_model(tiny_config())}
    config |= {"penalty": "0.1:0.9"}
    if kind == "single":
        return make_single(**config)
    return make_vec(N, transitions=kind, autoreset_mode=mode, **config)


def twin(env: Any) -> Any:
    """A copy of an environment that shares its network and its samples."""
    shared = [env.problem, env.problem.session, env.config, env.observation_space]
    shared += [env.action_space, env._row.config] if hasattr(env, "_row") else []
    return copy.deepcopy(env, {id(part): part for part in shared})


def load(owner: Any, session: Any, number: int) -> Any:
    """Give an environment or its session weights, unless it has them since it began."""
    if number == 0 and getattr(session, "number", 0) == 0:
        return None
    session.number = number
    return owner.load_weights(weights(number))


class Row:
    """One single environment, and what it has shown last."""

    def __init__(self, env: DynaLayEnv) -> None:
        self.env, self.finished = env, False
        self.observation: Any = None
        self.info: Any = None

    def copied(self) -> "Row":
        row = Row(twin(self.env))
        row.finished = self.finished
        return row

    def reset(self, **asked: Any) -> None:
        self.observation, self.info = self.env.reset(**asked)
        self.finished = False

    def step(self, action: int) -> float:
        self.observation, reward, self.finished, _, self.info = self.env.step(action)
        return reward

    def look(self) -> None:
        """See the row as it is under the weights that its session has now."""
        process = self.env._row.process
        process.set_states(process.state_ids())
        self.observation = process.observe()[0].numpy()
        self.info = {name: part[0] for name, part in process.infos().items()}


def assert_shown(observation: Any, infos: Any, i: int, row: Row) -> None:
    assert np.array_equal(observation[i], row.observation)
    for key, value in row.info.items():
        assert np.array_equal(infos[key][i], value), key


class Machine(RuleBasedStateMachine):
    """A batch in one autoreset mode beside its model."""

    saved = Bundle("saved")

    def __init__(self, transitions: str, mode: str) -> None:
        super().__init__()
        self.kind, self.mode = transitions, mode
        self.weights, self.scale = 0, 1.0
        self.envs = twin(template(transitions, mode))
        load(self.envs, self.envs.problem.session, 0)
        single = template("single", "")
        self.model = single.problem.session  # shared by all rows, saved ones too
        load(self.model, self.model, 0)
        self.rows = [Row(twin(single)) for _ in range(N)]

    # --- what is allowed --------------------------------------------------------------

    @initialize(seed=SEED)
    def start(self, seed: int) -> None:
        self.reset(seed)

    @rule(seed=SEED)
    def reset(self, seed: int) -> None:
        self._reset([seed + i for i in range(N)], [True] * N, {}, seed)

    @rule(
        seeds=st.none() | st.lists(st.none() | SEED, min_size=N, max_size=N),
        mask=MASK,
        index=st.none() | st.lists(st.integers(0, SAMPLES - 1), min_size=N, max_size=N),
        penalty=st.none() | NUMBER,
    )
    def reset_some(self, seeds: Any, mask: Any, index: Any, penalty: Any) -> None:
        options = {}
        if index is not None:
            options["index"] = np.array(index)
        if penalty is not None:
            options["penalty"] = np.full(N, penalty, dtype=np.float32)
        self._reset(seeds or [None] * N, mask, options, seeds)

    @rule(actions=ACTIONS)
    def step(self, actions: list[int]) -> None:
        waiting = [row.finished for row in self.rows]
        if self.mode == "Disabled" and any(waiting):
            self._refuses(InvalidActionError, self.envs.step, actions)
            return
        observations, rewards, ends, cuts, infos = self.envs.step(actions)
        assert not cuts.any()
        for i, row in enumerate(self.rows):
            if waiting[i]:
                row.reset()
                expected = 0.0
            else:
                expected = row.step(actions[i])
            assert rewards[i] == np.float32(expected)
            assert ends[i] == row.finished
            final = infos["_final_obs"][i]
            assert final == row.finished
            if self.mode == "SameStep" and row.finished:
                assert_shown(infos["final_obs"], infos["final_info"], i, row)
                row.reset()
            assert_shown(observations, infos, i, row)

    @rule(target=saved)
    def save(self) -> Any:
        return self.envs.get_state(), [row.copied() for row in self.rows]

    @rule(state=saved)
    def restore(self, state: Any) -> None:
        tensors, rows = state
        observations, infos = self.envs.set_state(tensors)
        self.rows = [row.copied() for row in rows]
        for row in self.rows:
            row.env.penalty_scale = self.scale
        self._look(observations, infos)

    @rule(number=st.integers(0, 2))
    def load_weights(self, number: int) -> None:
        self.weights = number
        self.envs.problem.session.number = self.model.number = number
        shown = self.envs.load_weights(weights(number))
        self.model.load_weights(weights(number))
        self._look(*shown)

    @rule(scale=NUMBER)
    def change_the_penalty(self, scale: float) -> None:
        self.scale = self.envs.penalty_scale = scale
        for row in self.rows:
            row.env.penalty_scale = scale

    @rule()
    def close(self) -> None:
        """Nothing goes any more; a new environment goes on with what was saved."""
        state = self.envs.get_state()
        self.envs.close()
        with pytest.raises(ResetNeededError):
            self.envs.step([1] * N)
        with pytest.raises(ResetNeededError):
            self.envs.reset(seed=0)
        self.envs = twin(template(self.kind, self.mode))
        load(self.envs, self.envs.problem.session, self.weights)
        self.envs.penalty_scale = self.scale
        self._look(*self.envs.set_state(state))

    # --- what is refused --------------------------------------------------------------

    @rule(
        actions=st.sampled_from(
            [[A] * N, [-1] * N, [1.0] * N, [True] * N, [1] * (N + 1), None, "1"]
        )
    )
    def step_wrongly(self, actions: Any) -> None:
        self._refuses(InvalidActionError, self.envs.step, actions)

    @rule(seed=st.sampled_from([-1, True, 1.0, "1", 2**64, [1] * (N + 1), [1.0] * N]))
    def seed_wrongly(self, seed: Any) -> None:
        self._refuses(ConfigError, lambda: self.envs.reset(seed=seed))

    @rule(
        seed=st.none() | SEED,
        options=st.sampled_from(
            [
                *({"index": SAMPLES}, {"index": [0] * (N + 1)}, {"penalty": -1.0}),
                *({"penalty": float("nan")}, {"reset_mask": [1] * N}, {"mask": 1}),
            ]
        ),
    )
    def ask_wrongly(self, seed: Any, options: Any) -> None:
        self._refuses(
            ConfigError, lambda: self.envs.reset(seed=seed, options=dict(options))
        )

    @rule(
        state=saved,
        data=st.data(),
        value=st.sampled_from([-(2**63), -3, 2**40, 2**63 - 1]),
    )
    def restore_wrongly(self, state: Any, data: st.DataObject, value: int) -> None:
        tensors = {name: part.clone() for name, part in state[0].items()}
        any_number = {"seeds", "episodes", "macs", "solver_steps", "finished"}
        names = sorted(tensors.keys() - any_number)
        part = tensors[data.draw(st.sampled_from(names))]
        row = part[data.draw(st.integers(0, N - 1))]
        row.fill_(float("nan") if part.is_floating_point() else value)
        self._refuses(ConfigError, lambda: self.envs.set_state(tensors))

    # --- always -----------------------------------------------------------------------

    @precondition(lambda self: self.rows[0].info is not None)
    @invariant()
    def rows_stand_where_their_models_do(self) -> None:
        whole = self.envs.get_state()
        masks = self.envs.action_masks()
        for i, row in enumerate(self.rows):
            for name, part in row.env._row.get_state().items():
                assert torch.equal(whole[name][i], part[0]), name
            assert np.array_equal(masks[i], row.env.action_masks())

    def _reset(self, seeds: Any, mask: Any, options: Any, seed: Any) -> None:
        asked = options | {"reset_mask": np.array(mask)}
        observations, infos = self.envs.reset(seed=seed, options=asked)
        for i, row in enumerate(self.rows):
            if mask[i]:
                own = {name: values[i] for name, values in options.items()}
                row.reset(seed=seeds[i], options=own)
            assert_shown(observations, infos, i, row)

    def _look(self, observations: Any, infos: Any) -> None:
        for i, row in enumerate(self.rows):
            row.look()
            assert_shown(observations, infos, i, row)

    def _refuses(self, error: type[Exception], call: Any, *args: Any) -> None:
        before = self.envs.get_state()
        with pytest.raises(error):
            call(*args)
        after = self.envs.get_state()
        assert all(torch.equal(after[name], part) for name, part in before.items())


def play(transitions: str, mode: str, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        lambda: Machine(transitions, mode),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transitions", ["live", "table"])
def test_any_order_of_calls(transitions: str, mode: str) -> None:
    play(transitions, mode, examples=8, steps=20)


@pytest.mark.slow  # 10,000 of them in all
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transitions", ["live", "table"])
def test_very_many_orders_of_calls(transitions: str, mode: str) -> None:
    play(transitions, mode, examples=1667, steps=15)
