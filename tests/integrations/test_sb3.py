"""The Stable-Baselines3 adapter: its contract, its infos, its options, its methods."""

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers.networks import make_single, make_vec, shared_model
from helpers.problems import NeedEnv
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from dynalay_gym.errors import ConfigError
from dynalay_gym.integrations.sb3 import SB3VecEnv

INFO_KEYS = {
    "index",
    "penalty",
    "macs",
    "solver_steps",
    "solver_status",
    "correct",
    "prediction",
    "decisions",
    "action_mask",
}


def test_it_steps_like_the_environment_below_it():
    envs, plain = SB3VecEnv(NeedEnv(8)), NeedEnv(8)
    envs.seed(7)
    observations = envs.reset()
    expected, _ = plain.reset(seed=[7 + i for i in range(8)])
    assert (observations == expected).all()
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(20):
        actions = rng.integers(3, size=8)
        observations, rewards, dones, infos = envs.step(actions)
        expected, rewards_2, ends, _, infos_2 = plain.step(actions)
        assert (observations == expected).all()
        assert (rewards == rewards_2).all()
        assert (dones == ends).all()
        for i, info in enumerate(infos):
            assert ("terminal_observation" in info) == dones[i]
            if dones[i]:
                ended += 1
                last = infos_2["final_obs"][i]
                assert (info["terminal_observation"] == last).all()
            assert info["TimeLimit.truncated"] is False
    assert ended > 20


@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_infos_are_those_of_the_step_that_each_row_took(output):
    envs, plain = SB3VecEnv(make_vec(6, output=output)), make_vec(6)
    envs.seed(3)
    envs.reset()
    plain.reset(seed=3)
    assert envs.reset_infos[2].keys() == INFO_KEYS
    rng = np.random.default_rng(0)
    for _ in range(12):
        actions = rng.integers(4, size=6)
        _, _, dones, infos = envs.step(actions)
        expected = plain.step(actions)[-1]["final_info"]
        for i, info in enumerate(infos):
            assert info.keys() - {"terminal_observation", "TimeLimit.truncated"} == (
                INFO_KEYS
            )
            for key in INFO_KEYS:
                # Where no episode ended the step's infos are the current ones.
                assert np.array_equal(info[key], expected[key][i]), (key, dones[i])
            assert type(info["macs"]) is int


def test_the_monitor_records_returns_and_info_keywords():
    envs = VecMonitor(SB3VecEnv(NeedEnv(4)), info_keywords=("correct", "index"))
    envs.set_options([{"index": i} for i in range(4)])  # needs 0, 1, 2, 0
    envs.reset()
    _, rewards, _, infos = envs.step(np.zeros(4, dtype=np.int64))
    for i in range(4):
        assert infos[i]["episode"]["r"] == pytest.approx(rewards[i], abs=1e-6)
        assert infos[i]["episode"]["index"] == i
    assert [info["episode"]["correct"] for info in infos] == [1, 0, 0, 1]


class TestOptions:
    def test_a_list_gives_every_row_its_own(self):
        envs = SB3VecEnv(make_vec(3, penalty="0:1"))
        envs.set_options([{"index": 5 - i, "penalty": 0.25 * i} for i in range(3)])
        envs.reset()
        found = [(info["index"], info["penalty"]) for info in envs.reset_infos]
        assert found == [(5, 0.0), (4, 0.25), (3, 0.5)]

    @pytest.mark.parametrize("index", [2, np.array([2, 2, 2])])
    def test_a_dictionary_is_the_environments_own(self, index):
        envs = SB3VecEnv(make_vec(3))
        envs.set_options({"index": index})
        envs.reset()
        assert [info["index"] for info in envs.reset_infos] == [2, 2, 2]

    def test_they_hold_for_one_reset(self):
        envs = SB3VecEnv(make_vec(8))
        envs.set_options({"index": 2})
        envs.reset()
        envs.reset()
        assert len({info["index"] for info in envs.reset_infos}) > 1
        envs.set_options(None)
        envs.reset()

    def test_rows_may_have_none(self):
        envs = SB3VecEnv(make_vec(3))
        envs.set_options([None, {}, None])
        envs.reset()

    @pytest.mark.parametrize(
        "options",
        [
            *([{"index": 1}], [{"index": 1}, {"index": 2}, {}], [], "abc", 3),
            *([1, 2, 3], [("index", 1)] * 3, {"index"}, [{"index": 1}] * 4),
        ],
    )
    def test_rows_that_are_left_out_are_an_error(self, options):
        with pytest.raises(ConfigError, match="same keys"):
            SB3VecEnv(make_vec(3)).set_options(options)


