"""What agents see, which weights are kept, which mazes are learned from."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.networks import make_vec
from torch import nn

from agents.options import Options
from benchmarks import agent_frontiers
from benchmarks.agent_frontiers import (
    Args,
    BestWeights,
    add_random_blocks,
    own_mazes,
    penalties_of,
    see_only,
)
from dynalay_gym.data.splits import load_split
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation.study import Study
from dynalay_gym.networks.agent_net import AgentNet

LAYOUT = {"activations": slice(0, 2), "max_prob": slice(2, 3)}
ENVS: Any = SimpleNamespace(unwrapped=SimpleNamespace(observation_layout=LAYOUT))


def test_an_agent_that_sees_a_part_stays_blind_to_the_rest() -> None:
    torch.manual_seed(0)
    net = AgentNet(3, 2)
    see_only(SimpleNamespace(net=net), ENVS, ("max_prob",))
    optimizer = torch.optim.Adam(net.parameters(), 0.1)
    net(torch.rand(5, 3))[:, 0].sum().backward()
    optimizer.step()
    seen = torch.tensor([[0.1, 0.9, 0.5], [0.7, 0.2, 0.5], [0.7, 0.2, 0.6]])
    first, second, other = net.torso(seen)
    assert torch.equal(first, second)
    assert not torch.equal(second, other)


def test_parts_that_there_are_not() -> None:
    with pytest.raises(ConfigError, match="some of activations, max_prob"):
        see_only(SimpleNamespace(net=AgentNet(3, 2)), ENVS, ("entropy",))


def test_the_best_weights_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    returns = iter([0.1, 0.3, 0.2])
    monkeypatch.setattr(
        agent_frontiers,
        "evaluate",
        lambda *_: SimpleNamespace(mean_return=next(returns)),
    )
    module = nn.Linear(1, 1, bias=False)
    agent = SimpleNamespace(module=module, policy=None)
    keeper = BestWeights(agent, ENVS, 100)
    for taken in (5, 10, 15, 20, 30):  # the first and the third are no tenths
        module.weight.data.fill_(taken)
        keeper.follow(taken)
    assert float(keeper.weights["weight"]) == 20


def test_penalties_of_a_frontier() -> None:
    assert penalties_of("0.5", "", (0.1, 0.2)) == (0.1, 0.2)
    along = penalties_of("0.01", "1", (0.1,))
    assert along[0::4] == pytest.approx((0.01, 0.1, 1.0))
    assert len(along) == 9


def test_a_figure_is_drawn(tmp_path: Path) -> None:
    point = {"compute": 1.0, "accuracy": 0.5, "accuracy_interval": [0.4, 0.6]}
    rows = [{"policy": name, "points": [point]} for name in ("nop", "always")]
    file = tmp_path / "new" / "figure.png"
    agent_frontiers.draw({"frontiers": rows}, "title", file)
    assert file.read_bytes().startswith(b"\x89PNG")


def test_own_mazes_are_none_of_the_test_split() -> None:
    args = Args(out=Path("x.json"), num_mazes=50, options=Options(dataset="maze"))
    own = {each.numpy().tobytes() for each in own_mazes(args)["agent"].inputs}
    others = load_split("maze", "test").inputs
    assert own.isdisjoint(each.numpy().tobytes() for each in others)
    assert len(own) == 50


def test_only_mazes_can_be_made() -> None:
    args = Args(out=Path("x.json"), num_mazes=50, options=Options(dataset="digits"))
    with pytest.raises(ConfigError, match="digits are no mazes"):
        own_mazes(args)


def test_flags_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--every must be 1 or more, not 0"):
        Args(out=tmp_path / "found.json", every=0)
    with pytest.raises(ConfigError, match="--wrapped needs --checkpoint"):
        Args(out=tmp_path / "found.json", wrapped=True)


def test_only_blocks_can_be_drawn() -> None:
    test = make_vec(2)
    with pytest.raises(ConfigError, match="--random-blocks needs a network of blocks"):
        add_random_blocks(Study(), test, (0,))
