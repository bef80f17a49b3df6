"""A row does in a batch what it does alone; rewards, macs and resets by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from helpers.flops import FlopCount
from helpers.networks import (
    live_state,
    make_single,
    make_vec,
    own_split,
    random_model,
    shared_model,
    shared_split,
    tiny_config,
)

from dynalay_gym.envs.checks import ResetOptions
from dynalay_gym.envs.episodes import RowEpisodes
from dynalay_gym.envs.oracle import decision_tree
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    InvalidActionError,
    ResetNeededError,
)
from dynalay_gym.sessions import fastest
from dynalay_gym.sessions.torch_session import TorchSession
from dynalay_gym.utils.rollout_recorder import Event, Recorder

MODES = [mode.value for mode in AutoresetMode]
KEYS = (
    "index",
    "penalty",
    "macs",
    "solver_steps",
    "solver_status",
    "correct",
    "prediction",
    "decisions",
    "action_mask",
)


def seeded_episodes(
    seeds: list[int], num_samples: int, penalty_range: tuple[float, float]
) -> RowEpisodes:
    episodes = RowEpisodes(len(seeds), num_samples, penalty_range)
    episodes.seed(np.arange(len(seeds)), seeds)
    return episodes


def draw(episodes: RowEpisodes, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    return episodes.begin(ResetOptions(np.asarray(rows)))


# --- a row in a batch is the same alone -----------------------------------------------

NUM_EVENTS = 22


def single_trace(seed: int, num_events: int = NUM_EVENTS, **config: Any) -> list[Event]:
    """The single environment, with the actions that `Recorder` gives this row."""
    env = make_single(**config)
    env.action_space.seed(seed)
    events: list[Event] = []
    ended = True
    while len(events) < num_events:
        if ended:
            options = {"seed": seed} if not events else {}
            observation, info = env.reset(**options)
            events.append(Event(observation, None, None, None, info))
            ended = False
        else:
            observation, reward, ended, truncated, info = env.step(
                env.action_space.sample()
            )
            events.append(Event(observation, reward, ended, truncated, info))
    return events


@pytest.fixture(scope="module")
def singles() -> list[list[Event]]:
    return [single_trace(seed, penalty="0.1:0.9") for seed in range(64)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_envs", [1, 3, 8, 64])
def test_rows_equal_single_environments_over_autoresets(
    num_envs: int, mode: str, singles: list[list[Event]]
) -> None:
    envs = make_vec(num_envs, autoreset_mode=mode, penalty="0.1:0.9")
    traces = Recorder(envs, seed=0, num_steps=20).run()
    for trace, single in zip(traces, singles, strict=False):
        assert sum(event.terminated is None for event in single) > 3, "many episodes"
        for event, alone in zip(trace, single, strict=False):
            assert np.array_equal(event.observation, alone.observation)
            assert event.reward == alone.reward
            assert event.terminated == alone.terminated
            assert event.info.keys() == alone.info.keys() == set(KEYS)
            for key in KEYS:
                assert np.array_equal(event.info[key], alone.info[key]), key


@pytest.mark.parametrize("config", [{"form": "state"}, {"rtol": 1e-3}])
def test_rows_equal_single_environments_in_other_networks(
    config: dict[str, Any],
) -> None:
    envs = make_vec(5, **config)
    for row, trace in enumerate(Recorder(envs, seed=7, num_steps=12).run()):
        alone = single_trace(7 + row, 12, **config)
        for event, single in zip(trace, alone, strict=False):
            assert np.array_equal(event.observation, single.observation)
            assert event.reward == single.reward
            assert event.info["solver_steps"] == single.info["solver_steps"]


def test_threads_change_no_bit() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = Recorder(make_vec(9), seed=3, num_steps=8).run()
        torch.set_num_threads(2)
        two = Recorder(make_vec(9), seed=3, num_steps=8).run()
    finally:
        torch.set_num_threads(before)
    for trace, other in zip(one, two, strict=True):
        for event, same in zip(trace, other, strict=True):
            assert np.array_equal(event.observation, same.observation)
            assert event.reward == same.reward


# --- rewards and compute --------------------------------------------------------------


def test_rewards_of_an_episode_sum_to_equation_two() -> None:
    n = 16
    envs = make_vec(n, penalty="0.1:0.9", alpha=0.7, max_decisions=6)
    rng = np.random.default_rng(0)
    _, infos = envs.reset(seed=1)
    total, spent, last = np.zeros(n), np.zeros(n), np.full(n, -1)
    consecutive, episodes = np.zeros(n, int), 0
    penalty = infos["penalty"]
    for _ in range(40):
        actions = rng.choice(4, n, p=[0.1, 0.5, 0.2, 0.2])
        consecutive = np.where(actions == last, consecutive + 1, 1)
        last = actions
        _, rewards, terminations, _, infos = envs.step(actions)
        final = infos["final_info"]
        total += rewards
        cost = final["macs"] / envs.always_extra_macs
        spent += cost * consecutive
        for row in np.flatnonzero(terminations):
            by_hand = 0.7 * final["correct"][row] - penalty[row] * spent[row]
            assert total[row] == pytest.approx(by_hand, abs=1e-5)
            episodes += 1
        total[terminations], spent[terminations], last[terminations] = 0, 0, -1
        penalty = infos["penalty"]
    assert episodes > 60


def test_macs_of_a_rollout_equal_what_was_executed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Of PyTorch's session: its operations can be counted, and the others' costs are
    # those of this one (test_compiled_session.py).
    monkeypatch.setattr(fastest, "fastest_session", TorchSession)
    # Rows come in pairs that do the same, so no row is ever computed beside a copy.
    n = 12
    seeds = [s for s in range(n // 2) for _ in range(2)]
    envs = make_vec(n)
    rng = np.random.default_rng(2)
    with FlopCount() as counter:
        _, infos = envs.reset(seed=seeds)
        macs = int(infos["macs"].sum())
        for _ in range(25):
            actions = rng.integers(0, 4, n // 2).repeat(2)
            _, _, terminations, _, infos = envs.step(actions)
            macs += int(infos["final_info"]["macs"].sum())
            macs += int(infos["macs"][terminations].sum())
    assert counter.total() == 2 * macs
    assert (infos["final_info"]["macs"][actions == envs.nop_action] == 0).all()


def test_stopping_costs_nothing_and_a_reset_costs_the_plain_pass() -> None:
    envs = make_vec(3, checkpoint=TorchSession(shared_model()))
    _, infos = envs.reset(seed=0)
    assert infos["macs"].tolist() == [envs.plain_macs] * 3
    assert infos["solver_steps"].tolist() == [0] * 3
    with FlopCount() as counter:
        envs.process.step(np.arange(3), np.zeros(3, dtype=np.int64))
    assert counter.total() == 0
    envs.reset(seed=0)
    with FlopCount() as counter:  # what would be counted if something ran
        envs.process.step(np.arange(3), np.ones(3, dtype=np.int64))
    assert counter.total() > 0


def test_always_costs_one_unit_on_the_calibration_split() -> None:
    envs = make_vec(24, autoreset_mode="Disabled")
    envs.reset(seed=0, options={"index": np.arange(24)})
    macs = np.zeros(24)
    for layer in (1, 2, 3):
        *_, infos = envs.step([layer] * 24)
        macs += infos["macs"]
    assert macs.mean() == pytest.approx(envs.always_extra_macs)


def walk_one(reward: str, actions: list[int], index: int) -> tuple[list[float], dict]:
    """Rewards of a row of the tiny problem, and what happened, step by step."""
    envs = make_vec(1, reward=reward, penalty=0.3, alpha=0.5, autoreset_mode="Disabled")
    envs.reset(seed=0, options={"index": index})
    label = int(shared_split().labels[index])
    state = live_state(envs)
    facts: dict[str, list] = {"cost": [], "correct": [], "log_score": [], "bits": []}
    facts["log_score"].append(float(state.logits.log_softmax(1)[0, label]))
    rewards = []
    for action in actions:
        _, reward_of_step, _, _, infos = envs.step([action])
        rewards.append(float(reward_of_step[0]))
        facts["cost"].append(infos["macs"][0] / envs.always_extra_macs)
        facts["correct"].append(int(infos["correct"][0]))
        facts["log_score"].append(float(state.logits.log_softmax(1)[0, label]))
        facts["bits"].append(int(state.state_id[0]).bit_count())
    return rewards, facts


@pytest.mark.parametrize("index", range(6))
def test_registered_rewards_by_hand(index: int) -> None:
    actions = [2, 2, 1, 0]
    consecutive, again = [1, 2, 1, 1], [False, True, False, False]
    rewards, facts = walk_one("paper", actions, index)
    cost, right = facts["cost"], facts["correct"][-1]
    expected = [-0.3 * c * n for c, n in zip(cost, consecutive, strict=True)]
    expected[-1] += 0.5 * right
    assert rewards == pytest.approx(expected, abs=1e-6)

    rewards, _ = walk_one("three-term", actions, index)
    expected = [-0.3 * c - 0.2 * a for c, a in zip(cost, again, strict=True)]
    expected[-1] += 0.5 * right
    assert rewards == pytest.approx(expected, abs=1e-6)

    rewards, _ = walk_one("log-score", actions, index)
    gains = np.diff(facts["log_score"])
    expected = [
        0.5 * gain - 0.3 * c * n
        for gain, c, n in zip(gains, cost, consecutive, strict=True)
    ]
    assert rewards == pytest.approx(expected, abs=1e-5)

    rewards, _ = walk_one("blockdrop", actions, index)
    assert facts["bits"] == [1, 1, 1, 1]
    stop = 1 - (1 / 3) ** 2 if right else -1.0
    assert rewards == pytest.approx([0, 0, 0, stop], abs=1e-6)


def test_the_hand_worked_samples_are_right_and_wrong() -> None:
    outcomes = {walk_one("paper", [0], index)[1]["correct"][-1] for index in range(6)}
    assert outcomes == {0, 1}


# --- ends and resets ------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_the_last_decision_gives_the_answer_and_terminates(limit: int) -> None:
    envs = make_vec(4, max_decisions=limit, autoreset_mode="Disabled", penalty=0.0)
    observations, _ = envs.reset(seed=0)
    remaining = envs.observation_layout["remaining"]
    assert (observations[:, remaining] == 1).all()
    for taken in range(1, limit + 1):
        observations, rewards, terminations, truncations, infos = envs.step([1] * 4)
        assert terminations.tolist() == [taken == limit] * 4
        assert truncations.tolist() == [False] * 4
        assert infos["decisions"].tolist() == [taken] * 4
        left = observations[:, remaining].flatten().tolist()
        assert left == pytest.approx([1 - taken / limit] * 4)
    assert rewards.tolist() == (0.5 * infos["correct"]).tolist()


def test_default_budget_is_one_decision_per_layer_and_a_stop() -> None:
    assert make_vec(1).max_decisions == 4


def test_same_step_by_hand() -> None:
    envs = make_vec(2, autoreset_mode="SameStep")
    first, begun = envs.reset(seed=5)
    observations, _, terminations, _, infos = envs.step([0, 1])
    assert terminations.tolist() == [True, False]
    assert (
        infos["_final_obs"].tolist() == infos["_final_info"].tolist() == [True, False]
    )
    # What ended is in the final ones, what began is at the top.
    one_hot = envs.observation_layout["last_action"]
    assert infos["final_obs"][0, one_hot].tolist() == [1, 0, 0, 0]
    assert observations[0, one_hot].tolist() == [0, 0, 0, 0]
    assert infos["final_info"]["index"][0] == begun["index"][0]
    assert infos["final_info"]["macs"][0] == 0
    assert infos["macs"][0] == envs.plain_macs
    assert infos["decisions"].tolist() == [0, 1]
    assert infos["final_info"]["decisions"].tolist() == [1, 1]
    stream = seeded_episodes([5], 24, (0.25, 0.25))
    expected = [int(draw(stream, [0])[0][0]) for _ in range(2)]
    assert [begun["index"][0], infos["index"][0]] == expected
    # The other row goes on; its final observation is simply its observation.
    assert np.array_equal(infos["final_obs"][1], observations[1])
    assert one_hot.start is not None and observations[1, one_hot].tolist() == [
        0,
        1,
        0,
        0,
    ]
    assert first.shape == observations.shape == infos["final_obs"].shape


def test_next_step_by_hand() -> None:
    envs = make_vec(2, autoreset_mode="NextStep")
    envs.reset(seed=5)
    ended, _, terminations, _, infos = envs.step([0, 1])
    one_hot = envs.observation_layout["last_action"]
    assert terminations.tolist() == [True, False]
    assert ended[0, one_hot].tolist() == [1, 0, 0, 0]
    assert infos["macs"][0] == 0
    # Whatever the action of row 0, this step only starts its next episode.
    observations, rewards, terminations, _, infos = envs.step([3, 0])
    assert observations[0, one_hot].tolist() == [0, 0, 0, 0]
    assert rewards[0] == 0
    assert terminations.tolist() == [False, True]
    assert infos["macs"].tolist() == [envs.plain_macs, 0]
    assert infos["decisions"].tolist() == [0, 2]
    _, _, terminations, _, infos = envs.step([1, 1])
    assert terminations.tolist() == [False, False]
    assert infos["decisions"].tolist() == [1, 0]


def test_next_step_with_all_rows_waiting() -> None:
    envs = make_vec(3, autoreset_mode="NextStep")
    envs.reset(seed=5)
    envs.step([0, 0, 0])
    _, rewards, terminations, _, infos = envs.step([2, 2, 2])
    assert rewards.tolist() == [0, 0, 0]
    assert not terminations.any()
    assert infos["macs"].tolist() == [envs.plain_macs] * 3


def test_disabled_by_hand() -> None:
    envs = make_vec(3, autoreset_mode="Disabled")
    envs.reset(seed=5)
    before, _, terminations, _, _ = envs.step([0, 1, 0])
    assert terminations.tolist() == [True, False, True]
    with pytest.raises(InvalidActionError, match=r"\[0, 2\].*reset_mask"):
        envs.step([1, 1, 1])
    mask = np.array([True, False, False])
    observations, infos = envs.reset(options={"reset_mask": mask})
    assert np.array_equal(observations[1:], before[1:])
    assert infos["decisions"].tolist() == [0, 1, 1]
    with pytest.raises(InvalidActionError, match=r"\[2\]"):
        envs.step([1, 1, 1])
    envs.reset(options={"reset_mask": np.array([False, False, True])})
    *_, infos = envs.step([1, 1, 1])
    assert infos["decisions"].tolist() == [1, 2, 1]


@pytest.mark.parametrize("mode", MODES)
def test_mode_is_told_where_others_look_for_it(mode: str) -> None:
    for given in (mode, AutoresetMode(mode)):
        envs = make_vec(1, autoreset_mode=given)
        assert envs.metadata["autoreset_mode"] is AutoresetMode(mode)
        assert envs.autoreset_mode is AutoresetMode(mode)
    assert DynaLayVectorEnv.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


# --- seeds, samples, penalties --------------------------------------------------------


def test_episodes_do_not_depend_on_the_number_of_rows() -> None:
    rows = np.arange(40)
    many = seeded_episodes(list(range(40)), 1000, (0.0, 1.0))
    first, second = draw(many, rows), draw(many, rows[::-1])
    for row in (0, 7, 39):
        alone = seeded_episodes([row], 1000, (0.0, 1.0))
        for drawn, at in ((first, row), (second, 39 - row)):
            index, penalty = draw(alone, [0])
            assert index[0] == drawn[0][at]
            assert penalty[0] == drawn[1][at]


def splitmix(x: int) -> int:
    """SplitMix64's output function in Python's own integers."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_episodes_are_fixed_for_ever() -> None:
    seeds = [0, 2**63 + 5]
    stream = seeded_episodes(seeds, 4050, (0.0, 2.0))
    drawn = [draw(stream, [0, 1]) for _ in range(3)]
    indices = [index.tolist() for index, _ in drawn]
    assert indices == [[3380, 2674], [486, 665], [1671, 4030]]
    for k, (index, penalty) in enumerate(drawn):
        for row, seed in enumerate(seeds):
            start = splitmix((splitmix(seed) + k) % 2**64)
            assert index[row] == splitmix((start + 0x9E3779B97F4A7C15) % 2**64) % 4050
            share = splitmix((start + 2 * 0x9E3779B97F4A7C15) % 2**64) / 2**64
            assert penalty[row] == pytest.approx(2 * share)


