"""A network of another kind, token sequences, through everything that the package does.

`examples/own_network.py` has the session: two actions, five states per input, samples
of int64. Nothing else is told to environments, tables, agents or predictor.
"""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence

from agents.exact.agent import ExactAgent
from agents.exact.config import ExactConfig
from agents.sb3.agent import SB3Agent
from agents.sb3.config import PPOConfig
from dynalay_gym.data.splits import Split
from dynalay_gym.envs.oracle import optimum
from dynalay_gym.envs.single_env import DynaLayEnv
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.errors import CheckpointError, ConfigError
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.predictor.policies import PlanPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.protocol import FiniteStates, Inspectable
from dynalay_gym.testing import check_vector_env
from examples.own_network import (
    PADDING,
    PORTIONS,
    TokenNet,
    TokenSession,
    restore,
)

ROOT = Path(__file__).parents[1]


def make_session() -> TokenSession:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = TokenNet()
        torch.nn.init.normal_(net.layer.free_weight, std=1.0)
        torch.nn.init.normal_(net.head.weight, std=2.0)
    return TokenSession(net)


def make_split(session: TokenSession, num: int = 120) -> Split:
    """Sequences of one to six words; right is what the network says in the end."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(1, 12, (num, 6), generator=generator)
    lengths = torch.randint(1, 7, (num, 1), generator=generator)
    inputs = torch.where(torch.arange(6) < lengths, words, PADDING)
    rows = torch.arange(num)
    state = session.begin(inputs)
    session.reach(state, rows, torch.full((num,), PORTIONS))
    labels = session.logits(state, rows).argmax(1)
    return Split(inputs=inputs, labels=labels, groups=rows, name="own")


def kwargs(**changes: Any) -> dict[str, Any]:
    session = make_session()
    own = {"checkpoint": session, "split": make_split(session), "device": "cpu"}
    return own | {"max_decisions": 6} | changes


def make_vec(num_envs: int, **changes: Any) -> DynaLayVectorEnv:
    return DynaLayVectorEnv(num_envs, **kwargs(**changes))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path / "cache"))


def test_it_has_more_states_than_layers_could_have_bits() -> None:
    session = make_session()
    assert isinstance(session, FiniteStates)
    assert not isinstance(session, Inspectable)
    assert session.next_state.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [4, 4]]


def test_iterating_matters() -> None:
    envs = make_vec(1)
    assert envs.penalty_range[0] > 0.05  # half of what *always* gets right beyond NOP


def test_gymnasiums_checker() -> None:
    check_env(gym.make("dynalay_gym:DynaLay/Digits-v0", **kwargs()).unwrapped)


@pytest.mark.parametrize("transitions", ["live", "table"])
def test_the_batched_checker(transitions: str) -> None:
    def make(num_envs: int, mode: str) -> gym.vector.VectorEnv:
        return make_vec(num_envs, autoreset_mode=mode, transitions=transitions)

    check_vector_env(make, num_envs=3, num_steps=16)


def test_a_table_is_equal_to_the_network_to_the_bit() -> None:
    live, table = (make_vec(9, transitions=kind) for kind in ("live", "table"))
    assert data_equivalence(live.reset(seed=0), table.reset(seed=0), exact=True)
    rng = np.random.default_rng(0)
    for _ in range(40):
        actions = rng.integers(0, 2, 9)
        expected, got = live.step(actions), table.step(actions)
        assert data_equivalence(got, expected, exact=True)


def test_a_portion_costs_what_it_runs_and_a_finished_row_nothing() -> None:
    envs = make_vec(2, autoreset_mode="Disabled", max_decisions=9)
    envs.reset(seed=0)
    taken = [envs.step([1, 1])[4] for _ in range(PORTIONS + 1)]
    assert [int(infos["solver_steps"][0]) for infos in taken] == [2, 2, 2, 2, 0]
    assert [int(infos["macs"][0]) for infos in taken] == [2 * 64 + 24] * 4 + [0]
    assert [infos["action_mask"][0].tolist() for infos in taken[-2:]] == [[1, 0]] * 2


def test_saved_rows_go_on_where_they_were() -> None:
    first, second = make_vec(5), make_vec(5)
    first.reset(seed=1)
    first.step([1, 1, 0, 1, 1])
    observations, _ = second.set_state(first.get_state())
    assert np.array_equal(observations, first.process.observe().numpy())
    for actions in ([1, 0, 1, 1, 0], [1, 1, 1, 0, 1]):
        expected, got = first.step(actions), second.step(actions)
        assert data_equivalence(got, expected, exact=True)


def test_the_optimum_is_what_enumeration_finds() -> None:
    envs = make_vec(120, autoreset_mode="Disabled")
    penalty, best = envs.penalty_range[0], None
    for portions in range(PORTIONS + 1):
        envs.reset(seed=0, options={"index": np.arange(120)})
        returns = np.zeros(120)
        for action in [1] * portions + [0]:
            returns += envs.step([action] * 120)[1]
        best = returns if best is None else np.maximum(best, returns)
    # Under the paper's reward a choice costs more the longer the run it ends.
    assert optimum(envs, penalty).returns == pytest.approx(best, abs=1e-5)


def test_exact_learning_and_ppo_learn_on_it() -> None:
    walked = make_vec(64, autoreset_mode="Disabled", reward="three-term")
    penalty = walked.penalty_range[0]
    exact = ExactAgent(
        make_vec(8, transitions="table", reward="three-term"), ExactConfig(), seed=0
    )
    exact.learn(120_000)
    ppo = SB3Agent(
        make_vec(16, reward="three-term"), PPOConfig(n_steps=16, batch_size=256), seed=0
    )
    ppo.learn(2_000)
    found = {
        agent.config.algo: evaluate(walked, agent.policy, penalty=penalty).mean_return
        for agent in (exact, ppo)
    }
    best = optimum(walked, penalty).returns.mean()
    assert found["exact"] > 0.9 * best
    assert found["ppo"] > 0.5 * best


@pytest.mark.parametrize("portions", [0, 2, PORTIONS])
def test_a_predictor_answers_is_saved_and_loaded(portions: int, tmp_path: Path) -> None:
    session = make_session()
    split = make_split(session)
    rule = PlanPolicy([1] * portions)
    predictor = DynaLayPredictor(session, rule, penalty=0.1, max_decisions=6)
    found = predictor.infer(split.inputs)
    assert (found.solver_steps == 2 * portions).all()
    if portions == PORTIONS:
        assert predictor.score(split.inputs, split.labels) == 1.0
    predictor.save(tmp_path / "predictor")
    with pytest.raises(CheckpointError, match="token-net"):
        DynaLayPredictor.load(tmp_path / "predictor")
    loaded = DynaLayPredictor.load(
        tmp_path / "predictor", sessions={"token-net": restore}
    )
    for mine, theirs in zip(found, loaded.infer(split.inputs), strict=True):
        assert torch.equal(mine, theirs)


def test_what_it_does_not_offer_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="raw activations"):
        make_vec(1, observation="dict")
    with pytest.raises(ConfigError, match="'iterated'"):
        make_vec(1, reward="blockdrop")
    with pytest.raises(ConfigError, match="solver settings"):
        make_vec(1, rtol=0.1)

    class Endless(TokenSession):
        def __init__(self) -> None:
            super().__init__(TokenNet())
            del self.next_state

    with pytest.raises(ConfigError, match="finitely many states"):
        make_vec(1, checkpoint=Endless(), transitions="table")


def test_the_text_form_shows_actions_by_name() -> None:
    env = DynaLayEnv(**kwargs(render_mode="ansi"))
    env.reset(seed=0)
    env.step(1)
    assert "think on" in env.render()
