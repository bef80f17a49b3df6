"""What other libraries ask of an environment: checkers, wrappers, copies, workers."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from helpers.networks import (
    live_state,
    make_single,
    make_vec,
    own_split,
    random_images,
    random_model,
    random_split,
    shared_model,
    shared_split,
    tiny_config,
)
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import dynalay_gym
from dynalay_gym.data.registry import DATASETS, DatasetSpec
from dynalay_gym.data.splits import Split
from dynalay_gym.data.vocabulary import Vocabulary
from dynalay_gym.envs.config import SHIPPED
from dynalay_gym.envs.single_env import DynaLayEnv
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    InvalidActionError,
    ResetNeededError,
)
from dynalay_gym.evaluation.comparison import reference_lines
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.sessions.torch_session import TorchSession
from dynalay_gym.testing import check_vector_env

DIGITS = "dynalay_gym:DynaLay/Digits-v0"
IDS = [spec.env_id for spec in DATASETS.values()]


def problem_of(env_id: str) -> dict[str, Any]:
    """Keywords that need neither files nor a shipped network."""
    spec = next(spec for spec in DATASETS.values() if spec.env_id == env_id)
    if (SHIPPED / spec.name).is_dir():
        return {}
    if spec.vocabulary is not None:
        return texts_of(spec)
    config = tiny_config(in_shape=spec.in_shape, num_classes=spec.num_classes)
    return {
        "checkpoint": random_model(config),
        "split": random_split(config, num=spec.num_classes),
    }


def texts_of(spec: DatasetSpec) -> dict[str, Any]:
    """The same for texts of random words, of which there are few: it is faster."""
    vocabulary = Vocabulary(words=("", "?", *map(str, range(2, 200))))
    config = make_config(spec.preset, spec.in_shape, spec.num_classes)
    if config.cutoffs:
        config = replace(config, num_classes=200, cutoffs=(20, 100))
    sizes: dict[str, Any] = {"stem": 4, "channels": (4, 4, 8)}
    if config.form == "attention":
        sizes = {"stem": 4, "channels": (4,), "hidden": (4,), "max_steps": 4}
    config = replace(config, vocabulary=vocabulary, **sizes)
    texts = torch.randint(1, 200, (30, *spec.in_shape))
    split = Split(texts, torch.randint(0, config.num_classes, (30,)))
    return {"checkpoint": MainNetwork(config).eval(), "split": split}


# --- checkers -------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", IDS)
def test_single_environments_pass_both_checkers(env_id: str) -> None:
    env = gym.make(env_id, **problem_of(env_id))
    check_env(env.unwrapped)
    sb3_check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("config", [{"observation": "dict"}, {"penalty": "0:1"}])
def test_variants_pass_gymnasiums_checker(config: dict[str, Any]) -> None:
    check_env(gym.make(DIGITS, **config).unwrapped)


def test_batched_digits_pass_the_checker() -> None:
    def make(num_envs: int, mode: str) -> gym.vector.VectorEnv:
        return gym.make_vec(DIGITS, num_envs=num_envs, autoreset_mode=mode)

    check_vector_env(make, num_envs=3, num_steps=14)


@pytest.mark.parametrize(
    "config",
    [
        {"observation": "dict", "form": "state"},
        {"output": "torch"},
        {"reward": "log-score", "penalty": "0.1:1"},
    ],
)
def test_batched_variants_pass_the_checker(config: dict[str, Any]) -> None:
    def make(num_envs: int, mode: str) -> gym.vector.VectorEnv:
        return make_vec(num_envs, autoreset_mode=mode, **config)

    check_vector_env(make, num_envs=2, num_steps=10)


# --- ids and specs --------------------------------------------------------------------


@pytest.mark.parametrize("env_id", IDS)
def test_ids_are_registered_by_strings(env_id: str) -> None:
    spec = gym.spec(env_id)
    assert isinstance(spec.entry_point, str)
    assert isinstance(spec.vector_entry_point, str)
    assert EnvSpec.from_json(spec.to_json()) == spec
    assert spec.max_episode_steps is None, "the budget is the environment's own"


@pytest.mark.parametrize(
    "name", [name for name, spec in DATASETS.items() if (SHIPPED / name).is_dir()]
)
def test_the_threshold_is_what_the_best_cascade_returns(name: str) -> None:
    env_id = f"dynalay_gym:{DATASETS[name].env_id}"
    envs = gym.make_vec(env_id, num_envs=500, autoreset_mode="Disabled")
    assert envs.spec is not None
    best = reference_lines(envs, envs.unwrapped.penalty_range[0])[-1]  # type: ignore[attr-defined]
    assert best.policy == "max-prob"
    assert envs.spec.reward_threshold == pytest.approx(best.mean_return, abs=1e-3)


def test_a_prefixed_id_works_without_an_import() -> None:
    code = (
        "import gymnasium as gym\n"
        f"env = gym.make('{DIGITS}')\n"
        "print(env.reset(seed=0)[1]['index'])\n"
        f"envs = gym.make_vec('{DIGITS}', num_envs=2)\n"
        "print(envs.reset(seed=0)[1]['index'][0])\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    single, batched = result.stdout.split()
    assert single == batched


def test_an_environment_can_be_made_again_from_its_spec() -> None:
    config = {"penalty": "0.1:0.5", "rtol": 0.2, "split": "test", "max_decisions": 2}
    env = gym.make(DIGITS, **config)
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    for one in (env, again):
        assert one.get_wrapper_attr("split") == "test"
    first, second = env.reset(seed=3), again.reset(seed=3)
    assert data_equivalence(first, second, exact=True)
    assert data_equivalence(env.step(2), again.step(2), exact=True)
    json.loads(env.spec.to_json())

    envs = gym.make_vec(DIGITS, num_envs=2, **config)
    assert envs.spec is not None
    EnvSpec.from_json(envs.spec.to_json())


def test_the_package_names_itself() -> None:
    gym.register_envs(dynalay_gym)
    assert dynalay_gym.__version__


def test_wrong_keywords_are_named_with_the_known_ones() -> None:
    for config in ({"colour": 1}, {"output": "torch"}, {"autoreset_mode": "NextStep"}):
        (name,) = config
        message = f"unexpected keyword argument '{name}'; known.*penalty"
        for kind in (ConfigError, TypeError):
            with pytest.raises(kind, match=message):
                gym.make(DIGITS, **config)
    with pytest.raises(ConfigError, match=r"max_episode_steps.*max_decisions"):
        gym.make_vec(DIGITS, num_envs=1, max_episode_steps=5)


def test_an_id_without_a_network_says_how_to_get_one() -> None:
    for make in (gym.make, gym.make_vec):
        with pytest.raises(CheckpointError, match=r"train_main\.py.*cifar10"):
            make("DynaLay/CIFAR10-v0")


def test_missing_files_are_named_with_the_flag(tmp_path: Any) -> None:
    config = tiny_config(in_shape=(3, 32, 32), num_classes=10)
    with pytest.raises(DataError, match=r"data_dir|data-dir"):
        gym.make(
            "DynaLay/CIFAR10-v0",
            checkpoint=random_model(config),
            data_dir=str(tmp_path),
            download=False,
        )
    assert list(tmp_path.iterdir()) == []


# --- copies and workers ---------------------------------------------------------------


def test_a_pickled_environment_goes_on_where_it_was() -> None:
    env = make_single(penalty="0:1")
    env.reset(seed=5)
    env.step(2)
    twin = pickle.loads(pickle.dumps(env))
    for action in (3, 1, 0):
        assert data_equivalence(env.step(action), twin.step(action), exact=True)
    assert data_equivalence(env.reset(), twin.reset(), exact=True)


def digits_env() -> gym.Env:
    return gym.make(DIGITS)


@pytest.mark.slow  # two worker processes, each of which imports torch
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_gymnasiums_workers_do_what_the_batch_does(context: str) -> None:
    workers = gym.vector.AsyncVectorEnv(
        [digits_env] * 2,
        context=context,
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    try:
        envs = gym.make_vec(DIGITS, num_envs=2)
        observations, infos = workers.reset(seed=4)
        expected, expected_infos = envs.reset(seed=4)
        assert np.array_equal(observations, expected)
        for actions in ([1, 2], [0, 3], [3, 0], [2, 2]):
            observations, rewards, terminations, _, infos = workers.step(actions)
            results = envs.step(actions)
            assert np.array_equal(observations, results[0])
            assert np.array_equal(rewards.astype(np.float32), results[1])
            assert np.array_equal(terminations, results[2])
            expected_infos = results[4]
        assert np.array_equal(infos["index"], expected_infos["index"])
    finally:
        workers.close()


@pytest.mark.slow  # two worker processes, each of which imports torch
def test_stable_baselines_workers_run_it() -> None:
    from stable_baselines3.common.vec_env import SubprocVecEnv

    workers = SubprocVecEnv([digits_env] * 2, start_method="forkserver")
    try:
        workers.seed(4)
        observations = workers.reset()
        expected, _ = gym.make_vec(DIGITS, num_envs=2).reset(seed=4)
        assert np.array_equal(observations, expected)
        _, _, ends, infos = workers.step(np.array([0, 1]))
        assert ends.tolist() == [True, False]
        assert infos[0]["terminal_observation"].shape == expected[0].shape
    finally:
        workers.close()


# --- observations ---------------------------------------------------------------------


def extreme_split() -> Split:
    """Black, white, huge and tiny images of the size of digits."""
    noise = random_images(tiny_config(), 4, seed=1)
    scales = (0.0, 1e-40, 1e-20, 1.0, 1e3, 1e9, 1e18, 1e19, 1e25, 1e31, 3e38)
    parts = [scale * noise.clamp(-1, 1) for scale in scales]
    parts += [torch.ones_like(noise), torch.full_like(noise, -1e6)]
    return own_split(torch.cat(parts))


@pytest.mark.parametrize("form", ["wide", "state"])
@pytest.mark.parametrize("observation", ["flat", "dict"])
def test_observations_stay_inside_their_bounds_whatever_the_image(
    form: str, observation: str
) -> None:
    split = extreme_split()
    n = len(split)
    envs = make_vec(
        n, form, split=split, observation=observation, autoreset_mode="Disabled"
    )
    rng = np.random.default_rng(0)
    for penalty in (0.0, 1.0, 1e30):
        options = {"index": np.arange(n), "penalty": penalty}
        observations, infos = envs.reset(seed=0, options=options)
        assert envs.observation_space.contains(observations)
        for _ in range(envs.max_decisions):
            observations, *_ = envs.step(rng.integers(1, 4, n))
            assert envs.observation_space.contains(observations)
    assert (infos["index"] == np.arange(n)).all()


def test_digits_stay_inside_their_bounds() -> None:
    envs = gym.make_vec(DIGITS, num_envs=64, penalty="0:10")
    space = envs.observation_space
    observations, _ = envs.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(15):
        assert space.contains(observations)
        actions = rng.integers(0, envs.single_action_space.n, 64)  # type: ignore[attr-defined]
        observations, *_, infos = envs.step(actions)
        assert space.contains(infos["final_obs"])


def test_an_overflowing_solve_is_flagged() -> None:
    envs = make_vec(1, split=own_split(torch.full((1, 1, 8, 8), 3e38)))
    envs.reset(seed=0)
    *_, infos = envs.step([1])
    assert infos["final_info"]["solver_status"].tolist() == [2]


def test_layout_covers_the_observation_and_names_its_parts() -> None:
    envs = make_vec(5, penalty="0:1", max_decisions=6, autoreset_mode="Disabled")
    layout = envs.observation_layout
    assert list(layout) == [
        *("activations/0", "activations/1", "activations/2"),
        *("max_prob", "entropy", "margin", "residual", "iterated", "penalty"),
        *("last_action", "consecutive", "remaining"),
    ]
    sizes = [part.stop - part.start for part in layout.values()]
    assert sizes == [2 + 4, 3 + 5, 4 + 6, 1, 1, 1, 3, 3, 1, 4, 1, 1]
    ends = np.cumsum(sizes)
    assert [part.stop for part in layout.values()] == ends.tolist()
    assert envs.single_observation_space.shape == (int(ends[-1]),)

    def part(name: str, observations: np.ndarray) -> list[list[float]]:
        return observations[:, layout[name]].tolist()

    observations, infos = envs.reset(seed=2)
    assert part("last_action", observations) == [[0.0] * 4] * 5
    assert part("residual", observations) == [[1.0] * 3] * 5
    assert part("iterated", observations) == [[0.0] * 3] * 5
    assert part("consecutive", observations) == [[0.0]] * 5
    assert part("remaining", observations) == [[1.0]] * 5
    shown = infos["penalty"] / (1 + infos["penalty"])
    assert np.array_equal(observations[:, layout["penalty"]].flatten(), shown)
    envs.step([2] * 5)
    observations, *_ = envs.step([2] * 5)
    assert part("last_action", observations) == [[0.0, 0.0, 1.0, 0.0]] * 5
    assert part("iterated", observations) == [[0.0, 1.0, 0.0]] * 5
    budget = observations[:, [layout["consecutive"].start, layout["remaining"].start]]
    np.testing.assert_allclose(budget, [[2 / 6, 4 / 6]] * 5, rtol=1e-6)
    residual = observations[:, layout["residual"]]
    assert (residual[:, [0, 2]] == 1).all() and (residual[:, 1] < 0.1).all()


def test_confidence_and_activations_by_hand() -> None:
    session = TorchSession(shared_model())
    envs = make_vec(6, autoreset_mode="Disabled", checkpoint=session)
    envs.reset(seed=1)
    observations, *_ = envs.step([1] * 6)
    state, layout = live_state(envs), envs.observation_layout
    probs = np.sort(state.logits.double().softmax(1).numpy(), 1)
    entropy = -(probs * np.log(probs)).sum(1) / np.log(3)
    for name, expected in (
        ("max_prob", probs[:, -1]),
        ("margin", probs[:, -1] - probs[:, -2]),
        ("entropy", entropy),
    ):
        shown = observations[:, layout[name]].flatten()
        np.testing.assert_allclose(shown, expected, atol=1e-6)
    for i, layer in enumerate(state.layers[1:]):
        rows = layer.read(torch.arange(6))
        hidden = rows.h if i == 0 else None  # only layer 1 has been iterated
        maps = [
            rows.y,
            torch.zeros(6, [4, 5, 6][i], 1, 1) if hidden is None else hidden,
        ]
        pooled = torch.cat([part.mean((2, 3)) for part in maps], 1)
        expected = (pooled / (1 + pooled)).numpy()
        np.testing.assert_allclose(
            observations[:, layout[f"activations/{i}"]], expected, atol=1e-6
        )


def test_an_agents_input_does_not_depend_on_the_penalty() -> None:
    spaces = {
        make_vec(1, penalty=penalty).single_observation_space.shape
        for penalty in (0.0, 0.7, "0:3", None)
    }
    assert len(spaces) == 1


def test_dict_observations_add_the_maps() -> None:
    envs = make_vec(2, observation="dict")
    flat = make_vec(2)
    observations, _ = envs.reset(seed=0)
    expected, _ = flat.reset(seed=0)
    assert set(observations) == {"flat", "map/0", "map/1", "map/2"}
    assert np.array_equal(observations["flat"], expected)
    shapes = [observations[f"map/{i}"].shape for i in range(3)]
    assert shapes == [(2, 2, 8, 8), (2, 3, 4, 4), (2, 4, 4, 4)]
    rows = torch.arange(2)
    y = envs.problem.session.maps(live_state(envs), rows)["map/1"]
    assert np.allclose(observations["map/1"], (y / (1 + y)).numpy())
    *_, infos = envs.step([0, 1])
    assert envs.observation_space.contains(infos["final_obs"])


def test_torch_output_holds_the_same_numbers() -> None:
    envs, expected = make_vec(3, output="torch"), make_vec(3)
    observations, _ = envs.reset(seed=0)
    other, _ = expected.reset(seed=0)
    assert isinstance(observations, torch.Tensor)
    assert np.array_equal(observations.numpy(), other)
    results = envs.step(torch.tensor([0, 1, 2]))
    others = expected.step([0, 1, 2])
    for mine, theirs in zip(results[:4], others[:4], strict=True):
        assert isinstance(mine, torch.Tensor)
        assert mine.numpy().dtype == theirs.dtype
        assert np.array_equal(mine.numpy(), theirs)
    infos, other_infos = results[4], others[4]
    assert infos.keys() == other_infos.keys()
    assert infos["final_info"].keys() == other_infos["final_info"].keys()
    assert infos["action_mask"].dtype is torch.int8
    assert envs.action_masks().dtype is torch.bool


# --- masks ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "mask"),
    [
        ([], [1, 1, 1, 1]),
        ([1], [1, 0, 1, 1]),
        ([2], [1, 1, 0, 1]),
        ([3], [1, 1, 1, 0]),
        ([1, 2], [1, 1, 0, 1]),
        ([1, 3], [1, 1, 1, 0]),
        ([2, 3], [1, 1, 1, 0]),
        ([1, 2, 3], [1, 1, 1, 0]),
        ([3, 1], [1, 0, 1, 1]),
        ([1, 2, 1], [1, 0, 1, 1]),
    ],
)
def test_a_layer_is_masked_when_choosing_it_can_only_cost(
    plan: list[int], mask: list[int]
) -> None:
    env = make_single(max_decisions=9)
    _, info = env.reset(seed=0)
    for action in plan:
        _, _, _, _, info = env.step(action)
    assert info["action_mask"].dtype == np.int8
    assert info["action_mask"].tolist() == mask
    assert env.action_masks().dtype == np.bool_
    assert env.action_masks().tolist() == [bool(allowed) for allowed in mask]
    env.action_space.seed(0)
    for _ in range(20):
        assert mask[int(env.action_space.sample(mask=info["action_mask"]))]


def test_masked_actions_indeed_change_nothing_but_cost() -> None:
    env = make_single(max_decisions=9)
    env.reset(seed=0)
    for action in (1, 3):
        before, _, _, _, _ = env.step(action)
    after, reward, _, _, info = env.step(3)
    layout = env.observation_layout
    kept = slice(0, layout["iterated"].stop)
    assert np.array_equal(before[kept], after[kept])
    assert reward < 0 and info["macs"] > 0


# --- the single form ------------------------------------------------------------------


def test_single_infos_are_plain_values() -> None:
    env = make_single()
    _, info = env.reset(seed=0)
    kinds = {key: type(value) for key, value in info.items()}
    mask = kinds.pop("action_mask")
    assert mask is np.ndarray
    assert kinds.pop("penalty") is float
    assert set(kinds.values()) == {int}
    _, reward, terminated, truncated, _ = env.step(np.int64(1))
    assert (type(reward), type(terminated), truncated) == (float, bool, False)


@pytest.mark.parametrize(
    "action",
    [
        *(None, "stop", 0.5, 1.0, -1, 4, 10**30, True, float("nan"), 1j),
        *([1], (1,), [1, 2], {0: 1}, np.array([1]), np.array("1")),
        *(np.float32(1), torch.tensor([1]), torch.tensor(1.0)),
    ],
)
def test_bad_single_actions_are_refused_and_change_nothing(action: Any) -> None:
    env, twin = make_single(), make_single()
    for one in (env, twin):
        one.reset(seed=0)
    with pytest.raises(InvalidActionError, match="action"):
        env.step(action)
    assert data_equivalence(env.step(2), twin.step(2), exact=True)


@pytest.mark.parametrize("action", [1, np.int64(1), np.array(1), torch.tensor(1)])
def test_single_actions_of_any_integer_kind(action: Any) -> None:
    env = make_single()
    env.reset(seed=0)
    _, _, _, _, info = env.step(action)
    assert info["decisions"] == 1


def test_single_calls_out_of_order_are_refused() -> None:
    env = make_single()
    with pytest.raises(ResetNeededError, match="reset"):
        env.step(1)
    env.reset(seed=0)
    env.step(env.nop_action)
    with pytest.raises(ResetNeededError, match="ended"):
        env.step(1)
    env.reset()
    env.step(1)
    env.close()
    with pytest.raises(ResetNeededError, match="close"):
        env.step(1)


def test_options_walk_the_whole_split() -> None:
    env = make_single()
    labels, hits = shared_split().labels.tolist(), 0
    for index in range(env.num_samples):
        _, info = env.reset(options={"index": index, "penalty": 0.0})
        assert (info["index"], info["penalty"]) == (index, 0.0)
        assert info["correct"] == (info["prediction"] == labels[index])
        _, reward, *_ = env.step(0)
        assert reward == 0.5 * info["correct"]
        hits += info["correct"]
    assert 0 < hits < env.num_samples
    with pytest.raises(ConfigError, match="index"):
        env.reset(options={"index": env.num_samples})


def test_public_facts_are_reachable_through_wrappers() -> None:
    single = gym.make(DIGITS)
    batched = gym.make_vec(DIGITS, num_envs=2)
    names = ("nop_action", "num_actions", "num_classes", "num_samples", "plain_macs")
    names += ("always_extra_macs", "penalty_range", "max_decisions", "alpha", "split")
    for name in (*names, "observation_layout", "action_names", "full_plan"):
        assert single.get_wrapper_attr(name) == getattr(batched.unwrapped, name)
    with pytest.raises(AttributeError):
        single.unwrapped.colour  # type: ignore[attr-defined]  # noqa: B018


def test_nobody_takes_one_environment_for_many() -> None:
    """TorchRL asks whether it has `num_envs`; skrl reads the names of the bases."""
    env = make_single()
    own = {name for name in dir(env) if not name.startswith("_")}
    assert not own & (set(dir(gym.vector.VectorEnv)) - set(dir(gym.Env)))
    assert not own & {"num_envs", "single_observation_space", "single_action_space"}
    assert not own & {"autoreset_mode", "call", "get_attr", "set_attr"}
    assert gym.Env in DynaLayEnv.__bases__
    assert gym.vector.VectorEnv in DynaLayVectorEnv.__bases__


def test_ones_own_network_and_samples_are_not_changed() -> None:
    model = random_model(tiny_config())
    assert isinstance(model, MainNetwork)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    split = random_split(tiny_config())
    images = split.inputs.clone()
    env = DynaLayEnv(checkpoint=model, split=split)
    env.reset(seed=0)
    for action in (1, 2, 3):
        env.step(action)
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key])
    assert torch.equal(split.inputs, images)


# --- wrappers -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["SameStep", "NextStep", "Disabled"])
def test_episode_statistics_are_recorded(mode: str) -> None:
    envs = RecordEpisodeStatistics(gym.make_vec(DIGITS, 4, autoreset_mode=mode))
    envs.action_space.seed(0)
    envs.reset(seed=0)
    returns, lengths, ended = np.zeros(4), np.zeros(4), np.zeros(4, dtype=bool)
    episodes = np.zeros(4)
    for _ in range(40):
        if mode == "Disabled" and ended.any():
            envs.reset(options={"reset_mask": ended.copy()})
        acts = ~ended | (mode != "NextStep")  # else it is only reset
        returns[ended] = lengths[ended] = 0
        _, rewards, ended, _, infos = envs.step(envs.action_space.sample())
        returns += rewards
        lengths += acts
        if ended.any():
            assert np.array_equal(infos["_episode"], ended)
            assert np.array_equal(infos["episode"]["l"][ended], lengths[ended])
            recorded = infos["episode"]["r"][ended]
            assert recorded == pytest.approx(returns[ended], abs=1e-6)
        episodes += ended
    assert (episodes > 5).all()
    assert len(envs.return_queue) == episodes.sum()


def test_gymnasiums_torch_wrapper_takes_it() -> None:
    pytest.importorskip("array_api_compat", reason="gymnasium[torch] is not installed")
    from gymnasium.wrappers.vector import NumpyToTorch

    envs = NumpyToTorch(make_vec(3))
    observations, _ = envs.reset(seed=0)
    assert isinstance(observations, torch.Tensor)
    _, rewards, *_, infos = envs.step(torch.tensor([0, 1, 2]))
    assert isinstance(rewards, torch.Tensor)
    assert isinstance(infos["final_obs"], torch.Tensor)


def test_one_row_through_gymnasiums_own_batching() -> None:
    envs = gym.make_vec(DIGITS, num_envs=2, vectorization_mode="sync")
    native = gym.make_vec(DIGITS, num_envs=2, autoreset_mode="NextStep")
    assert np.array_equal(envs.reset(seed=1)[0], native.reset(seed=1)[0])
    for actions in ([1, 0], [0, 2], [3, 3]):
        mine, theirs = envs.step(np.array(actions)), native.step(np.array(actions))
        assert np.array_equal(mine[0], theirs[0])
        assert np.array_equal(mine[2], theirs[2])


# --- pictures -------------------------------------------------------------------------


def test_ansi_tells_the_story() -> None:
    env = make_single(render_mode="ansi")
    env.reset(seed=0, options={"index": 3})
    env.step(2)
    env.step(1)
    text = env.render()
    assert "sample 3" in text and "penalty 0.25" in text
    assert "layer 2 > layer 1" in text
    assert "layer 2: residuals applied once" in text
    assert text.count("residuals") == 3
    env.step(0)
    assert "NOP" in env.render()


@pytest.mark.parametrize("form", ["wide", "state"])
def test_rgb_array_is_a_picture_that_changes(form: str) -> None:
    env = make_single(form, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(3)
    after = env.render()
    assert before.dtype == np.uint8 and before.shape == after.shape
    assert before.ndim == 3 and before.shape[2] == 3
    assert not np.array_equal(before, after)
    assert env.render() is not after and np.array_equal(env.render(), after)


def test_batches_render_one_frame_per_row_and_leave_the_state_alone() -> None:
    envs, twin = make_vec(3, render_mode="ansi"), make_vec(3)
    for one in (envs, twin):
        one.reset(seed=0)
        one.step([1, 2, 3])
    frames = envs.render()
    assert frames is not None and len(frames) == 3
    assert twin.render() is None
    mine, theirs = envs.step([2, 3, 1]), twin.step([2, 3, 1])
    assert np.array_equal(mine[0], theirs[0])
    assert make_single().render_mode is None


def test_a_frame_shows_how_probable_answers_are() -> None:
    config = tiny_config()
    env = DynaLayEnv(
        checkpoint=random_model(config),
        split=random_split(config),
        render_mode="rgb_array",
    )
    env.reset(seed=0)
    process = env._row.process
    logits = process.session.logits(live_state(env._row), torch.arange(1))[0]
    frame, blue = env.render(), np.array([0x1F, 0x77, 0xB4])
    bars = (frame == blue).all(2)
    bars[:72] = False  # the title
    # The prediction is the rightmost of five panels.
    rows = np.array_split(bars[72:246, 530:], config.num_classes)
    widths = np.array([part.any(0).sum() for part in rows])
    expected = logits.softmax(0).numpy()
    assert widths / widths.sum() == pytest.approx(expected, abs=0.04)


def test_numbers_that_are_not_finite_are_left_out_of_a_frame() -> None:
    env = make_single(render_mode="rgb_array")
    env.reset(seed=0)
    env.step(1)
    before = env.render()
    session = env._row.process.session
    curves = {"layer 1": [0.5, float("nan"), float("inf")], "layer 2": [float("nan")]}
    session.residual_curves = lambda state, row: curves
    session.logits = lambda state, rows: torch.full((1, 10), torch.nan)
    assert env.render().shape == before.shape


def test_colour_images_can_be_drawn() -> None:
    config = tiny_config(in_shape=(3, 8, 8))
    env = DynaLayEnv(
        checkpoint=random_model(config),
        split=random_split(config),
        render_mode="rgb_array",
    )
    env.reset(seed=0)
    assert env.render().shape[2] == 3


# --- split sizes of the default problem -----------------------------------------------


@pytest.mark.parametrize("split", ["agent", "validation", "test"])
def test_shipped_digits_are_worth_deciding_on(split: str) -> None:
    envs = DynaLayVectorEnv(1, split=split)
    assert envs.split == split
    low, high = envs.penalty_range
    assert low == high > 0
    assert envs.always_extra_macs > envs.plain_macs
