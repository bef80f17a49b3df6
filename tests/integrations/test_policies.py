"""Policies that were made elsewhere, and their place in the table."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import make_vec
from stable_baselines3 import PPO
from torch import nn

import dynalay_gym
import evaluate as script
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.integrations.policies import FunctionPolicy, as_policy, load_policy
from dynalay_gym.integrations.sb3 import SB3VecEnv
from dynalay_gym.networks.policy import GreedyNetPolicy, PlanPolicy

MASK = {"action_mask": np.ones((3, 4), dtype=np.int8)}


def second(observations: Any) -> Any:
    return np.full(len(observations), 2)


def test_a_function_is_asked_for_actions() -> None:
    policy = as_policy(second)
    assert policy.name == "second" and policy.macs_per_decision == 0
    actions = policy.act(np.zeros((3, 5), dtype=np.float32), MASK)
    assert actions.dtype == np.int64 and actions.tolist() == [2, 2, 2]
    tensor = policy.act(torch.zeros(3, 5), MASK)
    assert isinstance(tensor, torch.Tensor) and tensor.tolist() == [2, 2, 2]
    assert as_policy(second, "other").name == "other"


@pytest.mark.parametrize("answer", [2, [1, 2], [0.5, 1.0, 2.0], np.zeros((3, 4)), None])
def test_a_function_has_to_return_an_integer_for_each_row(answer: Any) -> None:
    policy = FunctionPolicy(lambda seen: answer, name="odd")
    with pytest.raises(ConfigError, match="odd must return an integer for each of the"):
        policy.act(np.zeros((3, 5), dtype=np.float32), MASK)


def test_a_network_scores_actions() -> None:
    net = nn.Linear(5, 4)
    nn.init.zeros_(net.weight)
    net.bias.data = torch.tensor([0.0, 1.0, 3.0, 2.0])
    policy = as_policy(net, "net")
    assert isinstance(policy, GreedyNetPolicy) and policy.macs_per_decision == 20
    mask = np.ones((2, 4), dtype=np.int8)
    mask[1, 2] = 0
    actions = policy.act(np.zeros((2, 5), dtype=np.float32), {"action_mask": mask})
    assert actions.tolist() == [2, 3]


def test_a_model_is_shown_numpy_also_by_a_predictor() -> None:
    class Model:
        def predict(self, seen: Any, deterministic: bool) -> tuple[Any, None]:
            assert isinstance(seen, np.ndarray) and deterministic
            return np.full(len(seen), 2), None

    actions = as_policy(Model()).act(torch.zeros(3, 5), MASK)
    assert isinstance(actions, torch.Tensor) and actions.tolist() == [2, 2, 2]


def test_a_policy_is_taken_as_it_is() -> None:
    policy = PlanPolicy((1, 2))
    assert as_policy(policy) is policy
    assert as_policy(lambda seen: seen).name == "policy"
    with pytest.raises(ConfigError, match="needs name and macs_per_decision"):
        as_policy(type("Half", (), {"act": second}))
    with pytest.raises(ConfigError, match="no policy"):
        as_policy(3)


def test_a_model_of_stable_baselines3_is_asked_for_its_best_action() -> None:
    envs = SB3VecEnv(make_vec(4))
    model = PPO("MlpPolicy", envs, n_steps=8, batch_size=16, seed=0, device="cpu")
    policy = as_policy(model)
    assert policy.name == "PPO"
    test = make_vec(4, autoreset_mode="Disabled")
    mine = evaluate(test, policy)
    net = nn.Sequential(model.policy.mlp_extractor.policy_net, model.policy.action_net)
    theirs = evaluate(test, FunctionPolicy(best_of(net), name="net"))
    assert np.array_equal(mine.returns, theirs.returns)


def best_of(net: nn.Module) -> Any:
    @torch.no_grad()
    def choose(observations: Any) -> Any:
        return net(torch.as_tensor(observations)).argmax(1)

    return choose


def make_plan(env: Any) -> Any:
    """Return what evaluates layer 1 once, by the environment's layout."""
    assert env.num_actions == 4 and "max_prob" in env.observation_layout
    decisions = env.observation_layout["remaining"].start

    def choose(observations: Any) -> Any:
        return (observations[:, decisions] == 1).astype(int)

    return choose


def test_a_policy_by_the_name_of_its_function() -> None:
    env = make_vec(2, autoreset_mode="Disabled")
    policy = load_policy(f"{__name__}:make_plan", env)
    assert policy.name == "make_plan"
    assert (evaluate(env, policy).macs > 0).all()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("plan", "module:function"),
        (":make", "module:function"),
        ("no_such_module:make", "there is no no_such_module:make"),
        (f"{__name__}:none", "there is no"),
    ],
)
def test_a_name_that_leads_nowhere(place: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_policy(place, None)


def test_one_call_makes_the_table_and_its_files(tmp_path: Path) -> None:
    def stop(observations: Any) -> Any:
        return np.zeros(len(observations), dtype=int)

    found = dynalay_gym.compare(stop, "digits", log_dir=tmp_path, penalty=0.25)
    mine, nop = (
        next(row for row in found.rows if row["policy"] == name)
        for name in ("stop", "nop")
    )
    assert found.rows[0] is mine
    for key in ("accuracy", "compute", "return", "return_interval"):
        assert mine[key] == nop[key]
    assert {"always", "max-prob", "oracle"} <= {row["policy"] for row in found.rows}
    assert "stop" in str(found) and "penalty 0.25" in str(found)
    assert found.folder == tmp_path / "digits" / "stop" / "0"
    stored = json.loads((found.folder / "results.json").read_text("utf-8"))
    assert stored["policies"] == found.rows
    assert any(found.folder.glob("events.*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a/b"}, "names a folder"),
        ({"name": ".."}, "names a folder"),
        ({"name": "nop"}, "'nop' is a reference policy"),
        ({"split": "validation"}, "leave split out"),
        ({"colour": 1}, "unexpected keyword argument 'colour'"),
    ],
)
def test_what_cannot_be_compared(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        dynalay_gym.compare(second, "digits", log_dir=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dynalay_gym.compare(second, "digits").folder is None
    assert not list(tmp_path.iterdir())


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'compere'"):
        dynalay_gym.compere  # noqa: B018


def test_policies_are_evaluated_by_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataset", "digits", "--policy", f"{__name__}:make_plan"]
    monkeypatch.setattr(sys, "argv", ["e", *given, "--log-dir", str(tmp_path)])
    assert script.main() == 0
    printed = capsys.readouterr().out
    assert printed.count("\nmake_plan ") == 3  # frontiers, leads, and at the break-even
    folder = tmp_path / "digits" / "evaluation" / "0"
    summary = json.loads((folder / "evaluation.json").read_text("utf-8"))
    names = [row["policy"] for row in summary["frontiers"]]
    assert names[-1] == "make_plan" and (folder / "make_plan").is_dir()
