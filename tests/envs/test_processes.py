"""Environments and predictors in the processes that other libraries start.

Each test runs a program of its own, with two of PyTorch's threads, and kills it when it
hangs.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 180  # seconds; each takes a few

START = """
import multiprocessing, os
import gymnasium as gym, numpy as np, torch
from dynalay_gym.predictor.policies import PlanPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor

ID = "dynalay_gym:DynaLay/Digits-v0"

def make_env():
    return gym.make(ID)

def make_predictor():
    env = make_env()
    inputs = env.unwrapped.problem.inputs[:200]
    return DynaLayPredictor.from_env(env, PlanPolicy((1, 2))), inputs

def fill_the_pool():
    torch.set_num_threads(2)
    torch.ones(2000, 2000).exp().sum()

def expected():
    return gym.make_vec(ID, num_envs=2).reset(seed=4)[0]
"""

WORKERS = {
    "async": """
envs = gym.make_vec(ID, num_envs=2, vectorization_mode="async")
assert np.array_equal(envs.reset(seed=4)[0], expected())
for _ in range(9):
    envs.step(np.array([1, 0]))
envs.close()
""",
    "fork": """
predictor, inputs = make_predictor()
labels = predictor.predict(inputs)
child = os.fork()
if child == 0:
    os._exit(0 if predictor.predict(inputs).equal(labels) else 3)
assert os.waitpid(child, 0)[1] == 0
""",
    "pool": """
predictor, inputs = make_predictor()
with multiprocessing.get_context("fork").Pool(2) as pool:
    parts = pool.map(predictor.predict, [x.numpy() for x in inputs.split(100)])
assert np.array_equal(np.concatenate(parts), predictor.predict(inputs).numpy())
""",
    "data-loader": """
from torch.utils.data import DataLoader
predictor, inputs = make_predictor()
def collate(samples):
    return predictor.predict(torch.stack(samples))
loader = DataLoader(inputs, batch_size=50, num_workers=2, collate_fn=collate)
assert torch.cat(list(loader)).equal(predictor.predict(inputs))
""",
    "stable-baselines": """
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv
make_env().reset()
for method in (None, "fork"):
    options = {"start_method": method}
    envs = make_vec_env(make_env, 2, vec_env_cls=SubprocVecEnv, vec_env_kwargs=options)
    envs.seed(4)
    assert np.array_equal(envs.reset(), expected())
    for _ in range(9):
        envs.step(np.array([1, 0]))
    envs.close()
""",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.parametrize(
    "kind",
    [
        "async",
        "fork",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("pool", "data-loader", "stable-baselines")
        ),
    ],
)
def test_nothing_hangs_in_a_process_that_is_forked(kind: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    lines = "    ".join(WORKERS[kind].splitlines(keepends=True))
    program.write_text(
        f'{START}\nif __name__ == "__main__":\n    fill_the_pool(){lines}', "utf-8"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(program)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        errors = process.communicate(timeout=LIMIT)[1]
        assert process.returncode == 0, errors
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # its workers, too
            process.communicate()