class TestMethods:
    def test_masks_reach_the_batch_and_come_back_per_row(self):
        envs = SB3VecEnv(NeedEnv(4))
        envs.reset()
        envs.step(np.ones(4, dtype=np.int64))
        masks = envs.env_method("action_masks", indices=[0, 2])
        assert len(masks) == 2
        assert masks[0].tolist() == [True, False, True]
        assert envs.has_attr("action_masks")
        assert envs.get_attr("num_actions") == [3] * 4
        assert envs.get_attr("render_mode", indices=[1]) == [None]
        assert not envs.has_attr("no_such_thing")
        assert not any(envs.env_is_wrapped(VecMonitor))

    @pytest.mark.parametrize("rows", [2, 3])
    def test_new_weights_reach_the_environment(self, rows):
        envs = SB3VecEnv(make_vec(rows))
        weights = shared_model().state_dict()
        envs.env_method("load_weights", weights)  # before the first reset: nothing seen
        first = envs.reset()
        found = envs.env_method("load_weights", weights)
        assert len(found) == rows
        for i, (observation, infos) in enumerate(found):
            assert np.array_equal(observation, first[i])
            assert infos["action_mask"].shape == (4,)

    def test_a_method_without_a_result(self):
        inner = NeedEnv(3)
        inner.set_mood = lambda mood: None
        inner.mood = lambda: "calm"
        envs = SB3VecEnv(inner)
        assert envs.env_method("set_mood", "calm") == [None] * 3
        assert envs.env_method("mood") == ["calm"] * 3

    def test_attributes_are_shared(self):
        envs = SB3VecEnv(NeedEnv(3))
        envs.set_attr("mood", 1)
        assert envs.envs.mood == 1
        with pytest.raises(ConfigError, match="share 'mood'"):
            envs.set_attr("mood", 2, indices=[0])

    @pytest.mark.parametrize("indices", [[3], 3, [0, 7], -4])
    def test_there_is_no_such_row(self, indices):
        envs = SB3VecEnv(make_vec(3))
        envs.reset()
        for ask in (
            lambda: envs.get_attr("num_actions", indices),
            lambda: envs.env_method("action_masks", indices=indices),
            lambda: envs.env_is_wrapped(VecMonitor, indices),
            lambda: envs.set_attr("penalty_scale", 0.5, indices),
        ):
            with pytest.raises(IndexError):
                ask()
        with pytest.raises(ConfigError, match="share"):
            envs.set_attr("penalty_scale", 0.5, [0, 0, 0])


