"""The policies that everything else builds on, with arrays and with tensors."""

import numpy as np
import pytest
import torch
from torch import nn

from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.agent_net import AgentNet
from dynalay_gym.networks.policy import GreedyNetPolicy, PlanPolicy, as_numpy, like


def infos(decisions, index, kind):
    values = {"decisions": np.array(decisions), "index": np.array(index)}
    return {name: kind(value) for name, value in values.items()}


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_a_plan_is_followed_and_then_stops(kind):
    rows = kind(np.zeros((4, 2), dtype=np.float32))
    policy = PlanPolicy((2, 1), name="mine")
    actions = policy.act(rows, infos([0, 1, 2, 9], [0, 0, 5, 7], kind))
    assert type(actions) is type(rows)
    assert actions.tolist() == [2, 1, 0, 0]
    assert policy.name == "mine"
    assert policy.macs_per_decision == 0
    plans = policy.plans(rows[:2], infos([0, 0], [0, 1], kind))
    assert plans.tolist() == [[2, 1, 0], [2, 1, 0]]


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_a_plan_per_sample_is_looked_up(kind):
    rows = kind(np.zeros((3, 2), dtype=np.float32))
    policy = PlanPolicy([[1, 2], [3, 0], [0, 0]])
    asked = infos([0, 0, 1], [1, 2, 0], kind)
    assert policy.act(rows, asked).tolist() == [3, 0, 2]
    assert policy.plans(rows, asked).tolist() == [[3, 0, 0], [0, 0, 0], [1, 2, 0]]


def test_a_sample_without_a_plan_is_named():
    rows, policy = np.zeros((1, 2), dtype=np.float32), PlanPolicy([[1], [0]])
    for method in (policy.act, policy.plans):
        with pytest.raises(ConfigError, match=r"2 samples.*sample 2"):
            method(rows, infos([0], [2], np.asarray))


def test_an_empty_plan_stops_at_once():
    rows = np.zeros((2, 1), dtype=np.float32)
    assert (
        PlanPolicy(()).act(rows, infos([0, 3], [0, 0], np.asarray)).tolist() == [0] * 2
    )


@pytest.mark.parametrize("plan", [1, [0.5], ["a"], [[[1]]], [True]])
def test_what_is_no_plan_is_refused(plan):
    with pytest.raises(ConfigError, match="a plan is integers"):
        PlanPolicy(plan)


def test_greedy_takes_the_best_allowed_action():
    net = AgentNet(5, 4)
    inputs = torch.rand(8, 5)
    mask = torch.ones(8, 4, dtype=torch.int8)
    policy = GreedyNetPolicy(net, name="greedy")
    best = policy.act(inputs, {"action_mask": mask})
    assert torch.equal(best, net(inputs).argmax(-1))
    mask[torch.arange(8), best] = 0
    second = policy.act(inputs.numpy(), {"action_mask": mask.numpy()})
    assert isinstance(second, np.ndarray)
    assert (second == net(inputs).topk(2).indices[:, 1].numpy()).all()


def test_greedy_follows_its_network_through_training():
    net = nn.Linear(3, 2)
    policy, inputs = GreedyNetPolicy(net, name="greedy"), torch.rand(1, 3)
    mask = {"action_mask": torch.ones(1, 2)}
    before = policy.act(inputs, mask)
    with torch.no_grad():
        net.weight.neg_()
        net.bias.neg_()
    assert policy.act(inputs, mask) == 1 - before


def test_the_price_of_a_decision():
    perceptron = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    assert GreedyNetPolicy(perceptron, name="mlp").macs_per_decision == 5 * 7 + 7 * 3
    net = AgentNet(5, 4, hidden=(8,))  # its value network does not decide
    assert GreedyNetPolicy(net, name="net").macs_per_decision == net.macs
    asked = GreedyNetPolicy(net, name="net", macs_per_decision=9)
    assert asked.macs_per_decision == 9


def test_values_take_the_kind_of_a_reference():
    assert isinstance(like(torch.ones(2), np.zeros(1)), np.ndarray)
    assert isinstance(like(np.ones(2), torch.zeros(1)), torch.Tensor)
    assert as_numpy(torch.ones(2, requires_grad=True)).tolist() == [1, 1]
