# ruff: noqa: E402 - nothing is imported without Numba
"""The compiled session does what PyTorch's does; only roundings differ."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.networks import random_images, random_model, tiny_config
from torch import nn

numba = pytest.importorskip("numba")

from dynalay_gym.networks.layers.conv import WideStreamLayer
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.sessions.accel import session as compiled_session
from dynalay_gym.sessions.accel.session import CompiledSession, applies_to
from dynalay_gym.sessions.fastest import fastest_session
from dynalay_gym.sessions.main_state import MainState
from dynalay_gym.sessions.protocol import StepCost
from dynalay_gym.sessions.torch_session import TorchSession

ROOT = Path(__file__).parents[2]
CONFIGS = {
    "tiny-wide": tiny_config("wide"),
    "tiny-state": tiny_config("state"),
    "with-stem": tiny_config("wide", stem=5, stem_stride=2, pools=(1, 1, 1)),
    "state-with-stem": tiny_config("state", stem=3, stem_stride=2),
    "odd-size": tiny_config("wide", in_shape=(2, 14, 14)),
    "one-layer": tiny_config(
        "wide", channels=(3,), strides=(2,), hidden=(20,), pools=(1,)
    ),
    "digits": make_config("digits", (1, 8, 8), 10),
    "small-32": make_config("small", (3, 32, 32), 10),
    "small-28": make_config("small", (1, 28, 28), 10),
    "paper": make_config("paper", (1, 28, 28), 10),
}


def assert_close(mine: MainState, other: MainState) -> None:
    """Same answers and maps, but for roundings."""
    tolerance = {"rtol": 1e-4, "atol": 2e-5}
    for field in ("pooled", "logits", "residual"):
        found, expected = getattr(mine, field), getattr(other, field)
        torch.testing.assert_close(found, expected, **tolerance)
    assert torch.equal(mine.state_id, other.state_id)
    rows = torch.arange(len(mine.state_id))
    for i in range(1, len(mine.layers)):
        found, expected = (state.layers[i].read(rows) for state in (mine, other))
        torch.testing.assert_close(found.u, expected.u, **tolerance)
        torch.testing.assert_close(found.y, expected.y, **tolerance)
        solved = (mine.state_id >> (i - 1) & 1).nonzero()[:, 0]
        for part, other_part in ((found.h, expected.h), (found.x, expected.x)):
            if len(solved) > 0 and other_part is not None:
                assert part is not None
                torch.testing.assert_close(
                    part[solved], other_part[solved], **tolerance
                )


def assert_same_cost(found: StepCost, expected: StepCost) -> None:
    for name in ("macs", "solver_steps", "status", "already_iterated"):
        mine, other = getattr(found, name), getattr(expected, name)
        assert mine.dtype == other.dtype
        assert torch.equal(mine, other), name


@pytest.mark.parametrize("name", CONFIGS)
def test_every_choice_does_and_costs_what_pytorchs_does(name: str) -> None:
    network = random_model(CONFIGS[name])
    assert applies_to(network)
    images = random_images(network.config, 9)
    sessions = [kind(network, rtol=0.03) for kind in (CompiledSession, TorchSession)]
    mine, other = (session.begin(images) for session in sessions)
    assert_close(mine, other)
    generator = torch.Generator().manual_seed(0)
    num_actions = len(sessions[0].action_names)
    for _ in range(8):
        actions = torch.randint(0, num_actions, (9,), generator=generator)
        rows = torch.randperm(9, generator=generator)[:7]
        costs = [
            session.apply(state, rows, actions[rows])
            for session, state in zip(sessions, (mine, other), strict=True)
        ]
        assert_same_cost(*costs)
        assert_close(mine, other)
    rows = torch.tensor([7, 2, 0, 5])
    for session, state in zip(sessions, (mine, other), strict=True):
        session.restart(state, rows, images.flip(0)[:4])
    assert_close(mine, other)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_state_is_reached_at_the_same_cost(name: str) -> None:
    network = random_model(CONFIGS[name])
    sessions = CompiledSession(network), TorchSession(network)
    target = torch.arange(len(sessions[0].next_state)).flip(0)
    images, rows = random_images(network.config, len(target)), torch.arange(len(target))
    mine, other = (session.begin(images) for session in sessions)
    costs = [
        session.reach(state, rows, target)
        for session, state in zip(sessions, (mine, other), strict=True)
    ]
    assert_same_cost(*costs)
    assert_close(mine, other)
    assert mine.state_id.tolist() == target.tolist()


def spoilt(network: MainNetwork, layers: list[int]) -> MainNetwork:
    """Copy in which all that only an iteration of these layers reads is NaN."""
    network = copy.deepcopy(network)
    for i in layers:
        layer: Any = network.layers[i - 1]
        parts = [layer.recurrence.free_weight]
        parts += [layer.visible_to_hidden, layer.hidden_to_hidden, layer.readout]
        for part in parts:
            nn.init.constant_(part, torch.nan)
    return network


@pytest.mark.parametrize("state_id", range(8))
def test_nothing_is_run_that_was_not_chosen(state_id: int) -> None:
    network, rows = random_model(CONFIGS["digits"]), torch.arange(3)
    images = random_images(network.config, 3)
    unchosen = [layer for layer in (1, 2, 3) if not state_id >> (layer - 1) & 1]
    states = []
    for each in (network, spoilt(network, unchosen)):
        session = CompiledSession(each)
        states.append(session.begin(images))
        session.reach(states[-1], rows, torch.full((3,), state_id))
    assert torch.equal(states[0].logits, states[1].logits)
    assert states[1].logits.isfinite().all()


def test_threads_share_the_rows_and_change_no_bit() -> None:
    network, rows = random_model(CONFIGS["small-32"]), torch.arange(41)
    images, session = random_images(network.config, 41), CompiledSession(network)
    found, before = [], torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        state = session.begin(images)
        cost = session.reach(state, rows, rows % 8)
        found.append((state.logits, state.pooled, cost.macs, cost.solver_steps))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_an_error_in_a_thread_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise MemoryError

    session = CompiledSession(random_model(CONFIGS["small-32"]))
    monkeypatch.setattr(compiled_session, "sweep_rows", fail)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(MemoryError):
        session.begin(random_images(session.network.config, 32))


# --- where it is taken ----------------------------------------------------------------


def test_a_network_on_the_processor_is_compiled(monkeypatch: Any) -> None:
    network = random_model(CONFIGS["tiny-wide"])
    assert type(fastest_session(network)) is CompiledSession
    monkeypatch.setitem(sys.modules, "numba", None)
    assert type(fastest_session(network)) is TorchSession


def test_what_is_not_known_runs_in_pytorch() -> None:
    class OtherLayer(WideStreamLayer):
        pass

    class OtherNetwork(MainNetwork):
        pass

    layer, network = (random_model(CONFIGS["tiny-wide"]) for _ in range(2))
    layer.layers[1].__class__ = OtherLayer
    network.__class__ = OtherNetwork
    double = random_model(CONFIGS["tiny-wide"]).double()
    elsewhere = random_model(CONFIGS["tiny-wide"]).to("meta")
    for unknown in (layer, network, double, elsewhere):
        assert not applies_to(unknown)
    assert type(fastest_session(double)) is TorchSession


def test_states_of_others_are_refused() -> None:
    network, rows = random_model(CONFIGS["tiny-wide"]), torch.arange(3)
    images, session = random_images(network.config, 3), CompiledSession(network)
    other = random_model(tiny_config(channels=(2, 3, 5)))
    for stranger in (TorchSession(network), CompiledSession(other)):
        state = stranger.begin(images)
        with pytest.raises(ValueError, match="this session began"):
            session.apply(state, rows, rows)
        with pytest.raises(ValueError, match="this session began"):
            session.restart(state, rows, images)
    state = CompiledSession(random_model(CONFIGS["tiny-wide"], seed=1)).begin(images)
    session.restart(state, rows, images)
    assert torch.equal(state.logits, session.begin(images).logits)


# --- in processes of their own --------------------------------------------------------

RUN = """
import hashlib, sys, torch
sys.path.insert(0, "tests")
from helpers.networks import random_images, random_model, tiny_config
from dynalay_gym.networks.presets import make_config
from dynalay_gym.sessions.fastest import fastest_session