class TestReference:
    """SB3's own DummyVecEnv over single environments tells what to do."""

    ROWS = 4

    def both(self, **config):
        config |= {"penalty": "0:1"}
        makers = [lambda: make_single(**config)] * self.ROWS
        return SB3VecEnv(make_vec(self.ROWS, **config)), DummyVecEnv(makers)

    @pytest.mark.parametrize("transitions", ["live", "table"])
    def test_rollouts_are_the_same(self, transitions):
        mine, theirs = self.both(transitions=transitions)
        rng = np.random.default_rng(0)
        for options in (None, {"index": 3}, [{"index": 4 - i} for i in range(4)]):
            results = []
            for envs in (mine, theirs):
                assert envs.seed(3) == [3, 4, 5, 6]
                envs.set_options(options)
                results.append(envs.reset())
            assert data_equivalence(*results, exact=True)
            ended = np.zeros(self.ROWS)
            for actions in rng.integers(4, size=(20, self.ROWS)):
                results = [envs.step(actions) for envs in (mine, theirs)]
                assert data_equivalence(*results, exact=True)
                assert data_equivalence(*[e.reset_infos for e in (mine, theirs)], True)
                ended += results[0][2]
            assert (ended > 2).all()

    @pytest.mark.parametrize("indices", [None, 1, -1, [0, 2], (3,), range(1, 3)])
    def test_methods_and_attributes_are_the_same(self, indices):
        mine, theirs = self.both()
        for envs in (mine, theirs):
            envs.seed(0)
            envs.reset()
            envs.step(np.array([1, 2, 3, 1]))
            envs.set_attr("penalty_scale", 0.5)
        for name in ("penalty_scale", "num_actions", "observation_layout", "split"):
            assert mine.get_attr(name, indices) == theirs.get_attr(name, indices)
            assert mine.has_attr(name)
        masks = [e.env_method("action_masks", indices=indices) for e in (mine, theirs)]
        assert data_equivalence(*masks, exact=True)
        weights = shared_model().state_dict()
        loaded = [
            e.env_method("load_weights", weights, indices=indices)
            for e in (mine, theirs)
        ]
        assert len(loaded[0]) == len(loaded[1])
        wrapped = [e.env_is_wrapped(Monitor, indices) for e in (mine, theirs)]
        assert wrapped[0] == wrapped[1]
        for envs in (mine, theirs):
            with pytest.raises(AttributeError):
                envs.get_attr("no_such_thing", indices)
            with pytest.raises(AttributeError):
                envs.env_method("no_such_thing", indices=indices)
            assert not envs.has_attr("no_such_thing")


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_other_autoreset_modes_are_refused(mode):
    with pytest.raises(ConfigError, match="SameStep"):
        SB3VecEnv(NeedEnv(autoreset_mode=mode))


@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_dictionary_observations(output):
    envs = SB3VecEnv(make_vec(4, observation="dict", output=output))
    observations = envs.reset()
    assert set(observations) == set(envs.observation_space.spaces)
    expected, *_, plain = envs.envs.step(np.zeros(4, dtype=np.int64))
    observations, _, dones, infos = envs.step(np.zeros(4, dtype=np.int64))
    assert dones.all()
    for key, space in envs.observation_space.spaces.items():
        assert isinstance(observations[key], np.ndarray)
        assert observations[key].shape == (4, *space.shape)
        assert observations[key].shape == tuple(expected[key].shape)
        assert infos[3]["terminal_observation"][key].shape == space.shape
    assert set(plain["final_obs"]) == set(infos[0]["terminal_observation"])


def test_sb3_learns_from_dictionary_observations():
    envs = SB3VecEnv(make_vec(4, observation="dict"))
    model = PPO("MultiInputPolicy", envs, n_steps=4, batch_size=16, n_epochs=1)
    model.learn(32)
    assert all(weight.isfinite().all() for weight in model.policy.parameters())


def test_gymnasiums_own_vector_environment_fits_too():
    """Its final infos are sparse: they are dense for the rows that ended alone."""
    mode = AutoresetMode.SAME_STEP
    envs = SB3VecEnv(SyncVectorEnv([make_single] * 3, autoreset_mode=mode))
    envs.seed(0)
    envs.reset()
    _, _, dones, infos = envs.step(np.array([0, 1, 0]))
    assert dones.tolist() == [True, False, True]
    for info, action in zip(infos, (0, 1, 0), strict=True):
        assert (info["macs"] > 0) == (action == 1)
        assert info["decisions"] == 1
    assert infos[0]["terminal_observation"].shape == envs.observation_space.shape


def test_frames_come_one_per_row():
    envs = SB3VecEnv(make_vec(2, render_mode="rgb_array"))
    envs.reset()
    frames = envs.get_images()
    assert len(frames) == 2
    assert frames[0].ndim == 3
    assert SB3VecEnv(make_vec(2)).get_images() == []


def test_global_random_state_is_not_touched():
    before = torch.get_rng_state()
    envs = SB3VecEnv(make_vec(2))
    envs.seed(0)
    envs.reset()
    assert torch.equal(torch.get_rng_state(), before)