def test_rows_that_draw_at_different_rates_keep_their_own_streams() -> None:
    seeds, rng = [3, 8, 21, 34], np.random.default_rng(0)
    stream = seeded_episodes(seeds, 4050, (0.5, 0.5))
    drawn = np.zeros(len(seeds), dtype=int)
    for step in range(200):
        if step == 90:
            stream.seed(np.array([1]), [0, 77])
            seeds[1], drawn[1] = 77, 0
        rows = np.flatnonzero(rng.random(len(seeds)) < [0.9, 0.5, 0.1, 0.3])
        index, penalty = draw(stream, rows)
        assert penalty.tolist() == [0.5] * len(rows)
        for row, found in zip(rows, index, strict=True):
            start = splitmix((splitmix(seeds[row]) + int(drawn[row])) % 2**64)
            assert found == splitmix((start + 0x9E3779B97F4A7C15) % 2**64) % 4050
        drawn[rows] += 1
    assert drawn.min() < 40 < 100 < drawn.max()


def test_episodes_cover_samples_and_penalties_evenly() -> None:
    stream = seeded_episodes(list(range(2000)), 10, (1.0, 3.0))
    draws = [draw(stream, np.arange(2000)) for _ in range(5)]
    index = np.concatenate([index for index, _ in draws])
    penalty = np.concatenate([penalty for _, penalty in draws])
    counts = np.bincount(index, minlength=10)
    assert abs(counts - 1000).max() < 150  # five standard deviations
    assert 1 <= penalty.min() < 1.01 and 2.98 < penalty.max() <= 3
    assert np.log(penalty).mean() == pytest.approx(np.log(3) / 2, abs=0.015)
    assert abs(np.corrcoef(index, penalty)[0, 1]) < 0.05


