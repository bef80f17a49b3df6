"""Returns, advantages, losses and the policy's distribution, worked out by hand."""

import math

import pytest
import torch
from helpers.problems import NeedEnv
from torch import nn
from torch.nn.utils import parameters_to_vector

from agents.policy_gradient.agent import PolicyGradientAgent
from agents.policy_gradient.config import PolicyGradientConfig
from agents.policy_gradient.losses import entropy, policy_gradient_loss, value_loss
from agents.policy_gradient.returns import discounted_returns, generalized_advantages
from agents.policy_gradient.rollout import (
    RolloutState,
    SamplingPolicy,
    collect_rollout,
    mix_epsilon,
    sample,
)
from dynalay_gym.errors import ConfigError, DivergedError
from dynalay_gym.networks.agent_net import AgentNet

REWARDS = torch.tensor([[1.0, -1.0], [2.0, 0.5], [4.0, 0.0]])  # [T=3, B=2]
ENDS = torch.tensor([[False, False], [True, False], [False, False]])
BOOTSTRAP = torch.tensor([10.0, 3.0])


def random_log_probs(rows: int, actions: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, actions, generator=generator).log_softmax(-1)


def test_undiscounted_returns_stop_at_terminations_and_bootstrap_the_rest():
    returns = discounted_returns(REWARDS, ENDS, BOOTSTRAP)
    assert returns.tolist() == [[3.0, 2.5], [2.0, 3.5], [14.0, 3.0]]


def test_discounted_returns():
    returns = discounted_returns(REWARDS, ENDS, BOOTSTRAP, discount=0.5)
    # Column 0: 1 + 0.5 * 2; 2; 4 + 0.5 * 10. Column 1: from the back 1.5, 1.25, -0.375.
    assert returns.tolist() == [[2.0, -0.375], [2.0, 1.25], [9.0, 1.5]]


def test_generalized_advantages_against_the_definition():
    values = torch.tensor([[0.5, 1.0], [1.0, 2.0], [3.0, 1.0]])
    advantages = generalized_advantages(REWARDS, values, ENDS, BOOTSTRAP, 1.0, 0.5)
    # Deltas, column 0: 1 + 1 - 0.5, 2 - 1, 4 + 10 - 3; column 1: -1 + 2 - 1,
    # 0.5 + 1 - 2, 0 + 3 - 1. Each A is its delta plus half the A after it.
    expected = [[2.0, 0.25], [1.0, 0.5], [11.0, 2.0]]
    assert advantages.tolist() == expected


def test_advantages_with_lambda_1_are_returns_minus_values():
    values = torch.randn(REWARDS.shape, generator=torch.Generator().manual_seed(1))
    advantages = generalized_advantages(REWARDS, values, ENDS, BOOTSTRAP)
    returns = discounted_returns(REWARDS, ENDS, BOOTSTRAP)
    torch.testing.assert_close(advantages, returns - values)


def test_losses():
    log_probs = torch.tensor([-1.0, -2.0], requires_grad=True)
    advantages = torch.tensor([3.0, -1.0], requires_grad=True)
    loss = policy_gradient_loss(log_probs, advantages)
    assert loss.item() == 0.5  # -(3 * -1 + -1 * -2) / 2
    loss.backward()
    assert log_probs.grad.tolist() == [-1.5, 0.5]
    assert advantages.grad is None
    values = torch.tensor([1.0, 2.0])
    assert value_loss(values, torch.tensor([2.0, 5.0])).item() == 2.5  # (1 + 9) / 4


def test_entropy_of_certain_masked_and_uniform_rows():
    log_probs = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [1 / 3] * 3]).log()
    log_probs.requires_grad_()
    expected = torch.tensor([math.log(2), 0.0, math.log(3)])
    result = entropy(log_probs)
    torch.testing.assert_close(result, expected)
    result.sum().backward()
    assert log_probs.grad.isfinite().all()


@pytest.mark.parametrize("num_actions", [2, 3, 4, 7])
def test_adaptive_softmax_is_a_distribution_that_starts_uniform(num_actions):
    net = AgentNet(5, num_actions, hidden=(16,))
    log_probs = net(torch.rand(6, 5))
    assert log_probs.shape == (6, num_actions)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(6))
    assert (log_probs.exp() - 1 / num_actions).abs().max() < 0.1


def test_two_actions_are_an_ordinary_softmax():
    net = AgentNet(5, 2, hidden=(8,))
    inputs = torch.rand(6, 5)
    logits = net.policy_head.head(net.torso(2 * inputs - 1))
    torch.testing.assert_close(net(inputs), logits.log_softmax(-1))


@pytest.mark.parametrize("num_actions", [2, 4])
def test_macs_of_a_decision(num_actions):
    # Four actions: {NOP, layer 1, token} and a tail of two; two: {NOP, token} and one.
    net = AgentNet(5, num_actions, hidden=(16, 8))
    assert net.macs == 5 * 16 + 16 * 8 + 8 * (num_actions + 1)


def test_too_small_networks_are_refused():
    for sizes in ((0, 4, (8,)), (5, 1, (8,)), (5, 4, ())):
        with pytest.raises(ValueError, match="AgentNet needs"):
            AgentNet(*sizes)


def test_epsilon_zero_is_the_policy_and_one_is_uniform_over_the_allowed():
    log_probs = random_log_probs(5, 4)
    everything = torch.ones(5, 4, dtype=torch.bool)
    some = everything.clone()
    some[:, 2] = False
    torch.testing.assert_close(mix_epsilon(log_probs, everything, 0.0), log_probs)
    uniform = mix_epsilon(log_probs, some, 1.0).exp()
    torch.testing.assert_close(uniform, torch.tensor([[1 / 3, 1 / 3, 0, 1 / 3]] * 5))
    half = mix_epsilon(log_probs, everything, 0.5).exp()
    torch.testing.assert_close(half, 0.5 * log_probs.exp() + 0.125)


