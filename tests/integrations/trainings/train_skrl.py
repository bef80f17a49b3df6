"""skrl: PPO on the vector environment, which `wrap_env` recognises by itself."""

import tempfile
from typing import Any

import gymnasium as gym
import shared
import torch
from shared import Act, Task, Training
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer


class Scores(CategoricalMixin, Model):
    """Scores of the actions."""

    def __init__(self, **spaces: Any) -> None:
        Model.__init__(self, **spaces)
        CategoricalMixin.__init__(self)
        self.net = shared.make_net(self.num_observations, self.num_actions)

    def compute(self, inputs: Any, role: str = "") -> Any:
        return self.net(inputs["observations"]), {}


class Value(DeterministicMixin, Model):
    """Value of an observation."""

    def __init__(self, **spaces: Any) -> None:
        Model.__init__(self, **spaces)
        DeterministicMixin.__init__(self)
        self.net = shared.make_net(self.num_observations, 1)

    def compute(self, inputs: Any, role: str = "") -> Any:
        return self.net(inputs["observations"]), {}


def ppo(task: Task) -> Act:
    """Learn with the library's PPO."""
    env = wrap_env(gym.make_vec(task.id, num_envs=shared.NUM_ENVS, **task.options))
    spaces = {"observation_space": env.observation_space}
    spaces |= {"action_space": env.action_space, "device": env.device}
    models = {"policy": Scores(**spaces), "value": Value(**spaces)}
    memory = RandomMemory(memory_size=shared.NUM_STEPS, num_envs=shared.NUM_ENVS)
    agent = PPO(models=models, memory=memory, cfg=settings(task), **spaces)
    options = {"timesteps": task.decisions // shared.NUM_ENVS}
    options["disable_progressbar"] = True
    SequentialTrainer(env=env, agents=agent, cfg=options).train()
    return shared.greedy(models["policy"].net)


def settings(task: Task) -> PPO_CFG:
    """Return PPO's settings; its records go into a folder that nobody needs."""
    config = PPO_CFG(
        rollouts=shared.NUM_STEPS,
        learning_epochs=shared.EPOCHS,
        mini_batches=shared.ROLLOUT // shared.BATCH_SIZE,
        discount_factor=shared.DISCOUNT,
        learning_rate=shared.LEARNING_RATE,
        learning_rate_scheduler=torch.optim.lr_scheduler.LinearLR,
        learning_rate_scheduler_kwargs={
            "start_factor": 1.0,
            "end_factor": 0.01,
            "total_iters": task.decisions // shared.ROLLOUT * shared.EPOCHS,
        },
        value_loss_scale=0.5,
    )
    config.experiment.directory = tempfile.mkdtemp()
    return config


if __name__ == "__main__":
    shared.main("skrl", {"PPO": Training(ppo, autoreset="SameStep")})