def test_seeds_of_rows() -> None:
    envs = make_vec(3)
    _, by_int = envs.reset(seed=11)
    _, by_list = envs.reset(seed=[11, 12, 13])
    _, by_array = envs.reset(seed=np.array([11, 12, 13]))  # type: ignore[arg-type]
    assert by_int["index"].tolist() == by_list["index"].tolist()
    assert by_int["index"].tolist() == by_array["index"].tolist()
    _, going_on = envs.reset()
    _, again = envs.reset(seed=11)
    assert again["index"].tolist() == by_int["index"].tolist()
    _, none_is_going_on = envs.reset(seed=[None, None, None])
    assert none_is_going_on["index"].tolist() == going_on["index"].tolist()


def test_seeds_reach_only_the_rows_of_the_mask() -> None:
    seeded, other = make_vec(2), make_vec(2)
    seeded.reset(seed=3)
    other.reset(seed=3)
    mask = {"reset_mask": np.array([True, False])}
    _, infos = seeded.reset(seed=50, options=mask)
    _, expected = make_vec(2).reset(seed=50)
    assert infos["index"][0] == expected["index"][0]
    for _ in range(3):
        *_, infos = seeded.step([0, 0])
        *_, untouched = other.step([0, 0])
        assert infos["index"][1] == untouched["index"][1]