def test_masked_actions_have_no_probability_and_no_gradient():
    log_probs = random_log_probs(5, 4).requires_grad_()
    mask = torch.tensor([[True, False, True, False]] * 5)
    for epsilon in (0.0, 0.3):
        mixed = mix_epsilon(log_probs, mask, epsilon)
        torch.testing.assert_close(mixed.exp().sum(-1), torch.ones(5))
        assert mixed[~mask].isneginf().all()
        (gradient,) = torch.autograd.grad(mixed[:, 0].sum(), log_probs)
        assert gradient.isfinite().all()
        assert (gradient[~mask] == 0).all()
        # What is acted on is, bit for bit, what is learned from.
        acted = mix_epsilon(log_probs.detach(), mask.to(torch.int8), epsilon)
        assert torch.equal(acted, mixed)


def test_samples_follow_the_probabilities():
    log_probs = torch.tensor([0.7, 0.2, 0.1]).log().expand(20_000, 3)
    actions = sample(log_probs, torch.Generator().manual_seed(0))
    shares = torch.bincount(actions, minlength=3) / len(actions)
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.2, 0.1]), atol=0.01, rtol=0)


def one_sample(num_envs: int) -> NeedEnv:
    """An env whose single sample needs layer 2: few enough episodes to enumerate."""
    envs = NeedEnv(num_envs, num_samples=1, output="torch")
    envs.needs[:] = 2
    return envs


def exact_return(policy: SamplingPolicy, plan: tuple[int, ...] = ()) -> torch.Tensor:
    """Expected return over all ways to go on from a list of actions."""
    envs = one_sample(1)
    observations, infos = envs.reset()
    earned, ended = 0.0, False
    for action in plan:
        observations, rewards, ends, _, infos = envs.step([action])
        earned, ended = earned + rewards.item(), bool(ends)
    if ended:
        return torch.tensor(earned)
    mask = infos["action_mask"].bool()
    chances = policy.log_probs(observations, mask)[0].exp()
    allowed = mask[0].nonzero().flatten().tolist()
    return sum(chances[a] * exact_return(policy, (*plan, a)) for a in allowed)


def test_the_estimator_is_the_gradient_of_the_expected_return():
    envs = one_sample(20_000)
    config = PolicyGradientConfig(hidden=(4,))
    agent = PolicyGradientAgent(envs, config, seed=3)
    generator = torch.Generator().manual_seed(0)
    policy = SamplingPolicy(agent.net, generator)
    policy.epsilon = 0.1
    weights = [*agent.net.torso.parameters(), *agent.net.policy_head.parameters()]
    exact = torch.autograd.grad(exact_return(policy), weights)
    # Every row's first episode, which ends within three steps.
    rollout = collect_rollout(envs, policy, 3, RolloutState.of(*envs.reset(seed=0)))
    ends = rollout.terminations
    first = ends.int().cumsum(0) - ends.int() == 0
    returns = discounted_returns(rollout.rewards, ends, torch.zeros(envs.num_envs))
    advantages = (returns - 0.2) * first  # less a constant baseline
    loss = agent.policy_terms(rollout, advantages, policy)["policy_loss"]
    estimate = torch.autograd.grad(-3 * loss, weights)  # the mean is over 3 steps
    flat, expected = parameters_to_vector(estimate), parameters_to_vector(exact)
    assert (flat - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(("limit", "scale"), [(10.0, 1.0), (1.0, 0.2)])
def test_gradients_are_scaled_where_they_are_too_long(limit, scale):
    config = PolicyGradientConfig(hidden=(4,), max_grad_norm=limit)
    agent = PolicyGradientAgent(NeedEnv(output="torch"), config)
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    for weight, gradient in zip(weights, (3.0, -4.0), strict=True):
        weight.grad = torch.tensor([gradient])
    assert agent.clip_gradients(weights) == 5.0
    found = torch.cat([weight.grad for weight in weights])
    torch.testing.assert_close(found, scale * torch.tensor([3.0, -4.0]))


def test_gradients_that_are_not_finite_name_the_flag():
    agent = PolicyGradientAgent(NeedEnv(output="torch"), PolicyGradientConfig())
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([1.0, torch.nan])
    with pytest.raises(DivergedError, match=r"--policy-gradient\.learning-rate"):
        agent.clip_gradients([weight])


def test_rollouts_add_up_what_belongs_to_the_same_episode():
    envs = NeedEnv(8, output="torch")
    policy = SamplingPolicy(AgentNet(envs.single_observation_space.shape[0], 3))
    state = RolloutState.of(*envs.reset(seed=0))
    rollout = collect_rollout(envs, policy, 20, state)
    for b in range(8):
        earned, length = 0.0, 0
        for t in range(20):
            assert rollout.earned[t, b].item() == pytest.approx(earned, abs=1e-6)
            earned, length = earned + rollout.rewards[t, b].item(), length + 1
            assert rollout.lengths[t, b].item() == length
            if rollout.terminations[t, b]:
                earned, length = 0.0, 0
    assert rollout.masks.gather(2, rollout.actions.unsqueeze(-1)).all()
    assert len(rollout.episode_returns) == rollout.terminations.sum()


def test_options_out_of_range_name_their_flag():
    with pytest.raises(ConfigError, match=r"--policy-gradient\.num-steps"):
        PolicyGradientConfig(num_steps=0)
    with pytest.raises(ConfigError, match=r"--policy-gradient\.epsilon-start"):
        PolicyGradientConfig(epsilon_start=1.5)
