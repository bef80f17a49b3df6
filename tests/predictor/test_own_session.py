"""A network of another kind, token sequences, as a predictor; see `examples`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dynalay_gym.errors import CheckpointError, ConfigError, DataError
from dynalay_gym.networks.agent_net import AgentNet
from dynalay_gym.networks.policy import PlanPolicy, Policy
from dynalay_gym.predictor.export import export_parts
from dynalay_gym.predictor.policies import NetworkPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.protocol import FiniteStates
from examples.own_network import (
    PADDING,
    PORTIONS,
    TokenNet,
    TokenSession,
    restore,
)


class Unsavable(TokenSession):
    """The same without the optional method."""

    to_saved = None


def make_session(kind: type[TokenSession] = TokenSession) -> TokenSession:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = TokenNet()
        nn.init.normal_(net.layer.free_weight, std=1.0)
        nn.init.normal_(net.head.weight, std=2.0)
    return kind(net)


def make_tokens(num: int = 50) -> Tensor:
    """Sequences of one to six words."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(1, 12, (num, 6), generator=generator)
    lengths = torch.randint(1, 7, (num, 1), generator=generator)
    return torch.where(torch.arange(6) < lengths, words, PADDING)


def make_policy(kind: str) -> Policy:
    if kind == "plan":
        return PlanPolicy((1, 1, 1))
    session = make_session()
    blank = DynaLayPredictor(session, PlanPolicy(()), penalty=0.1)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        net = AgentNet(blank.observation_layout["remaining"].stop, 2, (8,))
        for weight in net.parameters():
            nn.init.normal_(weight, std=3.0)
    return NetworkPolicy(net)


def make_predictor(kind: str, **options: Any) -> DynaLayPredictor:
    options = {"penalty": 0.1, "max_decisions": 6} | options
    return DynaLayPredictor(make_session(), make_policy(kind), **options)


@pytest.mark.parametrize("kind", ["plan", "agent-net"])
def test_it_answers_and_counts(kind: str) -> None:
    predictor, tokens = make_predictor(kind), make_tokens()
    found = predictor.infer(tokens)
    portions = (found.actions == 1).sum(1)
    assert len(set(portions.tolist())) > 1 or kind == "plan"
    assert torch.equal(found.solver_steps, 2 * portions.clamp(max=PORTIONS))
    session = make_session()
    state, rows = session.begin(tokens), torch.arange(len(tokens))
    session.reach(state, rows, portions)
    expected = session.logits(state, rows).softmax(1)
    assert torch.equal(found.probabilities, expected)
    one_by_one = make_predictor(kind, batch_size=1).infer(tokens.numpy())
    assert np.array_equal(one_by_one.probabilities, expected)
    assert np.array_equal(one_by_one.macs, found.macs)


def test_a_plan_needs_no_finite_states() -> None:
    class Endless(TokenSession):
        def __init__(self, net: TokenNet) -> None:
            super().__init__(net)
            self.useful = super().useful_actions
            del self.next_state

        def useful_actions(self, state: Any, rows: Any) -> Tensor:
            return torch.ones(len(rows), 2, dtype=torch.bool)

    session = make_session(Endless)
    assert not isinstance(session, FiniteStates)
    options: dict[str, Any] = {"penalty": 0.1, "max_decisions": 6}
    endless = DynaLayPredictor(session, make_policy("plan"), **options)
    found, expected = (
        predictor.infer(make_tokens())
        for predictor in (endless, make_predictor("plan"))
    )
    for name in ("probabilities", "decisions", "actions", "solver_steps"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("kind", ["plan", "agent-net"])
def test_it_comes_back_with_the_same_answers(kind: str, tmp_path: Path) -> None:
    predictor, tokens = make_predictor(kind), make_tokens()
    predictor.save(tmp_path)
    loaded = DynaLayPredictor.load(tmp_path, sessions={"token-net": restore})
    assert loaded.max_decisions == 6
    found, expected = loaded.infer(tokens), predictor.infer(tokens)
    for mine, other in zip(found, expected, strict=True):
        assert torch.equal(mine, other)
    with pytest.raises(CheckpointError, match=r"'token-net'.*sessions="):
        DynaLayPredictor.load(tmp_path)


def test_what_it_does_not_offer_is_refused_by_name(tmp_path: Path) -> None:
    plain = DynaLayPredictor(make_session(Unsavable), make_policy("plan"), penalty=0.1)
    with pytest.raises(ConfigError, match=r"Unsavable cannot be saved.*to_saved"):
        plain.save(tmp_path / "a")
    with pytest.raises(
        ConfigError, match=r"only main, residual and gated networks.*Unsavable"
    ):
        export_parts(plain, tmp_path / "a")
    with pytest.raises(ConfigError, match="solver settings"):
        make_predictor("plan", rtol=0.1)
    assert not (tmp_path / "a").exists()


def test_a_session_may_say_what_it_takes() -> None:
    session: Any = make_session()
    session.in_shape, session.in_dtype = (2, 3), torch.int32
    embed = session.begin
    session.begin = lambda inputs: embed(inputs.flatten(1))
    predictor = DynaLayPredictor(session, make_policy("plan"), penalty=0.1)
    tokens = make_tokens()
    expected = predictor.predict(tokens.reshape(-1, 2, 3))
    assert torch.equal(predictor.predict(tokens), expected)
    with pytest.raises(ConfigError, match="integers, encoded"):
        predictor.predict(tokens.float())
    with pytest.raises(ConfigError, match=r"\[n, 2, 3\]"):
        predictor.predict(tokens[:, :5])


def test_floats_of_any_session_must_be_finite() -> None:
    with pytest.raises(DataError, match="NaN or infinite"):
        make_predictor("plan").predict(torch.tensor([[1.0, torch.nan]]))
