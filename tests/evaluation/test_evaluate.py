"""Evaluating policies on a split, against known answers."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from helpers.problems import ALPHA, ALWAYS_MACS, COSTS, PLAIN_MACS, NeedEnv

from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation.evaluate import evaluate
from dynalay_gym.networks.policy import PlanPolicy

PENALTY = 0.2
NUM_SAMPLES = 30


def disabled(num_envs=7, **options):
    return NeedEnv(num_envs, autoreset_mode=AutoresetMode.DISABLED, **options)


class Recorder:
    """Stops at once, and remembers which samples and penalties it saw."""

    name = "recorder"
    macs_per_decision = 5

    def __init__(self):
        self.seen = []

    def act(self, observations, infos):
        self.seen += zip(infos["index"], infos["penalty"], strict=True)
        return np.zeros(len(observations), dtype=np.int64)


@pytest.mark.parametrize("num_envs", [1, 7, 30, 64])
@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_every_sample_is_taken_once_whatever_the_batch(num_envs, output):
    envs = disabled(num_envs, output=output)
    result = evaluate(envs, PlanPolicy([1], name="layer-1"), penalty=PENALTY)
    needs = np.arange(NUM_SAMPLES) % 3
    assert result.policy == "layer-1"
    assert (result.indices == np.arange(NUM_SAMPLES)).all()
    assert (result.correct == (needs != 2)).all()
    expected = ALPHA * (needs != 2) - PENALTY * COSTS[1]
    np.testing.assert_allclose(result.returns, expected, atol=1e-6)
    assert (result.macs == int(COSTS[1] * ALWAYS_MACS)).all()
    assert (result.actions == [1, 1, 0]).all()


def test_chosen_samples_each_at_its_own_penalty():
    indices = np.array([5, 4, 3, 20, 11])
    penalties = np.array([0.1, 0.2, 0.3, 0.4, 0.5], dtype=np.float32)
    policy = PlanPolicy([1, 2])
    result = evaluate(disabled(2), policy, indices=indices, penalty=penalties)
    np.testing.assert_allclose(result.returns, ALPHA - penalties, atol=1e-6)
    recorder = Recorder()
    evaluate(disabled(2), recorder, indices=indices, penalty=penalties)
    assert set(recorder.seen) == set(zip(indices, penalties, strict=True))


def test_a_sample_that_is_asked_for_twice_counts_twice():
    result = evaluate(disabled(2), PlanPolicy([1]), indices=np.array([2, 1, 2]))
    assert result.indices.tolist() == [2, 1, 2]
    assert result.correct.tolist() == [False, True, False]
    assert (result.actions == [1, 1, 0]).all()


def test_the_environments_own_penalty_is_the_default():
    result = evaluate(disabled(penalty=0.4), PlanPolicy([1, 2]))
    np.testing.assert_allclose(result.returns, ALPHA - 0.4, atol=1e-6)


def test_result_in_figures():
    policy = PlanPolicy([(0, 0), (1, 0), (1, 2)] * 10, name="mixed")
    policy.macs_per_decision = 100
    result = evaluate(disabled(), policy, penalty=PENALTY)
    # Ten samples each: stop; layer 1; layers 1 and 2. So 1 + 2 + 3 decisions.
    np.testing.assert_allclose(result.action_shares, [1 / 2, 1 / 3, 1 / 6])
    extra = (0.0 + 0.4 + 1.0) / 3
    assert result.extra_share == pytest.approx(extra)
    assert result.compute == pytest.approx(1 + extra * ALWAYS_MACS / PLAIN_MACS)
    assert result.accuracy == 1.0
    total = PLAIN_MACS + extra * ALWAYS_MACS
    assert result.agent_macs_share == pytest.approx(2 * 100 / total)
    assert result.seconds_per_sample == result.seconds / NUM_SAMPLES > 0
    assert result.scalars("eval") == {
        "eval/accuracy": result.accuracy,
        "eval/compute": result.compute,
        "eval/return": result.mean_return,
    }


def test_environments_that_reset_themselves_are_refused():
    with pytest.raises(ConfigError, match="Disabled"):
        evaluate(NeedEnv(), Recorder())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"indices": np.array([], dtype=np.int64)}, "indices"),
        ({"indices": np.zeros((2, 2), dtype=np.int64)}, "indices"),
        ({"indices": np.arange(3), "penalty": np.zeros(2)}, "penalty"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(disabled(), Recorder(), **given)
