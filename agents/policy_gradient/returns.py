"""Returns and advantages of time-major rollouts: pure functions.

Axes: T rollout steps, B sub-environments. A termination at step t means that nothing
after t belongs to the same episode. The environments never truncate, so there is
nothing to bootstrap inside a rollout, only after its last step.
"""

import torch
from torch import Tensor


def discounted_returns(
    rewards: Tensor,
    terminations: Tensor,
    bootstrap_value: Tensor,
    discount: float = 1.0,
) -> Tensor:
    """Return the rewards still to come [T, B] at every step of a rollout.

    G_t = r_t + discount * (1 - terminated_t) * G_{t+1}, with G_T = bootstrap_value

    Args:
        rewards: Float [T, B].
        terminations: Bool [T, B].
        bootstrap_value: Estimated return [B] after the last step; it counts only
            where the last step did not end an episode.
        discount: Weight of the next step; 1 for DynaLay.
    """
    weights = discount * ~terminations
    following, returns = bootstrap_value, []
    steps = zip(rewards.unbind(), weights.unbind(), strict=True)
    for reward, weight in reversed(list(steps)):
        following = torch.addcmul(reward, weight, following)
        returns.append(following)
    return torch.stack(returns[::-1])


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    terminations: Tensor,
    bootstrap_value: Tensor,
    discount: float = 1.0,
    gae_lambda: float = 1.0,
) -> Tensor:
    """Return generalised advantage estimates [T, B].

    A_t = delta_t + discount * gae_lambda * (1 - terminated_t) * A_{t+1} with
    delta_t = r_t + discount * (1 - terminated_t) * V_{t+1} - V_t

    Args:
        rewards: Float [T, B].
        values: Estimated returns V_t [T, B].
        terminations: Bool [T, B].
        bootstrap_value: V_T [B].
        discount: Weight of the next step.
        gae_lambda: Weight of later errors; 1 gives G_t - V_t, 0 gives delta_t.

    References:
        Schulman et al. (2016), High-dimensional continuous control using generalized
        advantage estimation, equation 16.
    """
    next_values = torch.cat([values[1:], bootstrap_value.unsqueeze(0)])
    next_values = torch.where(terminations, 0.0, next_values)
    deltas = rewards + discount * next_values - values
    return discounted_returns(
        deltas, terminations, torch.zeros_like(bootstrap_value), discount * gae_lambda
    )
