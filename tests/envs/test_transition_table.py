"""A table does bit for bit what the network does; and it is never a stale one."""

import copy
import pickle
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode
from helpers.networks import (
    make_single,
    make_vec,
    own_split,
    random_images,
    random_model,
    shared_model,
    shared_split,
    tiny_config,
)

from dynalay_gym.envs.oracle import optimum
from dynalay_gym.envs.reward import REWARDS
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.errors import ConfigError
from dynalay_gym.sessions import table_cache as table_store
from dynalay_gym.sessions.protocol import StepCost
from dynalay_gym.sessions.torch_session import TorchSession
from dynalay_gym.testing import check_vector_env
from dynalay_gym.utils import memory

MODES = [mode.value for mode in AutoresetMode]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def forbid_building(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*args: Any) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(table_store, "build_table", build)


def files(cache: Path) -> list[Path]:
    return sorted(cache.iterdir()) if cache.is_dir() else []


# --- equal to the live environment ----------------------------------------------------


def assert_same_rollout(
    live: DynaLayVectorEnv, table: DynaLayVectorEnv, num_steps: int
) -> None:
    """Everything that is returned, dtypes and order of keys included."""
    rng, n = np.random.default_rng(0), live.num_envs
    returned = live.reset(seed=3)
    assert data_equivalence(table.reset(seed=3), returned, exact=True)
    finished, ends = np.zeros(n, dtype=bool), 0
    for _ in range(num_steps):
        if finished.any() and live.autoreset_mode is AutoresetMode.DISABLED:
            options = {"reset_mask": finished}
            again = live.reset(options=options)
            assert data_equivalence(table.reset(options=options), again, exact=True)
        actions = rng.integers(0, 4, n)
        expected, got = live.step(actions), table.step(actions)
        assert data_equivalence(got, expected, exact=True)
        assert list(got[4]) == list(expected[4])
        assert np.array_equal(table.action_masks(), live.action_masks())
        finished = np.asarray(got[2])
        ends += int(finished.sum())
    assert ends > 2 * n


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["wide", "state"])
def test_own_networks_in_all_autoreset_modes(form: str, mode: str) -> None:
    config = {"autoreset_mode": mode, "penalty": "0:0.9", "max_decisions": 6}
    live, table = (make_vec(16, form, transitions=t, **config) for t in KINDS)
    assert_same_rollout(live, table, 40)


KINDS = ("live", "table")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("split", ["agent", "test"])
def test_digits_in_all_autoreset_modes(
    split: str,
    mode: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "digits-tables"  # built once for all
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(folder))
    live, table = (
        DynaLayVectorEnv(
            96, split=split, transitions=kind, autoreset_mode=mode, device="cpu"
        )
        for kind in KINDS
    )
    assert_same_rollout(live, table, 12)


@pytest.mark.parametrize("reward", sorted(REWARDS))
@pytest.mark.parametrize("form", ["wide", "state"])
def test_every_sequence_of_actions_on_every_sample(form: str, reward: str) -> None:
    plans = np.array(list(product(range(4), repeat=4)))
    index = np.repeat(np.arange(len(shared_split())), len(plans))[::4]
    actions = np.tile(plans, (len(shared_split()), 1))[::4]
    live, table = (
        make_vec(len(index), form, transitions=kind, reward=reward, max_decisions=4)
        for kind in KINDS
    )
    for envs in (live, table):
        envs.reset(seed=0, options={"index": index})
    for column in actions.T:
        expected, got = live.step(column), table.step(column)
        assert data_equivalence(got, expected, exact=True)


def test_failed_solves_and_torch_output_are_the_same() -> None:
    config = {"output": "torch", "rtol": 1e-6, "max_steps": 2, "penalty": 1e9}
    live, table = (make_vec(8, transitions=kind, **config) for kind in KINDS)
    for envs in (live, table):
        envs.reset(seed=0)
    for actions in torch.randint(4, (12, 8), generator=torch.Generator()):
        expected, got = live.step(actions), table.step(actions)
        for a, b in zip(expected[:4], got[:4], strict=True):
            assert torch.equal(a, b)
        for key in expected[4]["final_info"]:
            a, b = expected[4]["final_info"][key], got[4]["final_info"][key]
            assert a.dtype is b.dtype
            assert torch.equal(a, b)


