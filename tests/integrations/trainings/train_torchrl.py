"""TorchRL: PPO on `GymEnv`, which is given the id of the single environment."""

from collections.abc import Iterator

import shared
import torch
from shared import Act, Task, Training
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torch.distributions import OneHotCategorical
from torchrl.collectors import Collector
from torchrl.envs import EnvBase, GymEnv
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE


def ppo(task: Task) -> Act:
    """Learn with the library's collector, advantages and loss."""
    env = GymEnv(task.id, **task.options)
    env.set_seed(task.seed)
    features = env.observation_spec["observation"].shape[-1]
    scores = shared.make_net(features, env.action_spec.shape[-1])
    loss = make_loss(env, scores, shared.make_net(features, 1))
    update(env, loss, task.decisions // shared.ROLLOUT)
    return shared.greedy(scores)


def make_loss(
    env: EnvBase, scores: torch.nn.Module, value: torch.nn.Module
) -> ClipPPOLoss:
    """Return the loss over an actor and a critic."""
    actor = ProbabilisticActor(
        TensorDictModule(scores, in_keys=["observation"], out_keys=["logits"]),
        spec=env.action_spec,
        in_keys=["logits"],
        distribution_class=OneHotCategorical,
        return_log_prob=True,
    )
    critic = ValueOperator(value, in_keys=["observation"])
    return ClipPPOLoss(
        actor, critic, entropy_coeff=0.0, critic_coeff=0.5, normalize_advantage=True
    )


def update(env: EnvBase, loss: ClipPPOLoss, rollouts: int) -> None:
    """Learn from a number of rollouts."""
    frames = {"frames_per_batch": shared.ROLLOUT}
    frames["total_frames"] = rollouts * shared.ROLLOUT
    collector = Collector(env, loss.actor_network, **frames)
    advantage = GAE(
        gamma=shared.DISCOUNT, lmbda=0.95, value_network=loss.critic_network
    )
    optimizer = torch.optim.Adam(loss.parameters(), lr=shared.LEARNING_RATE)
    falls = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, rollouts)
    for rollout in collector:
        for _ in range(shared.EPOCHS):
            with torch.no_grad():
                advantage(rollout)
            for batch in batches(rollout):
                terms = loss(batch)
                total = sum(term for name, term in terms.items() if "loss_" in name)
                optimizer.zero_grad()
                total.backward()
                torch.nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
                optimizer.step()
        falls.step()
    collector.shutdown()


def batches(rollout: TensorDictBase) -> Iterator[TensorDictBase]:
    """Yield the rows of a rollout in random batches."""
    for rows in torch.randperm(len(rollout)).split(shared.BATCH_SIZE):
        yield rollout[rows]


if __name__ == "__main__":
    shared.main("torchrl", {"PPO": Training(ppo, autoreset="none")})
