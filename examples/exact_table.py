"""Write all that can be decided on the samples of a split as one table, and check it.

A node is what a policy can tell apart: what the network has done, the decisions taken,
the last action and how often in a row it was chosen. There are few, the same for all
samples, so that a file holds every observation and every reward: a learner needs no
environment, and an exact optimum is a sweep from the last node to the first.

    python examples/exact_table.py --dataset digits --split validation

What is in the file (safetensors):

    observations  float32 [n, K, D]   what is seen at a node; node 0 is the start
    rewards       float32 [n, K, A]   what an action is paid there
    allowed       bool [n, K, A]      whether it can change something; 0 always is
    children      int64 [K, A]        the node that it leads to; -1 at the end
    state         int64 [K]           the network's state, a row of `next_state`
    next_state    int64 [S, A]        the network's automaton
    labels        int64 [n]           classes

Its metadata name the environment's id, the split, the penalty and the actions.

Axes: n samples, K nodes, A actions, S states, D observation features.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from safetensors import safe_open
from safetensors.torch import save_file

from dynalay_gym.data.registry import dataset_spec
from dynalay_gym.envs.oracle import decision_tree


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write the exact table of a split."""

    dataset: str = "digits"
    """Name of the data set."""
    split: str = "agent"
    """Its samples: agent, validation or test."""
    file: Path = Path("table.safetensors")
    """Where it is written."""
    episodes: int = 200
    """Random episodes in the environment that the file is compared with."""


def write(envs: Any, file: Path, facts: dict[str, Any]) -> None:
    """Write the table of an environment's split.

    Args:
        envs: Batched environment with one penalty, on a transition table.
        file: The file.
        facts: What its metadata say.
    """
    problem, tree = envs.problem, decision_tree(envs)
    samples = torch.arange(tree.num_samples)
    penalty = torch.full(samples.shape, problem.penalty_range[0])
    tensors = {
        "observations": tree.observations(samples, penalty),
        "rewards": tree.rewards(samples, penalty),
        "allowed": tree.allowed(samples) & tree.nodes.allowed,
        "children": tree.nodes.children,
        "state": tree.nodes.state,
        "next_state": torch.from_numpy(problem.session.next_state),
        "labels": problem.labels,
    }
    packed = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(packed, file, {name: json.dumps(fact) for name, fact in facts.items()})


def largest_difference(env: Any, file: Path, episodes: int) -> float:
    """Return by how much rewards and observations of random episodes differ at most.

    Args:
        env: The environment; it runs the network.
        file: What `write` wrote.
        episodes: Their number.
    """
    with safe_open(file, framework="numpy") as read:
        names = ("observations", "rewards", "allowed", "children", "labels")
        seen, rewards, allowed, children, labels = map(read.get_tensor, names)
    generator, worst = np.random.default_rng(0), 0.0
    for sample in generator.integers(len(labels), size=episodes):
        observation, _ = env.reset(options={"index": int(sample)})
        node, ended = 0, False
        while not ended:
            worst = max(worst, float(abs(observation - seen[sample, node]).max()))
            action = generator.choice(allowed[sample, node].nonzero()[0])
            observation, reward, ended, _, _ = env.step(int(action))
            worst = max(worst, abs(reward - float(rewards[sample, node, action])))
            node = children[node, action]
        assert node == -1, "the table ends where the episode does"
    return worst


def main(args: Args) -> None:
    """Write the table, compare it with the environment, and say what it holds."""
    env_id = f"dynalay_gym:{dataset_spec(args.dataset).env_id}"
    how: Any = {"split": args.split, "transitions": "table"}
    envs: Any = gym.make_vec(env_id, num_envs=1, **how).unwrapped
    problem = envs.problem
    facts = {
        "environment": env_id,
        "split": args.split,
        "penalty": problem.penalty_range[0],
        "actions": problem.session.action_names,
    }
    write(envs, args.file, facts)
    size = args.file.stat().st_size / 2**20
    print(f"{args.file}: {len(problem.labels)} samples, {size:.1f} MiB")
    live = gym.make(env_id, split=args.split)
    worst = largest_difference(live, args.file, args.episodes)
    print(f"{args.episodes} episodes in the environment differ by {worst:.1e} at most")


if __name__ == "__main__":
    main(tyro.cli(Args))
