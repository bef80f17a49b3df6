"""Uses an installed wheel as somebody does who has no checkout."""

import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
import numpy as np

import dynalay_gym
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.integrations.policies import as_policy
from dynalay_gym.predictor.policies import MaxProbPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor

for name in ("agents", "benchmarks", "tests"):
    assert find_spec(name) is None, f"{name} is installed, and should not be"
assert version("dynalay_gym") == dynalay_gym.__version__
for file in ("py.typed", "report/templates/page.html"):
    assert (Path(dynalay_gym.__file__).parent / file).exists(), f"{file} is missing"

for data in ("Digits", "Maze", "Chains"):
    envs = gym.make_vec(f"dynalay_gym:DynaLay/{data}-v0", num_envs=4)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    for _ in range(5):
        envs.step(envs.action_space.sample())

column = envs.unwrapped.observation_layout["max_prob"].start
rule = MaxProbPolicy(column, plan=(1,), thresholds=[0.9])
with tempfile.TemporaryDirectory() as folder:
    place = Path(folder) / "predictor"
    DynaLayPredictor.from_env(envs, rule).save(place)
    DynaLayPredictor.load(place)

test = gym.make_vec(
    "dynalay_gym:DynaLay/Digits-v0",
    num_envs=50,
    split="test",
    autoreset_mode="Disabled",
)
column = test.unwrapped.observation_layout["max_prob"].start
policy = as_policy(lambda seen: (seen[:, column] < 0.8).astype(int))
shares = evaluate(test, policy, indices=np.arange(100)).action_shares
assert 0 < shares[1] < shares[0] < 1, "it iterates layer 1 for some, and stops"
assert callable(dynalay_gym.compare)
print(f"dynalay_gym {dynalay_gym.__version__} works by itself")