def test_without_a_seed_runs_differ() -> None:
    drawn = set()
    for _ in range(4):
        _, infos = make_vec(8).reset()
        drawn.add(tuple(infos["index"].tolist()))
    assert len(drawn) > 1


def test_options_choose_sample_and_penalty() -> None:
    envs = make_vec(3, penalty="0:1")
    _, infos = envs.reset(seed=0, options={"index": 7, "penalty": 0.5})
    assert infos["index"].tolist() == [7, 7, 7]
    assert infos["penalty"].tolist() == [0.5, 0.5, 0.5]
    options = {
        "index": [1, 2, 3],
        "penalty": np.array([0.0, 0.25, 4.0]),
        "reset_mask": np.array([False, True, True]),
    }
    observations, infos = envs.reset(options=options)
    assert infos["index"].tolist() == [7, 2, 3]
    assert infos["penalty"].tolist() == [0.5, 0.25, 4.0]
    shown = observations[:, envs.observation_layout["penalty"]].flatten()
    assert shown.tolist() == pytest.approx([1 / 3, 0.2, 0.8])


def test_a_range_of_penalties_is_drawn_and_a_number_is_kept() -> None:
    _, infos = make_vec(50, penalty="0.25:0.75").reset(seed=0)
    assert len(np.unique(infos["penalty"])) > 45
    assert ((infos["penalty"] >= 0.25) & (infos["penalty"] <= 0.75)).all()
    _, infos = make_vec(5, penalty=0.125).reset(seed=0)
    assert infos["penalty"].tolist() == [0.125] * 5


