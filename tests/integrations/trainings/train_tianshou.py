"""Tianshou: PPO on single environments side by side, which its collector resets."""

import gymnasium as gym
import shared
from shared import Act, Task, Training
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory, LRSchedulerFactoryLinear
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
from torch import nn


def ppo(task: Task) -> Act:
    """Learn with the library's collector and trainer."""
    makers = [lambda: gym.make(task.id, **task.options)] * shared.NUM_ENVS
    envs = DummyVectorEnv(makers)
    envs.seed(task.seed)
    algorithm = make_ppo(makers[0](), task)
    buffer = VectorReplayBuffer(shared.ROLLOUT, shared.NUM_ENVS)
    algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=Collector(algorithm, envs, buffer),
            max_epochs=1,
            epoch_num_steps=task.decisions,
            collection_step_num_env_steps=shared.ROLLOUT,
            batch_size=shared.BATCH_SIZE,
            update_step_num_repetitions=shared.EPOCHS,
            verbose=False,
            show_progress=False,
        )
    )
    return shared.greedy(lambda observations: algorithm.policy.actor(observations)[0])


def make_ppo(env: gym.Env, task: Task) -> PPO:
    """Return PPO over an actor and a critic for an environment's spaces."""
    actor = DiscreteActor(
        preprocess_net=make_net(env),
        action_shape=env.action_space.n,
        softmax_output=False,
    )
    optimizer = AdamOptimizerFactory(lr=shared.LEARNING_RATE)
    falls = LRSchedulerFactoryLinear(1, task.decisions, shared.ROLLOUT)
    return PPO(
        policy=DiscreteActorPolicy(actor=actor, action_space=env.action_space),
        critic=DiscreteCritic(preprocess_net=make_net(env)),
        optim=optimizer.with_lr_scheduler_factory(falls),
        gamma=shared.DISCOUNT,
        ent_coef=0.0,
        max_grad_norm=0.5,
    )


def make_net(env: gym.Env) -> Net:
    """Return the hidden layers of a network."""
    shape = env.observation_space.shape
    return Net(state_shape=shape, hidden_sizes=[64, 64], activation=nn.Tanh)


if __name__ == "__main__":
    shared.main("tianshou", {"PPO": Training(ppo, autoreset="none")})
