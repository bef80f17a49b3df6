"""RL Baselines3 Zoo: its own `train` command, with a file of our hyper-parameters."""

import sys
import tempfile
from pathlib import Path

import shared
from rl_zoo3.train import train
from shared import Act, Task, Training
from stable_baselines3 import PPO


def ppo(task: Task) -> Act:
    """Learn by the zoo's command line, and load the model that it leaves."""
    package, name = task.id.split(":")
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["train", "--algo", "ppo", "--env", name, "--gym-packages", package]
        sys.argv += ["--conf-file", str(Path(__file__).with_name("rl_zoo3.yml"))]
        sys.argv += ["--n-timesteps", str(task.decisions), "--seed", str(task.seed)]
        sys.argv += ["--env-kwargs", f"transitions:'{task.options['transitions']}'"]
        sys.argv += ["--log-folder", folder, "--eval-freq", "-1", "--device", "cpu"]
        train()
        (model,) = Path(folder).glob("ppo/*/*.zip")
        policy = PPO.load(model, device="cpu")
    return lambda observations, _: policy.predict(observations, deterministic=True)[0]


if __name__ == "__main__":
    shared.main("rl-zoo3", {"PPO": Training(ppo, autoreset="none")})