# --- what is refused ------------------------------------------------------------------

BAD_ACTIONS = [
    None,
    "stop",
    1,
    0.5,
    [],
    [1, 1],
    [1, 1, 1, 1],
    [[1, 1, 1]],
    [[1], [1], [1]],
    [1, [1, 1], 1],
    [0, 0, 4],
    [-1, 0, 0],
    [0, 10**30, 0],
    [0, None, 0],
    [0.0, 1.0, 2.0],
    [0.5, 0.5, 0.5],
    [float("nan")] * 3,
    [float("inf")] * 3,
    [1j, 1j, 1j],
    [True, False, True],
    ["0", "1", "2"],
    {0: 1, 1: 1, 2: 1},
    np.array([0, 1, 4]),
    np.array([0, 1, 2], dtype=np.float32),
    np.zeros((3, 4), dtype=np.int64),
    np.array(1),
    np.array([-(2**63), 0, 0]),
    np.array([2**64 - 1, 0, 0], dtype=np.uint64),
    torch.tensor([0.0, 1.0, 2.0]),
    torch.tensor([0, 1, 7]),
    torch.zeros(3, 1, dtype=torch.int64),
    torch.tensor([True, False, True]),
]


@pytest.mark.parametrize("mode", MODES)
def test_bad_actions_are_refused_and_change_nothing(mode: str) -> None:
    envs, twin = (make_vec(3, autoreset_mode=mode) for _ in range(2))
    for one in (envs, twin):
        one.reset(seed=4)
        one.step([1, 2, 3])
    for actions in BAD_ACTIONS:
        with pytest.raises(InvalidActionError, match="actions must"):
            envs.step(actions)
    for actions in ([3, 0, 1], [2, 2, 2]):
        if mode == "Disabled":
            actions = [3, 3, 1]
        results = [one.step(actions) for one in (envs, twin)]
        for mine, theirs in zip(results[0][:4], results[1][:4], strict=True):
            assert np.array_equal(mine, theirs)
        assert results[0][4]["macs"].tolist() == results[1][4]["macs"].tolist()


