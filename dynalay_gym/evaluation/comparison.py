"""A learned policy beside every reference policy, on the same samples."""

from gymnasium.vector import VectorEnv

from dynalay_gym.evaluation.evaluate import EvaluationResult, evaluate
from dynalay_gym.evaluation.reference_policies import (
    make_random_mix,
    make_reference_policies,
)
from dynalay_gym.networks.policy import Policy


def compare(
    policy: Policy,
    envs: VectorEnv,
    validation_envs: VectorEnv,
    penalty: float,
    seed: int = 0,
) -> list[EvaluationResult]:
    """Evaluate a policy and every reference policy on a whole split.

    Args:
        policy: The policy to compare.
        envs: Environment in DISABLED mode over the split.
        validation_envs: Environment in DISABLED mode over the split that the reference
            policies are tuned on.
        penalty: Penalty of every episode.
        seed: Seed of the random policies.

    Returns:
        The policy's result, those of `make_reference_policies`, and that of random-mix
        at the policy's compute.
    """
    references = make_reference_policies(envs, validation_envs, penalty, seed)
    evaluate(envs, references[0])  # the first one pays for warming up
    first = evaluate(envs, policy, penalty=penalty)
    results = [evaluate(envs, each, penalty=penalty) for each in references]
    always = next(result for result in results if result.policy == "always")
    mix = make_random_mix(envs, first.macs.mean(), always.macs.mean(), seed)
    return [first, *results, evaluate(envs, mix, penalty=penalty)]
