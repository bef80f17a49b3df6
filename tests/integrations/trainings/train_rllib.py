"""RLlib (new API stack): PPO by id, with both ways in which it makes several."""

import shared
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from shared import Act, Task, Training


def learn(task: Task, vectorize_mode: str, **options: str) -> Act:
    """Learn in this process, from environments that Gymnasium's `make_vec` makes."""
    algorithm = (
        PPOConfig()
        .environment(task.id, env_config=task.options | options)
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=shared.NUM_ENVS,
            gym_env_vectorize_mode=vectorize_mode,
        )
        .training(
            lr=[[0, shared.LEARNING_RATE], [task.decisions, 0.0]],
            gamma=shared.DISCOUNT,
            lambda_=0.95,
            clip_param=0.2,
            grad_clip=0.5,
            train_batch_size_per_learner=shared.ROLLOUT,
            minibatch_size=shared.BATCH_SIZE,
            num_epochs=shared.EPOCHS,
        )
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64]))
        .debugging(seed=task.seed)
        .build_algo()
    )
    for _ in range(task.decisions // shared.ROLLOUT):
        algorithm.train()
    module = algorithm.get_module()

    def scores(observations: torch.Tensor) -> torch.Tensor:
        outputs = module.forward_inference({Columns.OBS: observations})
        return outputs[Columns.ACTION_DIST_INPUTS]

    return shared.greedy(scores)


def by_id(task: Task) -> Act:
    """Learn from single environments side by side, RLlib's default."""
    return learn(task, "sync")


def batched(task: Task) -> Act:
    """Learn from the batched form; RLlib expects NextStep and does not ask for it."""
    return learn(task, "vector_entry_point", autoreset_mode="NextStep")


TRAININGS = {
    "PPO": Training(by_id, autoreset="NextStep"),
    "PPO, vector_entry_point": Training(batched, autoreset="NextStep"),
}

if __name__ == "__main__":
    shared.main("ray", TRAININGS)