@pytest.mark.parametrize(
    "actions",
    [
        (0, 1, 2),
        [np.int64(0), 1, 2],
        np.array([0, 1, 2], dtype=np.uint8),
        np.array([0, 1, 2], dtype=np.int32),
        np.array([0, 9, 1, 9, 2])[::2],
        torch.tensor([0, 1, 2]),
        torch.tensor([0, 1, 2], dtype=torch.int16),
    ],
)
def test_integers_of_any_kind_are_actions(actions: Any) -> None:
    envs = make_vec(3)
    envs.reset(seed=0)
    _, _, terminations, _, _ = envs.step(actions)
    assert terminations.tolist() == [True, False, False]


def test_calls_out_of_order_are_refused() -> None:
    envs = make_vec(2, render_mode="ansi")
    for call in (envs.action_masks, envs.render, lambda: envs.step([0, 0])):
        with pytest.raises(ResetNeededError, match="reset"):
            call()
    with pytest.raises(ResetNeededError, match="reset_mask"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    envs.reset(seed=0)
    envs.close()
    with pytest.raises(ResetNeededError, match="close"):
        envs.step([0, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"indx": 1}, "indx.*index"),
        ({"index": 24}, "index must lie in 0..23"),
        ({"index": -1}, "index must lie in"),
        ({"index": [1, 2]}, "index must be one value or 3"),
        ({"index": 1.5}, "integers"),
        ({"index": "one"}, "integers"),
        ({"index": None}, "integers"),
        ({"index": [1, [2, 3], 4]}, "integers"),
        ({"penalty": -0.1}, "penalty must be finite and not negative"),
        ({"penalty": [0.1, 0.1, float("nan")]}, "penalty must be finite"),
        ({"penalty": float("inf")}, "penalty must be finite"),
        ({"penalty": "0.1:0.3"}, "numbers"),
        ({"penalty": np.zeros((3, 1))}, "penalty must be one value or 3"),
        ({"reset_mask": [1, 0, 1]}, "reset_mask must be bool"),
        ({"reset_mask": np.array([True, False])}, r"bool of shape \(3,\)"),
    ],
)
def test_bad_reset_options_are_refused_and_change_nothing(
    options: dict[str, Any], message: str
) -> None:
    envs, twin = make_vec(3), make_vec(3)
    for one in (envs, twin):
        one.reset(seed=4)
        one.step([1, 0, 2])
    for seed in (None, 99):
        with pytest.raises(ConfigError, match=message):
            envs.reset(seed=seed, options=options)
    for _ in range(2):
        results = [one.step([0, 3, 0]) for one in (envs, twin)]
        assert np.array_equal(results[0][0], results[1][0])
        assert results[0][4]["index"].tolist() == results[1][4]["index"].tolist()


