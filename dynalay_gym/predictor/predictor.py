"""A network and a policy as one object that answers, and really skips.

Axes: n inputs, K classes, A actions.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynalay_gym.envs.observation import observation_layout
from dynalay_gym.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DynaLayError,
)
from dynalay_gym.networks.policy import Policy, as_numpy
from dynalay_gym.predictor.inference import Batch, Inference, read_inputs, read_penalty
from dynalay_gym.predictor.policies import check_fit, policy_to_saved, restore_policy
from dynalay_gym.predictor.saving import (
    KIND,
    RESTORE,
    PredictorFacts,
    SavedPart,
)
from dynalay_gym.sessions.fastest import Runnable, as_session
from dynalay_gym.sessions.protocol import FiniteStates, NetworkSession, Savable
from dynalay_gym.sessions.states import default_decisions
from dynalay_gym.storage.saved_folder import MOST_BYTES, load_folder, save_folder
from dynalay_gym.storage.training_state import strip_prefix
from dynalay_gym.utils.device import resolve_device, torch_defaults
from dynalay_gym.utils.ranges import PenaltyUnit, Portion, Rows, check_value

# What a constructor may raise when its arguments do not fit each other.
_UNFIT = (AttributeError, KeyError, TypeError, ValueError, RuntimeError)

# Makes a session from the options and tensors that its `to_saved` returned.
Restore = Callable[[dict[str, Any], dict[str, Tensor]], NetworkSession]


class DynaLayPredictor:
    """Classifier that spends compute input by input; already trained.

    It has the methods of a scikit-learn classifier that need no training, so that
    ``sklearn.metrics`` and scorers work. An input's answer and cost do not depend, to
    the bit, on the inputs beside it.

    Args:
        network: A main or a residual network, of which a frozen copy is made, or any
            session.
        policy: Chooses the actions: a policy of `dynalay_gym.predictor.policies`, or
            any object with ``act`` and ``macs_per_decision`` (which cannot be saved).
        penalty: Penalty of compute that is shown to the policy if a call names none.
        penalty_unit: Penalty that is shown as 1/2: give what the policy was trained
            with.
        rtol: Relative tolerance of a solve; the network's own if None.
        max_steps: Most iterations of a solve; the network's own if None.
        iterations_per_action: Iterations that an action adds to its layer's solve;
            None iterates to the fixed point.
        max_decisions: Most decisions per input; A if None. It is part of the
            observation: give what the policy was trained with.
        batch_size: Inputs that are worked on side by side; bounds the memory.

    Attributes:
        session: The network.
        classes_: 0..K-1.
        observation_layout: Where each part of an observation lies.

    Raises:
        ConfigError: A bad argument, or a policy that does not fit the network.
    """

    _estimator_type = "classifier"

    @torch_defaults()
    def __init__(
        self,
        network: Runnable,
        policy: Policy,
        *,
        penalty: float,
        penalty_unit: float = 1.0,
        rtol: float | None = None,
        max_steps: int | None = None,
        iterations_per_action: int | None = None,
        max_decisions: int | None = None,
        batch_size: int = 256,
    ) -> None:
        check_value("batch_size", batch_size, Rows)
        check_value("max_decisions", max_decisions, Portion | None)
        check_value("penalty_unit", penalty_unit, PenaltyUnit)
        self.session = as_session(network, rtol, max_steps, iterations_per_action)
        self._has_finite_states = isinstance(self.session, FiniteStates)
        num_actions = len(self.session.action_names)
        self.policy, self.batch_size = policy, batch_size
        self.max_decisions = max_decisions or default_decisions(self.session)
        self.penalty_unit = penalty_unit
        self.penalty = float(read_penalty(penalty, 1)[0])
        self.classes_ = np.arange(self.session.num_classes)
        layout = observation_layout(self.session.feature_layout, num_actions)
        self.observation_layout = layout
        check_fit(policy, layout, num_actions)

    @classmethod
    def from_env(cls, env: Any, policy: Policy, **options: Any) -> "DynaLayPredictor":
        """Take network, penalty and number of decisions from an environment.

        The network is shared: weights that the environment loads are the predictor's.

        Args:
            env: A DynaLay environment, single or batched; of a range of penalties the
                lowest is the default one.
            policy: Chooses the actions.
            **options: Arguments of the class that replace the environment's.
        """
        problem = env.unwrapped.problem
        if problem.recall:
            raise ConfigError(
                "a predictor answers with its last state; leave recall out"
            )
        options.setdefault("penalty", problem.penalty_range[0])
        options.setdefault("penalty_unit", problem.penalty_unit)
        options.setdefault("max_decisions", problem.max_decisions)
        return cls(problem.session, policy, **options)

    def predict(self, inputs: Any, *, penalty: Any = None) -> Any:
        """Return the classes of inputs, int64 [n]; see `infer`."""
        return self.infer(inputs, penalty=penalty).labels

    def predict_proba(self, inputs: Any, *, penalty: Any = None) -> Any:
        """Return the probabilities of the classes, float32 [n, K]; see `infer`."""
        return self.infer(inputs, penalty=penalty).probabilities

    def score(self, inputs: Any, labels: Any, *, penalty: Any = None) -> float:
        """Return the share of right answers (accuracy).

        Args:
            inputs: See `infer`.
            labels: True classes [n], or as a column [n, 1].
            penalty: See `infer`.

        Raises:
            ConfigError: The labels are not one per input.
        """
        found = as_numpy(self.predict(inputs, penalty=penalty))
        true = as_numpy(labels)
        if true.shape not in (found.shape, (len(found), 1)):
            raise ConfigError(
                f"labels must have shape {found.shape}, one per input, not {true.shape}"
            )
        return float(np.mean(found == true.reshape(-1)))

    def fit(self, inputs: Any, labels: Any) -> "DynaLayPredictor":
        """Refuse: a predictor is made of parts that are trained already."""
        raise ConfigError(
            "a predictor needs no fit: train_main.py trains its network and "
            "train_agent.py its policy"
        )

    @torch.no_grad()
    def infer(self, inputs: Any, *, penalty: Any = None) -> Inference:
        """Answer, and say what each answer took.

        Args:
            inputs: Samples [n, ...] as the network takes them, array or tensor; flat
                [n, D] will do where the network knows their shape. A main network takes
                floats [n, C, H, W], normalised as those that it was trained on; one
                that reads takes a list of texts, or their tokens.
            penalty: Weight of compute, at least 0, a number or one per input [n]; the
                stored one if None. It steers only a policy that looks at it.

        Returns:
            Inference in the kind of the inputs (and on the device of a tensor).

        Raises:
            ConfigError: Inputs of a wrong shape or type, or a bad penalty.
            DataError: Numbers that are NaN, infinite, or so large that an answer is.
            InvalidActionError: The policy chose an action that does not exist.
        """
        given = read_inputs(inputs, self.session)
        if penalty is None:
            shown = np.full(len(given), self.penalty, dtype=np.float32)
        else:
            shown = read_penalty(penalty, len(given))
        found = []
        for first in range(0, max(len(given), 1), self.batch_size):
            rows = slice(first, first + self.batch_size)
            some = (
                given[rows],
                shown[rows],
                first,
                self.max_decisions,
                self.penalty_unit,
            )
            batch = Batch(self.session, *some)
            found.append(batch.run(self.policy, self._has_finite_states))
        whole = found[0]
        if len(found) > 1:
            whole = Inference(*map(torch.cat, zip(*found, strict=True)))
        if math.isnan(whole.probabilities.sum()):
            raise DataError(
                "an answer is not finite: the numbers of its input are too large "
                "(prepare them as in training), or the network is broken"
            )
        if isinstance(inputs, Tensor):
            return Inference(*(column.to(inputs.device) for column in whole))
        return Inference(*map(as_numpy, whole))

    def save(self, folder: str | Path) -> None:
        """Write network and policy as one folder: the whole new one or, failing, none.

        Args:
            folder: Made if it is absent.

        Raises:
            ConfigError: The network has no ``to_saved`` (see
                `dynalay_gym.sessions.protocol.Savable`), or the policy is not of
                `dynalay_gym.predictor.policies`.
        """
        if not isinstance(self.session, Savable):
            raise ConfigError(
                f"{type(self.session).__name__} cannot be saved: it has no to_saved() "
                "(dynalay_gym.sessions.protocol.Savable)"
            )
        tensors: dict[str, Tensor] = {}
        saved = {
            "network": self.session.to_saved(),
            "policy": policy_to_saved(self.policy),
        }
        parts = {}
        for part, (kind, options, weights) in saved.items():
            parts[part] = SavedPart(kind=kind, options=options)
            tensors |= {f"{part}.{name}": tensor for name, tensor in weights.items()}
        facts = PredictorFacts(
            penalty=self.penalty,
            penalty_unit=self.penalty_unit,
            max_decisions=self.max_decisions,
            **parts,
        )
        save_folder(folder, KIND, tensors, asdict(facts))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 256,
        sessions: Mapping[str, Restore] | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> "DynaLayPredictor":
        """Read what `save` wrote; needs neither ``agents`` nor its libraries.

        Args:
            folder: The folder.
            device: Where the predictor computes.
            batch_size: Inputs that are worked on side by side.
            sessions: For networks of one's own: by the kind that their ``to_saved``
                gave, what makes a session from its options and its tensors, which lie
                on the device.
            most_bytes: Largest file of tensors that is read; 256 MiB.

        Raises:
            CheckpointError: It is missing or corrupt, its parts do not fit, or its
                kind of network is unknown.
        """
        saved = load_folder(
            folder,
            KIND,
            PredictorFacts,
            most_bytes=most_bytes,
            device=resolve_device(device),
        )
        facts, tensors = saved.facts, saved.tensors
        known = RESTORE | dict(sessions or {})
        kind = facts.network.kind
        if kind not in known:
            raise CheckpointError(
                f"the predictor at {folder} has a network of kind {kind!r}; "
                "name what makes it: load(folder, sessions={kind: function})"
            )
        network = facts.network.options, strip_prefix("network.", tensors)
        policy = facts.policy.options, strip_prefix("policy.", tensors)
        try:
            session = known[kind](*network)
            rule = restore_policy(facts.policy.kind, *policy)
            return cls(session, rule, batch_size=batch_size, **facts.settings)
        except (*_UNFIT, DynaLayError) as error:
            reason = str(error).splitlines()[0].strip()
            raise CheckpointError(
                f"the parts of the predictor at {folder} do not fit each other "
                f"({reason}); save it again with this version"
            ) from None

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=False),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=True, three_d_array=False),
            requires_fit=False,
        )
