"""A learned policy beside every reference policy, on the same samples."""

import hashlib
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from dynalay_gym.envs.oracle import best_fixed_plan, optimum
from dynalay_gym.evaluation.evaluate import EvaluationResult, evaluate
from dynalay_gym.evaluation.reference_policies import (
    RandomPolicy,
    SweepPolicy,
    ThresholdPolicy,
    make_random_mix,
    make_scores,
)
from dynalay_gym.evaluation.walk import walk_full_plan
from dynalay_gym.networks.lcnet.policy import GatesPolicy
from dynalay_gym.networks.policy import PlanPolicy, Policy

MOST_ROWS = 200_000  # states of all samples that are enumerated: half a minute
ONCE = ("max-prob", "entropy")  # scores that are tried as a single decision, too


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


def make_reference_policies(
    envs: VectorEnv, validation_envs: VectorEnv, penalty: float, seed: int = 0
) -> list[Policy]:
    """Return every reference policy but random-mix, which needs a result to match.

    Args:
        envs: Environment over the split that will be evaluated (the oracle's).
        validation_envs: Environment in DISABLED mode over the split that thresholds and
            the best fixed plan are chosen on.
        penalty: Penalty that they are chosen for.
        seed: Seed of the random policy.

    Returns:
        In this order: nop, always, layer-k for every action of a full plan of several,
        random; gates, max-prob, entropy, residual, patience and fixed-k, as far as the
        observation has what they read, then max-prob-once and entropy-once; and, where
        all samples together have at most `MOST_ROWS` states, best-fixed and oracle.
    """
    base: Any = envs.unwrapped
    gate = base.observation_layout.get("gate")
    single_layers = base.full_plan if len(base.full_plan) > 1 else ()  # that is always
    return [
        SweepPolicy(envs, (), name="nop"),
        SweepPolicy(envs, base.full_plan, name="always"),
        *(SweepPolicy(envs, [k], name=f"layer-{k}") for k in single_layers),
        RandomPolicy(base.num_actions, seed),
        *([] if gate is None else [GatesPolicy(gate.start)]),
        *_tuned(envs, validation_envs, penalty),
        *_enumerated(envs, validation_envs, penalty),
    ]


def problem_name(envs: VectorEnv, penalty: float) -> str:
    """Return a folder's name that is the same for equal problems and for them alone.

    Args:
        envs: An environment of the network.
        penalty: Penalty of every episode.
    """
    return f"penalty-{penalty:.4g}-{problem_digest(envs)}"


def problem_digest(envs: VectorEnv) -> str:
    """Return eight digits that stand for network and reward, whatever the penalty."""
    base: Any = envs.unwrapped
    problem = base.problem
    about = (
        problem.session.fingerprint(),
        problem.reward,
        problem.max_decisions,
        problem.recall,
    )
    text = repr((*about, problem.cost_unit))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def reference_lines(envs: VectorEnv, penalty: float) -> list[EvaluationResult]:
    """Return a few references on the split that they are tuned on, from one walk.

    Args:
        envs: Environment in DISABLED mode.
        penalty: Penalty of every episode.

    Returns:
        nop, always, fixed-k and max-prob.
    """
    walk = walk_full_plan(envs, penalty)
    names = [name for name in ("fixed-k", "max-prob") if name in walk.scores]
    tuned = [walk.stop(name, walk.best_threshold(name)) for name in names]
    return [walk.stop("fixed-k", -np.inf, name="nop"), walk.always, *tuned]


def _tuned(
    envs: VectorEnv, validation_envs: VectorEnv, penalty: float
) -> list[ThresholdPolicy]:
    """Return the policies with a threshold, tuned for return."""
    walk, policies = walk_full_plan(validation_envs, penalty), []
    for suffix in ("", "-once"):
        once = suffix != ""
        for name, score in make_scores(envs).items():
            if once and name not in ONCE:
                continue
            threshold = walk.best_threshold(name, once=once)
            policy = ThresholdPolicy(
                envs, score, threshold, name=name + suffix, once=once
            )
            policies.append(policy)
    return policies


def _enumerated(
    envs: VectorEnv, validation_envs: VectorEnv, penalty: float
) -> list[PlanPolicy]:
    """Return the policies that need all states of all samples, where these are few."""
    bases: list[Any] = [validation_envs.unwrapped, envs.unwrapped]
    for base in bases:
        states = getattr(base.problem.session, "next_state", None)  # of `FiniteStates`
        if (
            base.problem.recall
            or states is None
            or len(states) * base.num_samples > MOST_ROWS
        ):
            return []
    fixed = best_fixed_plan(bases[0], penalty)
    plans = optimum(bases[1], penalty).plans
    return [PlanPolicy(fixed, name="best-fixed"), PlanPolicy(plans, name="oracle")]
