"""Write an offline data set: all samples of a split, played at random (Minari).

Learners of offline reinforcement learning can read it without this package. Steps are
looked up in the table of the network's states, so that rewards are exact. Episode e is
of the sample e modulo the size of the split.

    pip install "minari[hdf5,create]"
    python examples/offline_dataset.py --dataset digits --passes 4

Axes: N rows, one sample each.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import tyro
from minari.data_collector import EpisodeBuffer

from dynalay_gym.data.registry import dataset_spec

ROWS = 500  # samples that are played side by side


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write episodes of random decisions in Minari's format."""

    dataset: str = "digits"
    """Name of the data set."""
    split: str = "agent"
    """Its samples: agent, validation or test."""
    passes: int = 4
    """Episodes of each sample."""
    seed: int = 0
    """Seed of the decisions."""


def play(
    envs: Any, samples: np.ndarray, first: int, generator: np.random.Generator
) -> list[EpisodeBuffer]:
    """Play one episode of useful random actions per row.

    Args:
        envs: Environment in SAME_STEP mode.
        samples: Places in the split, int64 [N].
        first: Number of the first episode.
        generator: Source of the actions.
    """
    seen, infos = envs.reset(options={"index": samples})
    episodes = [
        EpisodeBuffer(id=number, observations=[row], actions=[])
        for number, row in enumerate(seen, start=first)
    ]
    playing = np.ones(len(samples), dtype=bool)
    while playing.any():  # a row that ended is in its next episode
        chances = generator.random(infos["action_mask"].shape)
        actions = (chances * infos["action_mask"]).argmax(1)
        _, rewards, ends, cuts, infos = envs.step(actions)
        for row in playing.nonzero()[0]:
            episode: Any = episodes[row]
            episode.observations.append(infos["final_obs"][row].copy())
            episode.actions.append(actions[row])
            episode.rewards.append(rewards[row])
            episode.terminations.append(ends[row])
            episode.truncations.append(cuts[row])
        playing &= ~ends
    return episodes


def main(args: Args) -> None:
    """Play all samples, write the data set, and say what it holds."""
    env_id = f"dynalay_gym:{dataset_spec(args.dataset).env_id}"
    how: Any = {"split": args.split, "transitions": "table"}
    envs: Any = gym.make_vec(env_id, num_envs=ROWS, **how)
    generator, episodes = np.random.default_rng(args.seed), list[EpisodeBuffer]()
    samples = np.arange(envs.unwrapped.num_samples)
    for _ in range(args.passes):
        for start in range(0, len(samples), ROWS):
            part = samples[start : start + ROWS]
            whole = np.resize(part, ROWS)  # the last rows again where there are fewer
            episodes += play(envs, whole, len(episodes), generator)[: len(part)]
    written = minari.create_dataset_from_buffers(
        f"dynalay/{args.dataset}/random-v0",
        episodes,
        env=gym.make(env_id, split=args.split),
        algorithm_name="random useful actions",
        description=f"{args.split} split, {args.passes} episodes of each sample",
    )
    returns = [episode.rewards.sum() for episode in written.iterate_episodes()]
    print(f"{written.spec.data_path}: {len(returns)} episodes")
    print(f"{written.total_steps} decisions, mean return {np.mean(returns):.3f}")


if __name__ == "__main__":
    main(tyro.cli(Args))
