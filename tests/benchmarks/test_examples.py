"""The examples run as printed in the README, here with a tiny budget."""

import re
import runpy
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dynalay_gym.envs.oracle import optimum
from dynalay_gym.networks.checkpoint import save_network
from dynalay_gym.networks.residual.config import ResidualConfig
from dynalay_gym.networks.residual.network import ResidualNetwork

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(autouse=True)
def _keep_global_state():
    """Scripts may set threads and seeds for the whole process."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


def run(name: str, *options: str, monkeypatch, capsys) -> str:
    """Run an example as a script and return what it prints."""
    path = EXAMPLES / name
    monkeypatch.setattr(sys, "argv", [str(path), *options])
    runpy.run_path(str(path), run_name="__main__")
    return capsys.readouterr().out


def returns(text: str) -> dict[str, float]:
    lines = re.findall(r"test return of (\w+): (-?[\d.]+)", text)
    return {name: float(value) for name, value in lines}


def test_own_algorithm_runs_and_compares(monkeypatch, capsys):
    text = run(
        "own_algorithm.py", "--updates", "20", monkeypatch=monkeypatch, capsys=capsys
    )
    assert "mean return of the last 20" in text
    assert set(returns(text)) == {"nop", "always", "learned"}


@pytest.mark.slow
def test_own_algorithm_learns_to_choose_per_input(monkeypatch, capsys):
    text = run(
        "own_algorithm.py", "--updates", "150", monkeypatch=monkeypatch, capsys=capsys
    )
    found = returns(text)
    assert found["learned"] > max(found["nop"], found["always"]) + 0.04


def test_fixed_point_layer_trains_and_is_a_contraction(monkeypatch, capsys):
    text = run(
        "fixed_point_layer.py", "--epochs", "3", monkeypatch=monkeypatch, capsys=capsys
    )
    accuracy = re.search(r"accuracy on \d+ test images: ([\d.]+) %", text)
    assert accuracy is not None
    assert float(accuracy[1]) > 60
    bounds = re.findall(r"certified bound of \|\|W\|\| ([\d.]+)", text)
    assert [float(bound) < 1 for bound in bounds] == [True, True]


def test_co_training_runs_under_an_own_loop(monkeypatch, capsys):
    text = run(
        "co_training.py", "--updates", "20", monkeypatch=monkeypatch, capsys=capsys
    )
    steps = [int(found) for found in re.findall(r"(\d+) steps", text)]
    assert steps == [10, 20]
    losses = [float(found) for found in re.findall(r"entropy ([\d.]+)", text)]
    assert len(losses) == 2
    assert max(losses) < 1


def test_blockdrop_chooses_all_blocks_at_once(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    config = ResidualConfig(
        in_shape=(1, 8, 8), num_classes=10, widths=(4, 6), depths=(1, 1)
    )
    save_network(tmp_path, ResidualNetwork(config).eval(), {})
    options = ("--dataset", "digits", "--checkpoint", str(tmp_path))
    budget = ("--total-timesteps", "512", "--num-envs", "64", "--penalty", "5")
    text = run(
        "blockdrop.py", *options, *budget, monkeypatch=monkeypatch, capsys=capsys
    )
    found = dict(re.findall(r"(\w[\w ]*\w|\w+) (-?[\d.e-]+)(?:,|$)", text.strip()))
    assert 0 <= float(found["accuracy"]) <= 100
    assert 0 <= float(found["blocks"]) <= 2
    assert 1 <= float(found["different choices"]) <= 4


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_offline_data_are_what_the_environment_does(monkeypatch, capsys, tmp_path):
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    text = run(
        *("offline_dataset.py", "--split", "validation", "--passes", "2"),
        monkeypatch=monkeypatch,
        capsys=capsys,
    )
    written = minari.load_dataset("dynalay/digits/random-v0")
    env = written.recover_environment()
    samples = env.unwrapped.num_samples
    assert f"{2 * samples} episodes" in text
    for number in (0, 7, samples + 7):
        episode = written[number]
        seen, _ = env.reset(options={"index": number % samples})
        steps = [env.step(int(action)) for action in episode.actions]
        assert [step[1] for step in steps] == pytest.approx(episode.rewards)
        expected = np.stack([seen, *(step[0] for step in steps)])
        assert np.allclose(episode.observations, expected, atol=1e-6)
        assert episode.terminations.tolist() == [step[2] for step in steps]


def test_the_exact_table_is_what_the_environment_does(monkeypatch, capsys, tmp_path):
    file = tmp_path / "table.safetensors"
    text = run(
        *("exact_table.py", "--split", "validation", "--file", str(file)),
        *("--episodes", "50"),
        monkeypatch=monkeypatch,
        capsys=capsys,
    )
    (differs,) = re.findall(r"differ by ([\d.e+-]+) at most", text)
    assert float(differs) < 1e-6
    table = load_file(file)
    envs = gym.make_vec("dynalay_gym:DynaLay/Digits-v0", num_envs=1, split="validation")
    best = optimum(envs.unwrapped).returns
    assert best_returns(table) == pytest.approx(best, abs=1e-6)


def best_returns(table):
    """Return the optimum of every sample by a sweep over the file alone."""
    rewards = table["rewards"].masked_fill(~table["allowed"], -torch.inf)
    values = torch.zeros(len(rewards), rewards.shape[1] + 1)  # the last is the end
    for node in reversed(range(rewards.shape[1])):
        following = values[:, table["children"][node]]
        values[:, node] = (rewards[:, node] + following).amax(1)
    return values[:, 0].numpy()