@pytest.mark.parametrize("seed", [[1, 2], [1, 2, 3, 4], [1, -2, 3], -1])
def test_bad_seeds_are_refused(seed: Any) -> None:
    with pytest.raises(ConfigError, match="seeds"):
        make_vec(3).reset(seed=seed)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"autoreset_mode": "Sometimes"}, "SameStep"),
        ({"output": "jax"}, "torch"),
        ({"render_mode": "human"}, "ansi"),
        ({"observation": "raw"}, "dict"),
        ({"reward": "mine"}, "blockdrop"),
        ({"penalty": -0.1}, "penalty"),
        ({"penalty": "0.3:0.1"}, "low <= high"),
        ({"penalty": "a:b"}, "range low:high"),
        ({"penalty": "0.1:0.2:0.3"}, "range low:high"),
        ({"penalty": float("nan")}, "penalty"),
        ({"penalty": float("inf")}, "penalty"),
        ({"alpha": -1.0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"max_decisions": 0}, "max_decisions"),
        ({"rtol": 0.0}, "rtol"),
        ({"max_steps": -1}, "max_steps"),
        ({"device": "toaster"}, "toaster.*cpu"),
        ({"dataset": "mnist"}, "mnist.*digits"),
        ({"split": "train"}, "train.*agent"),
        ({"colour": "red"}, "colour.*penalty"),
    ],
)
def test_bad_arguments_are_refused_with_a_remedy(
    config: dict[str, Any], message: str
) -> None:
    num_envs = config.pop("num_envs", 2)
    with pytest.raises(ConfigError, match=message):
        make_vec(num_envs, **config)


def test_samples_and_weights_that_are_no_numbers_are_refused() -> None:
    for value in (float("nan"), float("inf")):
        images = torch.zeros(4, 1, 8, 8)
        images[2, 0, 3, 3] = value
        with pytest.raises(DataError, match="infinite"):
            make_vec(1, split=own_split(images))
    for dtype in (torch.float64, torch.float16, torch.uint8, torch.int64, torch.bool):
        images = torch.zeros(4, 1, 8, 8, dtype=dtype)
        with pytest.raises(DataError, match=rf"{dtype}.*\.to\(torch.float32\)"):
            make_vec(1, split=own_split(images))
    model = random_model(tiny_config())
    with torch.no_grad():
        model.head[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="diverged"):
        make_vec(1, checkpoint=model)


# --- Gymnasium's other methods --------------------------------------------------------


