"""Two processes that learn together, over gloo on the CPU."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dynalay_gym.cotraining.workers import Workers

ROOT = Path(__file__).parents[2]

# Each process chooses other layers; both must end with the same network.
SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path

import torch

from dynalay_gym.cotraining.workers import Workers
from tests.test_co_training import CONFIG, Plan, flat, make_envs, make_trainer
from tests.test_workers import averaged_by_hand

torch.set_num_threads(1)
workers = Workers.join("cpu")
assert workers.size == 2

layer = torch.nn.Linear(2, 2)
with torch.no_grad():
    layer.weight.fill_(1.0), layer.bias.fill_(0.0)
if workers.rank == 0:  # only here, and the bias nowhere
    layer.weight.grad = torch.full((2, 2), 3.0)
workers.average_gradients(layer.parameters())
assert torch.equal(layer.weight.grad, torch.full((2, 2), 1.5))
assert layer.bias.grad is None

plan = Plan(1) if workers.rank == 0 else Plan(3)
config = replace(CONFIG, epsilon_start=0.0)
trainer = make_trainer(make_envs(), config)
trainer.workers = workers
for _ in range(3):
    trainer.turn(plan, 8)
tensors, numbers = trainer.state()
assert tensors["replay"].shape[0] == 2
torch.save(flat(trainer.model), Path(sys.argv[1]) / f"{workers.rank}.pt")

# Equal to one process with both batches (statistics fixed, so batches do not mix).
config = replace(config, keep_share=0.0, replay_share=0.0)
trainer = make_trainer(make_envs(), config)
trainer.workers = workers
before = flat(trainer.model).clone()
trainer.turn(plan, 8)
expected = averaged_by_hand(config)
moved = (flat(trainer.model) - before).abs().max()
torch.testing.assert_close(flat(trainer.model), expected, rtol=0, atol=1e-6)
assert moved > 1e-4
assert workers.tell(f"said by {workers.rank}") == "said by 0"
workers.leave()
"""


def averaged_by_hand(config):  # type: ignore[no-untyped-def]
    """The same step with both processes' batches, in one process."""
    from tests.test_co_training import Plan, flat, make_envs, make_trainer

    trainers = []
    for rank, plan in enumerate((Plan(1), Plan(3))):
        one = make_trainer(make_envs(), config)
        one.workers = replace(Workers(), rank=rank)
        batches, _ = one._batches(plan, 1, 0.0, one._source())
        trainers.append((one, batches[0]))
    main = trainers[0][0]
    for one, (index, states) in trainers:
        del one
        (main._losses.chosen(index, states) / 2).backward()
    norm = config.max_grad_norm
    nn.utils.clip_grad_norm_(main.model.parameters(), norm)
    from dynalay_gym.networks.selective import hold_unused

    with hold_unused(main._pattern_rows):
        main._optimizer.step()
    return flat(main.model)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_together(arguments: list[str], folder: Path) -> list[str]:
    """Run a command as two processes; their outputs."""
    port = str(free_port())
    running = [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=os.environ
            | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(ROOT),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [one.communicate(timeout=240)[0] for one in running]
    for one, output in zip(running, outputs, strict=True):
        assert one.returncode == 0, output
    return outputs


def test_one_process_needs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = Workers.join("cpu")
    assert (alone.rank, alone.size) == (0, 1)
    layer = nn.Linear(2, 2)
    alone.average_gradients(layer.parameters())
    assert layer.weight.grad is None
    assert alone.tell("word") == "word"
    assert alone.gather(torch.ones(2)).shape == (1, 2)


def test_two_processes_learn_one_network(tmp_path: Path) -> None:
    """Their policies chose different layers, so gradients are missing on one side."""
    script = tmp_path / "both.py"
    script.write_text(SCRIPT)
    run_together([str(script), str(tmp_path)], tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)


@pytest.mark.slow
def test_the_script_under_torchrun_writes_once(tmp_path: Path) -> None:
    outputs = run_together(
        [
            str(ROOT / "train_agent.py"),
            *("--algo", "policy-gradient", "--co-train"),
            *("--total-timesteps", "1024", "--co.agent-steps", "512"),
            *("--co.validations", "2", "--device", "cpu"),
        ],
        tmp_path,
    )
    assert "best pair" in outputs[0]
    assert outputs[1] == ""
    assert len(list((tmp_path / "runs" / "digits").iterdir())) == 1