def test_counts_beyond_32_bits_are_kept() -> None:
    class Costly(TorchSession):
        def apply(self, *args: Any) -> StepCost:
            cost = super().apply(*args)
            return replace(cost, macs=cost.macs * 2**33)

    config = {"checkpoint": Costly(shared_model())}
    live, table = (make_vec(8, transitions=kind, **config) for kind in KINDS)
    assert_same_rollout(live, table, 12)
    live.reset(seed=0)
    assert (live.step([1] * 8)[4]["final_info"]["macs"] > 2**33).all()


def test_rewards_overflow_alike_and_without_a_word() -> None:
    live, table = (make_vec(8, transitions=kind, max_decisions=12) for kind in KINDS)
    for envs in (live, table):
        envs.reset(seed=0, options={"penalty": 3e38})
    for actions in np.full((12, 8), 3):  # the same layer again and again
        expected, got = live.step(actions), table.step(actions)
        assert data_equivalence(got, expected, exact=True)
    assert np.isinf(got[1]).all()


def test_all_rows_waiting_at_once() -> None:
    config: dict[str, Any] = {"autoreset_mode": "NextStep", "penalty": "0:1"}
    live, table = (make_vec(3, transitions=kind, **config) for kind in KINDS)
    assert data_equivalence(table.reset(seed=0), live.reset(seed=0), exact=True)
    for actions in ([0, 0, 0], [1, 2, 3], [1, 0, 2], [3, 3, 3]):
        expected, got = live.step(actions), table.step(actions)
        assert data_equivalence(got, expected, exact=True)


def test_the_single_form_is_the_same() -> None:
    live, table = make_single(), make_single(transitions="table")
    assert data_equivalence(table.reset(seed=4), live.reset(seed=4), exact=True)
    for action in (2, 2, 1, 3):
        assert data_equivalence(table.step(action), live.step(action), exact=True)


def test_a_table_is_a_correct_batched_environment() -> None:
    check_vector_env(
        lambda n, mode: make_vec(
            n, transitions="table", autoreset_mode=mode, penalty="0.1:0.9"
        )
    )


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_go_on_where_they_were(copied: Any) -> None:
    envs = make_vec(5, transitions="table", penalty="0:1")
    envs.reset(seed=0)
    envs.step([1, 2, 3, 0, 2])
    twin = copied(envs)
    for actions in ([2, 2, 2, 2, 2], [0, 1, 2, 3, 0]):
        assert data_equivalence(envs.step(actions), twin.step(actions), exact=True)


def test_the_optimum_and_the_unit_of_cost_come_from_the_table() -> None:
    live, table = (make_vec(1, transitions=kind, penalty=None) for kind in KINDS)
    assert live.problem.table is None
    assert table.always_extra_macs == live.always_extra_macs
    assert table.penalty_range == live.penalty_range
    expected, got = optimum(live, 0.3), optimum(table, 0.3)
    for name in ("returns", "plans"):
        assert np.array_equal(getattr(got, name), getattr(expected, name))


# --- kept, found again, never stale ---------------------------------------------------


def test_a_table_is_built_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_vec(1, transitions="table")
    (file,) = files(cache)
    forbid_building(monkeypatch)
    # What is paid and how long one may decide is no part of it.
    make_vec(3, transitions="table", reward="blockdrop", max_decisions=9, penalty=2)
    assert files(cache) == [file]


