"""Every algorithm's network becomes a policy that decides as the agent does."""

from pathlib import Path

import pytest
import torch
from helpers.networks import make_vec, shared_split

from agents.registry import config_classes, make_agent
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.networks.policy import GreedyNetPolicy
from dynalay_gym.predictor.policies import NetworkPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor


def run_agent(
    policy: GreedyNetPolicy, envs: DynaLayVectorEnv
) -> dict[str, torch.Tensor]:
    """Run every sample once; extra multiply-adds and answers."""
    n = envs.num_envs
    observations, infos = envs.reset(options={"index": list(range(n))})
    macs, running = torch.zeros(n, dtype=torch.int64), torch.ones(n, dtype=torch.bool)
    answers = torch.zeros_like(macs)
    while running.any():
        observations, _, ended, _, infos = envs.step(policy.act(observations, infos))
        macs += infos["final_info"]["macs"] * running
        answers[running] = infos["final_info"]["prediction"][running]
        running = running & ~ended
    return {"macs": macs, "answers": answers}


@pytest.mark.parametrize("algo", config_classes())
def test_every_agent_becomes_a_policy(
    algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path / "cache"))
    config = config_classes()[algo]()
    transitions = "table" if algo == "exact" else "live"
    train = make_vec(8, output=config.output, transitions=transitions)
    agent = make_agent(train, config, seed=1)
    predictor = DynaLayPredictor.from_env(make_vec(1), NetworkPolicy(agent.policy.net))
    assert predictor.policy.macs_per_decision == agent.policy.macs_per_decision
    expected = run_agent(agent.policy, make_vec(24, output="torch"))
    found = predictor.infer(shared_split().inputs)
    assert torch.equal(found.macs - predictor.session.plain_macs, expected["macs"])
    assert torch.equal(found.labels, expected["answers"])