def test_attributes_come_once_per_row() -> None:
    envs = make_vec(2, penalty="0.1:0.2", render_mode="ansi")
    envs.reset(seed=0)
    assert envs.call("penalty_range") == ((0.1, 0.2),) * 2
    assert envs.get_attr("penalty_range") == ((0.1, 0.2),) * 2
    assert envs.call("nop_action") == (0, 0)
    masks = envs.call("action_masks")
    assert len(masks) == 2 and masks[0].tolist() == [True] * 4
    assert [type(text) for text in envs.call("render")] == [str, str]
    envs.set_attr("penalty_scale", 3)
    assert envs.get_attr("penalty_scale") == (3, 3)


def test_an_attribute_that_does_nothing_cannot_be_set() -> None:
    envs, env = make_vec(2), make_single()
    for name in ("alpha", "penalty_scal"):  # a property, and a misspelt name
        with pytest.raises(AttributeError, match=name):
            envs.set_attr(name, 9.0)
    with pytest.raises(AttributeError, match="alpha"):
        env.set_wrapper_attr("alpha", 9.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("state_ids", 8), ("state_ids", -1), ("decisions", 50), ("last_action", 9)],
)
def test_a_state_that_cannot_be_is_refused(name: str, value: int) -> None:
    envs = make_vec(3)
    envs.reset(seed=0)
    state = envs.get_state()
    envs.set_state(state)
    state[name][1] = value
    with pytest.raises(ConfigError, match=name):
        envs.set_state(state)


def test_difficulty_is_told_where_the_split_knows_it() -> None:
    split = replace(shared_split(), difficulty=torch.arange(24) * 3)
    actions = np.array([1, 2, 0, 3])
    told = []
    for transitions in ("live", "table"):
        envs = make_vec(4, split=split, transitions=transitions)
        _, infos = envs.reset(seed=5)
        _, _, _, _, after = envs.step(actions)
        for seen in (infos, after):
            assert seen["difficulty"].dtype == np.int64
            assert (seen["difficulty"] == 3 * seen["index"]).all()
            assert seen["_difficulty"].all()
        told.append(after["difficulty"])
    assert (told[0] == told[1]).all()
    single = make_single(split=split)
    _, info = single.reset(seed=5, options={"index": 7})
    assert info["difficulty"] == single.step(1)[-1]["difficulty"] == 21
    assert "difficulty" not in make_vec(4).reset(seed=5)[1]


@pytest.mark.parametrize("penalty", [0.2, "0.1:0.4"])
def test_the_penalty_scale_multiplies_what_later_episodes_draw(penalty):
    plain, scaled = (make_vec(4, penalty=penalty) for _ in range(2))
    scaled.set_attr("penalty_scale", 0.5)
    for options in (None, {"penalty": 0.3}):
        expected, got = (
            envs.reset(seed=0, options=options) for envs in (plain, scaled)
        )
        factor = 1.0 if options else 0.5
        assert (got[1]["penalty"] == factor * expected[1]["penalty"]).all()
    assert np.array_equal(got[0], expected[0])
    scaled.penalty_scale = 0.0
    (_, rewards, *_), (_, _, *_, infos) = scaled.step([1] * 4), scaled.step([0] * 4)
    assert (rewards < 0).all()  # the episodes that had begun keep their penalties
    assert (infos["penalty"] == 0).all()


@pytest.mark.parametrize("transitions", ["live", "table"])
def test_the_penalty_unit_is_shown_as_one_half(transitions):
    envs = make_vec(3, penalty_unit=0.1, transitions=transitions)
    penalty = np.array([0.0, 0.1, 0.3], dtype=np.float32)
    observations, _ = envs.reset(seed=0, options={"penalty": penalty, "index": 0})
    column = observations[:, envs.observation_layout["penalty"]]
    assert column[:, 0].tolist() == pytest.approx([0.0, 0.5, 0.75])
    if transitions == "table":
        tree = decision_tree(envs)
        seen = tree.observations(torch.zeros(3).long(), torch.from_numpy(penalty))
        assert np.array_equal(seen[:, 0].numpy(), observations)
    with pytest.raises(ConfigError, match="penalty_unit"):
        make_vec(1, penalty_unit=0.0)
