"""A new algorithm is one file and one line: command line, saving and loading follow."""

import sys
from pathlib import Path
from typing import Any

import pytest
import tyro
from gymnasium.vector import AutoresetMode
from helpers.problems import NeedEnv

from agents import registry, run
from agents.config import AgentConfig
from agents.options import Options, default_configs
from agents.saving import load_agent, save_agent
from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.utils import memory

NEW_FILE = '''
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from agents.base import sizes
from agents.config import AgentConfig
from dynalay_gym.networks.policy import GreedyNetPolicy


@dataclass(frozen=True, kw_only=True)
class StayConfig(AgentConfig):
    """Options of an algorithm that learns to stop."""

    algo: ClassVar[str] = "stay"
    agent: ClassVar[str] = "new_algorithm:StayAgent"

    total_timesteps: int = 10
    """Decisions to train on."""
    hidden: tuple[int, ...] = (4,)
    """Not used."""
    strength: float = 1.0
    """How much it learns."""

    @property
    def steps_per_turn(self) -> int:
        return 1


class StayAgent:
    def __init__(self, envs, config, *, seed=0):
        self.config, self.module = config, nn.Linear(*sizes(envs))
        self.policy = GreedyNetPolicy(self.module, name=config.algo)

    def learn(self, total_timesteps, *, writer=None, on_progress=None):
        with torch.no_grad():
            self.module.bias[0] += 1e3 * self.config.strength
        on_progress(total_timesteps)
'''


@pytest.fixture
def stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new_algorithm.py").write_text(NEW_FILE)
    monkeypatch.syspath_prepend(tmp_path)
    line = ("new_algorithm:StayConfig",)
    monkeypatch.setattr(registry, "ALGORITHMS", registry.ALGORITHMS + line)
    yield
    sys.modules.pop("new_algorithm", None)


@pytest.mark.usefixtures("stay")
def test_a_new_algorithm_is_one_file_and_one_line(tmp_path: Path) -> None:
    given = ["--algo", "stay", "--stay.strength", "2"]
    options = tyro.cli(Options, args=given)
    options.check()
    config = options.config()
    assert (config.algo, config.strength, config.total_timesteps) == ("stay", 2.0, 10)
    agent = registry.make_agent(NeedEnv(), config)
    agent.learn(10, on_progress=lambda taken: None)
    save_agent(tmp_path, agent, NeedEnv(), {})
    loaded = load_agent(tmp_path, NeedEnv())
    assert loaded.config == config
    envs = NeedEnv(autoreset_mode=AutoresetMode.DISABLED)
    assert evaluate(envs, loaded.policy).actions[:, 1:].sum() == 0


@pytest.mark.usefixtures("stay")
def test_a_network_that_no_predictor_runs_does_not_end_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tyro.cli(Options, args=["--algo", "stay"]).config()
    agent: Any = registry.make_agent(NeedEnv(), config)
    nothing_is_asked_of_envs: Any = None
    run.save_predictor(tmp_path / "p", agent, nothing_is_asked_of_envs)
    assert "no predictor is written: a network policy takes" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_every_algorithm_has_a_name_defaults_and_a_class_of_its_own() -> None:
    configs = default_configs()
    assert list(configs) == ["policy-gradient", "exact", "ppo", "a2c", "dqn"]
    for algo, config in configs.items():
        assert isinstance(config, AgentConfig)
        assert type(config) is registry.config_classes()[algo]
        assert config.steps_per_turn > 0
        assert config.total_timesteps > 0


def test_what_others_must_know_of_an_algorithm_is_on_its_config() -> None:
    configs = default_configs()
    assert [n for n, c in configs.items() if c.output == "torch"] == ["policy-gradient"]
    assert [n for n, c in configs.items() if c.needs_table] == ["exact"]
    assert not any(config.needs_baseline_envs for config in configs.values())
    greedy = type(configs["policy-gradient"])(baseline="greedy")
    assert greedy.needs_baseline_envs


@pytest.mark.parametrize("algo", ["policy-gradient", "exact", "ppo", "a2c", "dqn"])
def test_options_out_of_range_name_their_flag(algo: str) -> None:
    kind = registry.config_classes()[algo]
    with pytest.raises(ConfigError, match=rf"--{algo}\.learning-rate must be a number"):
        kind(learning_rate=0.0)
    with pytest.raises(ConfigError, match=rf"--{algo}\.hidden"):
        kind(hidden=(16, 0))


@pytest.mark.parametrize(
    ("algo", "changes", "kept", "learned"),
    [
        ("policy-gradient", {"num_steps": 5}, 50, 50),
        ("ppo", {"n_steps": 5, "batch_size": 8}, 50, 8),
        ("ppo", {"n_steps": 5}, 50, 50),
        ("a2c", {"n_steps": 5}, 50, 50),
        ("dqn", {"buffer_size": 70, "batch_size": 8}, 70, 8),
    ],
)
def test_the_memory_of_a_training_is_known_before(
    algo: str,
    changes: dict[str, int],
    kept: int,
    learned: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = registry.config_classes()[algo](hidden=(6, 4), **changes)
    assert (config.num_kept(10), config.num_learned(10)) == (kept, learned)
    # Two networks of 7-6-4-3, four numbers per weight; two observations of 7 features
    # and eight numbers per action; four per unit of the hidden layers.
    weights, decision = 7 * 6 + 6 * 4 + 4 * 3, 2 * 7 + 8 * 3
    needed = 4 * (8 * weights + kept * decision + learned * 4 * 10)
    monkeypatch.setattr(memory, "available_memory", lambda: needed)
    config.check_memory(10, 7, 3)
    monkeypatch.setattr(memory, "available_memory", lambda: needed - 1)
    with pytest.raises(ConfigError, match=rf"--num-envs, .* --{algo}\.\*"):
        config.check_memory(10, 7, 3)
