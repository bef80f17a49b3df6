"""A policy decides on samples of the main split: which state it leaves each of them in.

Axes: n samples.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.envs.process import DecisionProblem, LiveProcess
from dynalay_gym.networks.policy import Policy
from dynalay_gym.utils.finite import MEND_DATA, check_finite


@torch.no_grad()
def collect_states(
    problem: DecisionProblem,
    policy: Policy,
    index: Tensor,
    epsilon: float,
    generator: torch.Generator,
) -> tuple[Tensor, NDArray[np.float32], NDArray[np.int64]]:
    """Let a policy decide on samples until each has its answer.

    Args:
        problem: Samples and network.
        policy: Chooses the actions; no gradient reaches it.
        index: Samples, int64 [n] on the problem's device.
        epsilon: Share of the decisions, in [0, 1], that are drawn evenly from the
            useful actions instead.
        generator: Source of those and of the penalties, on the device.

    Returns:
        State in which each sample got its answer, int64 [n] on the device; sum of its
        rewards, float32 [n]; its multiply-adds, plain pass included, int64 [n].
    """
    device, process = index.device, LiveProcess(problem, len(index))
    low, high = problem.penalty_range
    penalty = torch.rand(len(index), generator=generator, device=device)
    penalty = low + (high - low) * penalty
    rows = np.arange(len(index))
    process.begin(rows, index.cpu().numpy(), penalty.cpu().numpy())
    returns, macs = np.zeros(len(index), np.float32), process.episode.macs.copy()
    while len(rows) > 0:
        infos = {k: torch.as_tensor(v).to(device) for k, v in process.infos().items()}
        seen = process.observe()
        check_finite("observation", seen, MEND_DATA, samples=index)
        actions = policy.act(seen, infos)
        useful = infos["action_mask"].float()
        drawn = torch.multinomial(useful, 1, generator=generator)[:, 0]
        explores = torch.rand(len(index), generator=generator, device=device) < epsilon
        actions = torch.where(explores, drawn, actions)
        rewards, stop = process.step(rows, actions.cpu().numpy()[rows])
        returns[rows] += rewards
        macs[rows] += process.episode.macs[rows]
        rows = rows[~stop]
    return torch.from_numpy(process.state_ids()).to(device), returns, macs