def test_whatever_changes_the_numbers_changes_the_key(cache: Path) -> None:
    config = tiny_config()
    images = random_images(config, 24)
    model, other = random_model(config, 0), random_model(config, 1)
    slightly = random_model(config, 0)
    with torch.no_grad():
        slightly.head_bias[0] += 1e-6
    variants: list[dict[str, Any]] = [
        {"checkpoint": model},
        {"checkpoint": other},
        {"checkpoint": slightly},
        {"checkpoint": model, "rtol": 0.05},
        {"checkpoint": model, "max_steps": 19},
        {"checkpoint": model, "split": own_split(images + 1e-6)},
        {"checkpoint": model, "split": own_split(images.flip(0))},
    ]
    for number, variant in enumerate(variants, start=1):
        live, table = (make_vec(8, transitions=kind, **variant) for kind in KINDS)
        assert len(files(cache)) == number, variant
        assert_same_rollout(live, table, 9)


def test_a_network_that_learns_is_another_one(cache: Path) -> None:
    model = random_model(tiny_config(), 2)
    make_vec(1, transitions="table", checkpoint=model)
    model.train().requires_grad_(True)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.01)
    live, table = (make_vec(8, transitions=kind, checkpoint=model) for kind in KINDS)
    assert len(files(cache)) == 2
    assert_same_rollout(live, table, 9)


def damaged(data: bytes) -> list[bytes]:
    middle, flipped = len(data) // 2, bytearray(data)
    flipped[middle] ^= 1
    in_head = bytearray(data)
    in_head[20] ^= 1
    return [b"", data[:5], data[:middle], data[:-1], bytes(flipped), bytes(in_head)]


def test_a_damaged_file_is_built_again(cache: Path) -> None:
    live, _ = (make_vec(8, transitions=kind) for kind in KINDS)
    (file,) = files(cache)
    whole = file.read_bytes()
    for data in damaged(whole):
        file.unlink()
        file.write_bytes(data)
        assert_same_rollout(live, make_vec(8, transitions="table"), 9)
        assert files(cache) == [file], "no drafts are left behind"
        assert file.read_bytes() == whole


def test_another_tables_file_is_not_taken(cache: Path) -> None:
    make_vec(1, transitions="table")
    (first,) = files(cache)
    live, table = (make_vec(8, transitions=kind, rtol=0.01) for kind in KINDS)
    second = next(file for file in files(cache) if file != first)
    second.unlink()
    second.write_bytes(first.read_bytes())
    assert_same_rollout(live, make_vec(8, transitions="table", rtol=0.01), 9)
    assert_same_rollout(live, table, 9)


def test_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", "~/somewhere")
    assert table_store.cache_dir() == Path.home() / "somewhere"
    monkeypatch.delenv("DYNALAY_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert table_store.cache_dir() == Path("/xdg/dynalay_gym")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert table_store.cache_dir() == Path.home() / ".cache" / "dynalay_gym"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_table_is_mapped_not_read(cache: Path) -> None:
    envs = make_vec(1, transitions="table")
    (file,) = files(cache)
    assert str(file) in Path("/proc/self/maps").read_text()
    assert envs.problem.table is not None


def test_a_folder_that_cannot_be_written_is_only_a_warning(cache: Path) -> None:
    cache.write_text("not a folder")
    with pytest.warns(UserWarning, match="DYNALAY_CACHE_DIR"):
        table = make_vec(8, transitions="table")
    assert_same_rollout(make_vec(8), table, 9)


# --- refused --------------------------------------------------------------------------


def test_a_table_that_does_not_fit_is_refused_before_it_is_built(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_building(monkeypatch)
    monkeypatch.setattr(memory, "available_memory", lambda: 3 * 2**10)
    with pytest.raises(ConfigError, match=r"MiB.*transitions=\"live\""):
        make_vec(1, transitions="table")
    assert files(cache) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_known_where_linux_tells_it() -> None:
    free = memory.available_memory()
    assert free is not None
    assert free > 2**20


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"transitions": "tables"}, "live"),
        ({"transitions": "table", "observation": "dict"}, "raw maps"),
        ({"transitions": "table", "render_mode": "ansi"}, "rendered"),
    ],
)
def test_what_a_table_cannot_do_is_refused(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_vec(1, **config)