torch.set_num_threads(1)
configs = [tiny_config("state"), tiny_config(stem=5)]
configs += [make_config("digits", (1, 8, 8), 10)]
digest = hashlib.sha256()
for config in configs:
    session = fastest_session(random_model(config), rtol=1e-3)
    state, rows = session.begin(random_images(config, 16)), torch.arange(16)
    session.reach(state, rows, rows % 8)
    session.apply(state, rows, rows % 4)
    for part in (state.pooled, state.logits, state.residual):
        digest.update(part.numpy().tobytes())
print(type(session).__name__, digest.hexdigest())
"""


def run_alone(**environment: str) -> list[str]:
    """Run the sessions in a process of their own; return kind and digest."""
    result = subprocess.run(
        [sys.executable, "-c", RUN],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_fresh_code_and_kept_code_give_the_same_bits(tmp_path: Path) -> None:
    first, second = (run_alone(NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert list(tmp_path.glob("kernels-*/network.sweep_rows*.nbc"))
    assert first == second
    assert first[0] == "CompiledSession"


@pytest.mark.slow  # compiles everything twice
def test_damaged_code_is_compiled_again_once(tmp_path: Path) -> None:
    first = run_alone(NUMBA_CACHE_DIR=str(tmp_path))
    files = sorted(tmp_path.glob("kernels-*/*.nbc"))
    for number, path in enumerate(files):
        whole = path.read_bytes()
        place = len(whole) * number // len(files)
        flipped = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
        path.write_bytes((flipped, whole[:place], b"")[number % 3])
    assert run_alone(NUMBA_CACHE_DIR=str(tmp_path)) == first
    mended = [path.stat().st_mtime_ns for path in files]
    assert run_alone(NUMBA_CACHE_DIR=str(tmp_path)) == first
    assert [path.stat().st_mtime_ns for path in files] == mended


def test_without_compilation_the_reference_runs() -> None:
    assert run_alone(NUMBA_DISABLE_JIT="1")[0] == "TorchSession"
