"""All blocks decided on at once, by PPO of Stable-Baselines3 (as in BlockDrop).

    python examples/blockdrop.py --penalty 0.1

An episode is one image and one action: a bit per block. The reward is accuracy minus
compute; the blocks' states come from a table, so that no network runs in training.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from stable_baselines3 import PPO

from dynalay_gym.integrations.sb3 import SB3VecEnv

ID = "dynalay_gym:DynaLay/BlockDropCIFAR10-v0"


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train PPO to choose all blocks at once."""

    penalty: float = 0.1
    """Weight of compute in the reward."""
    total_timesteps: int = 1_000_000
    """Images to learn from, with repetition."""
    num_envs: int = 1024
    """Images that are decided on side by side."""
    seed: int = 0
    """Of the policy, and of the order of images."""
    checkpoint: Path | None = None
    """Folder of a residual network; the one that ships if not given."""
    dataset: str = "cifar10"
    """Its data set."""
    data_dir: Path | None = None
    """Folder of the data files."""


def main(args: Args) -> None:
    """Train on the agent split and print what the policy does on the test split."""
    torch.set_num_threads(1)
    options: dict[str, Any] = {
        "dataset": args.dataset,
        "checkpoint": args.checkpoint,
        "data_dir": args.data_dir,
        "penalty": args.penalty,
        "reward": "three-term",
        "transitions": "table",
    }
    envs = gym.make_vec(ID, num_envs=args.num_envs, **options)
    model = PPO(
        "MlpPolicy",
        SB3VecEnv(envs),
        n_steps=4,
        batch_size=args.num_envs,
        gamma=0.0,  # an episode is one step
        learning_rate=1e-3,
        seed=args.seed,
        device="cpu",
    )
    model.learn(args.total_timesteps)
    found = evaluate(model, options)
    print(", ".join(f"{name} {value:.4g}" for name, value in found.items()))


def evaluate(model: PPO, options: dict[str, Any]) -> dict[str, float]:
    """Return what the policy, without noise, does on every image of the test split."""
    off = "Disabled"
    envs: Any = gym.make_vec(
        ID, num_envs=1, split="test", autoreset_mode=off, **options
    )
    problem = envs.unwrapped.problem
    num = len(problem.labels)
    envs = gym.make_vec(ID, num_envs=num, split="test", autoreset_mode=off, **options)
    observations, _ = envs.reset(seed=0, options={"index": np.arange(num)})
    bits, _ = model.predict(observations, deterministic=True)
    _, rewards, _, _, infos = envs.step(bits)
    extra = infos["macs"].mean() / envs.unwrapped.always_extra_macs
    return {
        "accuracy": 100 * float(infos["correct"].mean()),
        "share of the extra multiply-adds": float(extra),
        "return": float(rewards.mean()),
        "blocks": float(bits.mean(0).sum()),
        "different choices": float(len(np.unique(bits, axis=0))),
    }


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
