"""What speed is held against does the same work: by-hand network, env, dense bound."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import (
    make_vec,
    random_images,
    random_model,
    shared_model,
    shared_split,
    tiny_config,
)

from benchmarks.common import Clock, table
from benchmarks.dense import BATCHES, DenseBound, make_jobs
from benchmarks.naive_env import NaiveEnv, Task
from benchmarks.plain_network import PlainNetwork
from benchmarks.run import PARTS
from benchmarks.skipping import KINDS, Skipping, StepByStep, apportion, boltzmann, walk
from benchmarks.subjects import Subject
from benchmarks.tally import Tally, count_step, tally
from dynalay_gym.envs.single_env import DynaLayEnv
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.networks.costs import CostTable

FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.fixture(params=["digits", "tiny"])
def make_envs(request: pytest.FixtureRequest) -> Callable[[int], Any]:
    if request.param == "digits":
        return partial(DynaLayVectorEnv, device="cpu")
    return make_vec


@pytest.fixture
def envs(make_envs: Callable[[int], Any]) -> Any:
    return make_envs(8)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_network_by_hand_gives_the_packages_logits(
    memory_format: torch.memory_format,
) -> None:
    model, images = shared_model(), random_images(tiny_config(), 6)
    by_hand = PlainNetwork(model, memory_format)
    for path in range(8):
        # One at a time: by hand, a batch iterates until its slowest has converged.
        rows = [by_hand.run(one[None], path, 0.1, 20) for one in images]
        with torch.no_grad():
            expected = model.forward_path(images, path, model.solver)
        torch.testing.assert_close(torch.cat(rows), expected, rtol=1e-4, atol=1e-4)


def test_the_environment_by_hand_has_the_same_transitions(envs: Any) -> None:
    problem = envs.problem
    env = DynaLayEnv(
        checkpoint=problem.session.model,
        split=envs.config.split,
        penalty=problem.penalty_range[0],
        device="cpu",
    )
    by_hand, rng = NaiveEnv(Task.of(env.problem)), np.random.default_rng(0)
    assert by_hand.observation_space == env.observation_space
    for index in range(20):
        seen, info = env.reset(seed=0, options={"index": index})
        got, told = by_hand.reset(options={"index": index})
        ended = False
        while True:
            np.testing.assert_allclose(got, seen, atol=1e-4)
            assert got.dtype == seen.dtype
            assert {key: info[key] for key in told} == told
            if ended:
                break
            action = int(rng.integers(4))
            seen, reward, ended, _, info = env.step(action)
            got, paid, over, _, told = by_hand.step(action)
            assert (over, paid) == (ended, pytest.approx(reward, abs=1e-5))


def test_the_dense_bound_multiplies_what_the_environment_did(envs: Any) -> None:
    work = tally(envs, 30)
    assert work.num_steps == 30 * 8
    assert counted_macs(work.units, envs) == macs_of_rollout(envs, 30)


def counted_macs(work: Mapping[str, int], envs: Any) -> int:
    """MACs of tallied work by the table of costs."""
    costs = CostTable.of(envs.problem.session.model)
    counted = work["stem"] * costs.stem + work["head"] * costs.head
    for i, layer in enumerate(costs.layers):
        counted += work[f"plain/{i}"] * layer.plain
        counted += work[f"iteration/{i}"] * layer.iteration
        counted += work[f"setup/{i}/plain below"] * layer.setup[0]
        counted += work[f"setup/{i}/iterated below"] * layer.setup[1]
    return counted


def macs_of_rollout(envs: Any, num_steps: int) -> int:
    """The same rollout's MACs by the environment's own account."""
    from benchmarks.common import random_actions

    generator, macs = np.random.default_rng(0), 0
    envs.reset(seed=0)
    for _ in range(num_steps):
        _, _, ended, _, infos = envs.step(random_actions(generator, envs.num_envs, 3))
        macs += int(infos["final_info"]["macs"].sum())
        macs += int(infos["macs"][ended].sum())  # of the passes that began episodes
    return macs


def test_every_kind_of_work_can_be_timed(envs: Any) -> None:
    work = tally(envs, 30)
    with torch.no_grad():
        jobs = make_jobs(envs.problem, BATCHES[0], torch.channels_last)
        assert set(work.units) <= set(jobs)
        for job, times in jobs.values():
            assert times % min(BATCHES[0], envs.num_samples) == 0
            job()


def test_the_work_of_a_step() -> None:
    work = Tally()
    actions, steps = np.array([1, 1, 3, 0, 2, 2]), np.array([3, 2, 5, 0, 4, 1])
    path = np.array([0, 0, 0, 0, 1, 0])
    path = count_step(work, actions, path, steps, layers=3)
    assert path.tolist() == [1, 1, 4, 0, 3, 2]
    assert work.units == {
        "head": 5,
        "iteration/0": 5,
        "setup/0/iterated below": 2,
        "plain/1": 2,
        "iteration/1": 5,
        "setup/1/iterated below": 1,
        "setup/1/plain below": 1,
        "plain/2": 4,
        "iteration/2": 5,
        "setup/2/plain below": 1,
    }
    # A row that only checks its fixed point iterates it once.
    both = np.array([1, 1])
    count_step(work, both, np.array([1, 0]), np.array([1, 4]), layers=3)
    assert work.units["iteration/0"] == 5 + 1 + 4


class CountingClock(Clock):
    """Every call takes a second."""

    def per_call(self, job: Callable[[], object], seconds: float) -> float:
        job()
        return 1.0


def test_a_dense_bound_times_all_work_of_a_rollout(envs: Any) -> None:
    work, clock = tally(envs, 30), CountingClock("cpu")
    assert counted_macs(work.units, envs) == macs_of_rollout(envs, 30)
    dense, largest = (
        DenseBound(envs.problem, work, clock, 1.0),
        min(max(BATCHES), envs.num_samples),
    )
    for kind in work.units:  # where all calls cost the same, the largest batch wins
        times = 4 if kind.startswith("iteration") else 1
        assert dense.best[kind][1] == times * largest
    calls = sum(n / dense.best[kind][1] for kind, n in work.units.items())
    assert dense() == pytest.approx(work.num_steps / calls)


def test_mixtures_reach_the_asked_cost() -> None:
    costs = np.array([1.0, 3.0, 4.0, 9.0])
    for target in (1.5, 4.25, 8.0):
        chances = boltzmann(costs, target)
        assert chances.sum() == pytest.approx(1)
        assert chances @ costs == pytest.approx(target, abs=1e-6)
    np.testing.assert_allclose(boltzmann(costs, costs.mean()), 0.25, atol=1e-6)
    assert boltzmann(costs, 0.0).argmax() == 0
    chosen = apportion(np.array([0.5, 0.25, 0.25]), 8)
    assert sorted(chosen.tolist()) == [0, 0, 0, 0, 1, 1, 2, 2]


def test_policies_follow_their_plans() -> None:
    subject = Subject("tiny", "random", random_model(tiny_config()), {}, shared_split())
    bench = Skipping(subject, 24, "cpu")
    chosen = torch.arange(24) % 8
    for kind in KINDS:
        predictor = bench.predictor(kind, chosen)
        taken = predictor.infer(bench.inputs).actions.clamp(min=0)
        assert taken.tolist() == bench.plans[chosen].tolist()
    macs, agent = walk(bench.predictor(StepByStep, chosen), list(bench.inputs.split(5)))
    # Plans of 0, 1, 1, 1, 2, 2, 2 and 3 layers, and the stop.
    assert agent == 2.5 * bench.agent.macs_per_decision
    assert macs[chosen.numpy() == 0].tolist() == [bench.plain_macs] * 3
    assert (bench.always_macs < walk(always_of(bench), [bench.inputs])[0]).all()


def always_of(bench: Skipping) -> Any:
    return bench.predictor(StepByStep, torch.full((24,), 7))


def test_make_bench_runs_the_driver() -> None:
    makefile = Path(__file__).parents[2] / "Makefile"
    assert "benchmarks/run.py" in makefile.read_text(encoding="utf-8")
    assert {"env", "table", "inference"} <= set(PARTS)


def test_tables_are_markdown() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
