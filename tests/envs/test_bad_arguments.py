"""Arguments that an environment cannot use: one line each, and none in silence."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import VectorizeMode
from torch import nn

from dynalay_gym.data.registry import DATASETS
from dynalay_gym.data.splits import Split, device_for, load_split
from dynalay_gym.envs.config import SHIPPED, EnvConfig, network_device
from dynalay_gym.envs.table import make_process
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.errors import ConfigError, DynaLayError
from dynalay_gym.networks.checkpoint import load_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.measure import row_bytes
from dynalay_gym.sessions.torch_session import TorchSession
from dynalay_gym.utils import memory
from dynalay_gym.utils.device import resolve_device

ID = "DynaLay/Digits-v0"
BAD: list[tuple[dict[str, Any], str]] = [
    ({"checkpoint": 123}, "int is no network"),
    ({"checkpoint": nn.Linear(2, 2)}, "Linear is no network"),
    ({"checkpoint": ""}, "no checkpoint"),
    ({"split": 3}, "split"),
    ({"data_dir": 5}, "data_dir"),
    ({"dataset": None}, "dataset"),
    ({"reward": []}, "reward"),
    ({"penalty": [0.1]}, "penalty"),
    ({"penalty": True}, "penalty"),
    ({"penalty": 1e39}, "penalty must be finite, from 0 to 1e\\+09"),
    ({"penalty": 10**400}, "penalty"),
    ({"penalty_unit": 1e-300}, "penalty_unit"),
    ({"alpha": 1e39}, "alpha"),
    ({"alpha": "much"}, "alpha must be a number"),
    ({"download": "no"}, "download must be true or false"),
    ({"recall": 1}, "recall must be true or false"),
    ({"observation": 3}, "observation must be one of 'flat', 'dict'"),
    ({"transitions": None}, "transitions must be one of 'live', 'table'"),
    ({"max_decisions": 10**9}, "max_decisions must be an integer <= 10000"),
    ({"max_decisions": 1.5}, "max_decisions must be an integer or None"),
    ({"max_decisions": True}, "max_decisions must be an integer or None"),
    ({"rtol": 1e-300, "max_steps": 10**18}, "max_steps must be an integer <= 10000"),
    ({"rtol": float("inf")}, "rtol must be a number <= 1"),
    ({"iterations_per_action": 0}, "iterations_per_action"),
    ({"max_steps": 9999, "iterations_per_action": 1}, "65,536 states.*max_steps"),
    ({"device": "meta"}, "use auto or cpu"),
    ({"device": "cuda:99"}, "use auto or cpu"),
    ({"device": "abacus"}, "try auto, cpu, cuda"),
    ({"device": None}, "try auto, cpu, cuda"),
]
ROWS = [0, -1, 2.5, True, "4", None, 10**7, 10**9, 2**63, 10**30]


@pytest.mark.parametrize(("config", "message"), BAD)
def test_a_bad_argument_is_refused_in_one_line(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(DynaLayError, match=message) as caught:
        gym.make(ID, **config)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"nonsense": 3}, "unexpected keyword argument 'nonsense'"),
        ({"transitions": "table", "render_mode": "rgb_array"}, "cannot be rendered"),
    ],
)
def test_a_keyword_that_does_not_fit_is_a_type_error(
    config: dict[str, Any], message: str
) -> None:
    """TorchRL's GymEnv and SB3's make_vec_env try keywords, and leave these out."""
    with pytest.raises(TypeError, match=message):
        gym.make(ID, **config)


@pytest.mark.parametrize("num_envs", ROWS)
def test_rows_that_are_no_number_or_too_many_are_refused(num_envs: Any) -> None:
    mode = VectorizeMode.VECTOR_ENTRY_POINT
    with pytest.raises(ConfigError, match="num_envs") as caught:
        gym.make_vec(ID, num_envs, vectorization_mode=mode)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("transitions", ["live", "table"])
def test_rows_are_refused_before_their_memory_is_taken(
    transitions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    envs = DynaLayVectorEnv(2, transitions=transitions)
    monkeypatch.setattr(memory, "available_memory", lambda: 2**20)
    assert make_process(envs.problem, 1024).num_rows == 1024
    with pytest.raises(ConfigError, match=r"2,000 rows would take.*--num-envs"):
        make_process(envs.problem, 2000)


@pytest.mark.parametrize("preset", ["digits", "paper"])
def test_the_memory_of_a_row_is_what_its_maps_take(preset: str) -> None:
    network = MainNetwork(make_config(preset, (1, 8, 8), 10))
    session = TorchSession(network)
    # Maps of the stem; visible, plain, hidden and injected ones of every layer; pooled
    # features, logits, residuals; state and padding.
    stem = 64 + (4 * 16 if preset == "digits" else 0)
    maps = {
        "digits": (2 * 3 * 64 + 2 * 8 * 16)
        + (2 * 4 * 16 + 2 * 12 * 16)
        + (2 * 6 * 16 + 2 * 16 * 16),
        "paper": 3 * 64 * 16 + 3 * 128 * 4 + 3 * 256,
    }[preset]
    features = {"digits": 13 + 36, "paper": 448}[preset]
    expected = 4 * (stem + maps + features + 10 + 3) + 2 * 8
    assert row_bytes(session, torch.zeros(1, 1, 8, 8)) == expected


def test_numbers_of_numpy_and_devices_of_torch_are_taken() -> None:
    envs = DynaLayVectorEnv(
        np.int64(2),  # type: ignore[arg-type]
        max_decisions=np.int32(3),
        penalty=np.float32(0.1),
        device=torch.device("cpu"),
    )
    assert (envs.max_decisions, envs.num_envs) == (3, 2)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="without an accelerator")
@pytest.mark.parametrize("device", ["mps", "cuda", "cuda:0", "xpu", "meta", "cpu:1"])
def test_devices_that_are_not_here_are_refused_everywhere(device: str) -> None:
    def load_predictor() -> None:
        DynaLayPredictor.load(SHIPPED / "digits", device=device)

    for use in (
        lambda: resolve_device(device),
        lambda: gym.make(ID, device=device),
        lambda: load_split("digits", "test", device=device),
        lambda: load_network(SHIPPED / "digits", device),
        load_predictor,
    ):
        with pytest.raises(ConfigError, match="use auto or cpu"):
            use()


def test_small_data_sets_stay_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = {name: device_for(name, "auto").type for name in DATASETS}
    assert {k for k, v in found.items() if v == "cpu"} == {
        "digits",
        "maze",
        "maze-hopeless",
        "chains",
        "sudoku",
        "sudoku6",
        "sudoku9",
    }
    assert set(found.values()) == {"cpu", "cuda"}
    assert device_for("cifar10", "cpu").type == "cpu"
    # Not so the user's own samples.
    own = Split(torch.zeros(4, 1, 8, 8), torch.arange(4))
    assert network_device(EnvConfig(split=own)).type == "cuda"
    assert network_device(EnvConfig()).type == "cpu"


@pytest.mark.gpu
def test_a_gpu_that_is_one_too_many_is_refused() -> None:
    number = torch.accelerator.device_count()
    assert resolve_device(f"cuda:{number - 1}").index == number - 1
    with pytest.raises(ConfigError, match="use auto or cpu or cuda"):
        resolve_device(f"cuda:{number}")
