"""What an epoch of the main network costs through chosen layers, and through all.

    python train_agent.py --algo policy-gradient --co-train
    python benchmarks/selective_cost.py --run runs/digits/co-policy-gradient/0 \
        --out benchmarks/results/selective-digits.json

The policy of the run's best pair decides on samples of the main split; the same batches
then go forward and backward in four ways. Multiply-adds are torch's count; times are of
the processor clock, medians of interleaved rounds on one thread.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agents.options import Options
from dynalay_gym.utils.io import write_json
from dynalay_gym.utils.metrics import run_metadata


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure the main network's passes per epoch."""

    run: Path
    """Run folder of a co-training."""
    out: Path
    """JSON file for the results."""
    batch_size: int = 128
    """Samples of a batch."""
    batches: int = 6
    """Batches per round."""
    rounds: int = 7
    """Interleaved rounds."""
    data_dir: Path | None = None
    """Folder of the data files."""


def main(args: Args) -> None:
    """Measure every way of learning from the same samples."""
    import torch

    torch.set_num_threads(1)
    ways, per_epoch, visited = build(args)
    rows: dict[str, dict[str, Any]] = {}
    for name, forward in ways.items():
        losses: list[Any] = []
        first = count(lambda forward=forward, losses=losses: losses.extend(forward()))
        back = count(lambda losses=losses: [loss.backward() for loss in losses])
        rows[name] = {"forward_macs": first, "backward_macs": back, "times": []}
    for _ in range(args.rounds):
        for name, forward in ways.items():
            rows[name]["times"].append(timed(forward))
    scale = per_epoch / args.batches
    for row in rows.values():
        times = np.array(row.pop("times")) * scale
        row["forward_seconds"], row["backward_seconds"] = np.median(times, 0).tolist()
        for key in ("forward_macs", "backward_macs"):
            row[key] *= scale
    facts = {"args": asdict(args), "environment": run_metadata()}
    write_json(args.out, facts | {"visited": visited, "ways": rows})
    print("per epoch           GMACs forward  backward   seconds forward  backward")
    for name, row in rows.items():
        print(
            f"{name:<20} {row['forward_macs'] / 1e9:10.2f} "
            f"{row['backward_macs'] / 1e9:9.2f} {row['forward_seconds']:15.2f} "
            f"{row['backward_seconds']:9.2f}"
        )
    print("visited:", " ".join(f"{share:.2f}" for share in visited))


def build(args: Args) -> tuple[dict[str, Callable[[], list[Any]]], float, list[float]]:
    """The ways to learn from such batches; batches per epoch; shares of states."""
    import torch
    from torch.nn import functional as F

    from agents.environments import make_envs
    from agents.joint_run import read_settings
    from agents.saving import load_agent
    from dynalay_gym.cotraining.collect import collect_states
    from dynalay_gym.cotraining.config import CoTrainingConfig
    from dynalay_gym.cotraining.trainer import CoTrainer
    from dynalay_gym.data.splits import load_split
    from dynalay_gym.fixed_point.solve import SolverConfig
    from dynalay_gym.networks.checkpoint import load_network
    from dynalay_gym.networks.selective import SelectiveNetwork

    dataset = read_settings(args.run)["options"]["dataset"]
    best = args.run / "best"
    options = Options(
        dataset=dataset, checkpoint=best / "main", data_dir=args.data_dir, device="cpu"
    )
    envs: Any = make_envs(options, "agent", None, 8)
    agent = load_agent(best / "agent", envs)
    data = load_split(dataset, "main", data_dir=args.data_dir)
    co = CoTrainingConfig(batch_size=args.batch_size)
    problem = CoTrainer(envs.unwrapped.problem, data, co, seed=0).problem
    source = torch.Generator().manual_seed(0)
    index = torch.randint(
        len(data), (args.batch_size * args.batches,), generator=source
    )
    states, *_ = collect_states(problem, agent.policy, index, 0.0, source)
    model = load_network(best / "main")[0]
    selective, top = SelectiveNetwork(model), 2**model.num_layers - 1
    own = model.config
    solver = SolverConfig(
        rtol=own.rtol, max_steps=own.max_steps, adjoint_rtol=0.1, adjoint_max_steps=4
    )
    parts = list(
        zip(index.split(args.batch_size), states.split(args.batch_size), strict=True)
    )

    def through(chosen_only: bool, everything: bool) -> list[Any]:
        losses = []
        for rows, at in parts:
            at = torch.full_like(at, top) if everything else at
            logits = selective.logits(
                data.inputs[rows], at, solver, chosen_only=chosen_only
            )
            losses.append(F.cross_entropy(logits, data.labels[rows]))
        return losses

    def every_state() -> list[Any]:
        model.train()
        return [
            torch.stack(
                [
                    F.cross_entropy(logits, data.labels[rows])
                    for logits in model.forward_paths(
                        data.inputs[rows], range(top + 1), solver
                    )
                ]
            ).mean()
            for rows, _ in parts
        ]

    ways = {
        "chosen (eq. 4)": lambda: through(True, False),
        "path": lambda: through(False, False),
        "full": lambda: through(False, True),
        "all states": every_state,
    }
    shares = torch.bincount(states, minlength=top + 1) / len(states)
    return ways, len(data) / args.batch_size, shares.tolist()


def count(work: Callable[[], Any]) -> float:
    """Multiply-adds of some work."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 2


def timed(forward: Callable[[], list[Any]]) -> tuple[float, float]:
    """Processor seconds of a forward and a backward pass."""
    began = time.process_time()
    losses = forward()
    between = time.process_time()
    for loss in losses:
        loss.backward()
    return between - began, time.process_time() - between


if __name__ == "__main__":
    main(tyro.cli(Args))
