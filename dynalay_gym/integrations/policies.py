"""Policies that were made elsewhere: functions, networks, other libraries' models.

Axes: N rows, D observation features, A actions.
"""

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
from torch import nn

from dynalay_gym.errors import ConfigError, brief
from dynalay_gym.networks.policy import Array, GreedyNetPolicy, Infos, Policy, like


class FunctionPolicy:
    """Asks a function for actions; one that changes nothing becomes a stop.

    Args:
        function: Maps observations [N, D], of the environment's kind, to N actions.
        name: Label of the policy in tables.
        macs_per_decision: Multiply-adds of one choice for one input.
    """

    def __init__(
        self, function: Callable[[Any], Any], *, name: str, macs_per_decision: int = 0
    ) -> None:
        self.function, self.name = function, name
        self.macs_per_decision = macs_per_decision

    def act(self, observations: Array, infos: Infos) -> Array:
        """Choose what the function says; see `Policy.act`.

        Raises:
            ConfigError: It does not return one integer for each row.
        """
        given = self.function(observations)
        actions = np.asarray(given.cpu() if isinstance(given, torch.Tensor) else given)
        if actions.shape != (len(observations),) or actions.dtype.kind not in "iu":
            raise ConfigError(
                f"{self.name} must return an integer for each of the "
                f"{len(observations)} rows, not {brief(given)}; a network that scores "
                "actions has to be a torch.nn.Module"
            )
        return like(actions.astype(np.int64), observations)


def as_policy(given: Any, name: str | None = None) -> Policy:
    """Return what was made elsewhere as a policy.

    Args:
        given: A `Policy`, as it is, under its own name; a model with ``predict``, as
            those of Stable-Baselines3 are, asked for deterministic actions; a
            ``torch.nn.Module`` that maps observations [N, D] to scores [N, A], of which
            the highest allowed one is taken; or any function of observations that
            returns N actions.
        name: Label in tables; that of the class or function if None. A lambda has none:
            it is called "policy".

    Raises:
        ConfigError: It is none of these.
    """
    if callable(getattr(given, "act", None)):
        if not all(hasattr(given, part) for part in ("name", "macs_per_decision")):
            raise ConfigError(
                f"{brief(given)} has act(), and needs name and macs_per_decision, too"
            )
        policy: Policy = given
        return policy
    own = getattr(given, "__name__", type(given).__name__)
    label: str = name or ("policy" if own == "<lambda>" else own)
    if callable(getattr(given, "predict", None)):

        def predict(observations: Any) -> Any:
            if isinstance(observations, torch.Tensor):  # a predictor's
                observations = observations.numpy(force=True)
            return given.predict(observations, deterministic=True)[0]

        return FunctionPolicy(predict, name=label)
    if isinstance(given, nn.Module):
        return GreedyNetPolicy(given.eval(), name=label)
    if callable(given):
        return FunctionPolicy(given, name=label)
    raise ConfigError(
        f"{brief(given)} is no policy; give an object with act() or predict(), a "
        "torch.nn.Module, or a function from observations to actions"
    )


def load_policy(place: str, env: Any) -> Policy:
    """Return the policy that a function in a module makes.

    Args:
        place: ``module:function``; the module is imported, so trust it.
        env: What the function is called with: an environment, for its
            ``observation_layout``, ``num_actions`` and so on.

    Raises:
        ConfigError: There is no such function, or it makes no policy.
    """
    module, _, function = place.partition(":")
    if not module or not function:
        raise ConfigError(f"a policy is named module:function, not {place!r}")
    try:
        make = resolve_name(place)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"there is no {place} ({error}); the folder of its module has to be on "
            "Python's path (PYTHONPATH=.)"
        ) from error
    return as_policy(make(env), function)
