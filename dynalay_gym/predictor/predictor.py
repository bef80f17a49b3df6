"""A main network and a policy as one object that answers, and really skips.

Axes: n images [n, C, H, W], K classes, A = L + 1 actions, T = max_decisions.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynalay_gym.envs.walk import LayerWalk
from dynalay_gym.errors import CheckpointError, ConfigError
from dynalay_gym.networks.checkpoint import load_tensors, save_tensors
from dynalay_gym.networks.main_network import MainNetwork, MainNetworkConfig
from dynalay_gym.predictor.inference import (
    Inference,
    host,
    infer_batch,
    read_images,
    read_penalty,
)
from dynalay_gym.predictor.net_policies import AgentNetPolicy, MLPPolicy
from dynalay_gym.predictor.policies import (
    MaxProbPolicy,
    ObservationPolicy,
    PlanPolicy,
    SavedPolicy,
)
from dynalay_gym.sessions.accel.session import fastest_session
from dynalay_gym.sessions.torch_session import TorchSession

KIND = "predictor"
NETWORK, POLICY = "network.", "policy."  # prefixes of the tensors' names
POLICIES: dict[str, type[SavedPolicy]] = {
    policy.kind: policy
    for policy in (AgentNetPolicy, MLPPolicy, PlanPolicy, MaxProbPolicy)
}


class DynaLayPredictor:
    """Classifier that spends compute input by input; already trained.

    It has the methods of a scikit-learn classifier that need no training, so that
    ``sklearn.metrics`` and scorers work. An image's answer and cost do not depend, to
    the bit, on the images beside it.

    Args:
        network: The main network; it is frozen (evaluation mode, no gradients).
        policy: Chooses the layers; one of ``POLICIES``, or any object with ``act`` and
            ``macs_per_decision`` (which cannot be saved).
        penalty: Penalty of compute that is shown to the policy if a call names none.
        rtol: Relative tolerance of a solve; the network's own if None.
        max_steps: Most iterations of a solve; the network's own if None.
        max_decisions: Most decisions per image; L + 1 if None. It is part of the
            observation: give what the policy was trained with.
        batch_size: Images that are worked on side by side; bounds the memory.

    Raises:
        ConfigError: for a bad argument, or a policy that does not fit the network.
    """

    _estimator_type = "classifier"

    def __init__(
        self,
        network: MainNetwork,
        policy: ObservationPolicy,
        *,
        penalty: float,
        rtol: float | None = None,
        max_steps: int | None = None,
        max_decisions: int | None = None,
        batch_size: int = 256,
    ) -> None:
        if batch_size < 1 or (max_decisions is not None and max_decisions < 1):
            raise ConfigError("batch_size and max_decisions must be at least 1")
        self.session = fastest_session(network, rtol, max_steps)
        self.policy, self.batch_size = policy, batch_size
        self.max_decisions = max_decisions or self.session.num_layers + 1
        self.penalty = float(read_penalty(penalty, 1)[0])
        self._spare: dict[tuple[int, int], LayerWalk] = {}
        self.classes_ = np.arange(self.session.num_classes)
        observer = self._walk(0).observer
        self.observation_layout = dict(observer.layout)
        if isinstance(policy, SavedPolicy):
            policy.check_fit(observer.size, observer.num_actions)

    @classmethod
    def from_env(
        cls, env: Any, policy: ObservationPolicy, **options: Any
    ) -> "DynaLayPredictor":
        """Take network, solver settings and penalty from an environment.

        Args:
            env: A DynaLay environment, single or batched; of a range of penalties the
                lowest is the default one.
            policy: Chooses the layers.
            **options: Arguments of the class that replace the environment's.
        """
        problem = env.unwrapped.problem
        if not isinstance(problem.session, TorchSession):
            raise ConfigError("from_env needs an environment that runs its network")
        solver = problem.session.solver
        own: dict[str, Any] = {
            "penalty": problem.penalty_range[0],
            "rtol": solver.rtol,
            "max_steps": solver.max_steps,
            "max_decisions": problem.max_decisions,
        }
        return cls(problem.session.model, policy, **own | options)

    def predict(self, images: Any, *, penalty: Any = None) -> Any:
        """Classes [n] of the images; see ``infer``."""
        return self.infer(images, penalty=penalty).labels

    def predict_proba(self, images: Any, *, penalty: Any = None) -> Any:
        """Probabilities [n, K] of the classes; see ``infer``."""
        return self.infer(images, penalty=penalty).probabilities

    def score(self, images: Any, labels: Any, *, penalty: Any = None) -> float:
        """Share of right answers (accuracy).

        Args:
            images: See ``infer``.
            labels: True classes [n].
            penalty: See ``infer``.
        """
        found = np.asarray(host(self.predict(images, penalty=penalty)))
        true = np.asarray(host(labels))
        if true.shape != found.shape:
            raise ConfigError(
                f"labels must have shape {found.shape}, one per image, not {true.shape}"
            )
        return float(np.mean(found == true))

    def fit(self, images: Any, labels: Any) -> "DynaLayPredictor":
        """Refuse: a predictor is made of parts that are trained already."""
        raise ConfigError(
            "a predictor needs no fit: train_main.py trains its network and "
            "train_agent.py its policy"
        )

    def infer(self, images: Any, *, penalty: Any = None) -> Inference:
        """Answer, and say what each answer took.

        Args:
            images: Floats [n, C, H, W], or flat [n, C * H * W], normalised as those
                that the network was trained on; a numpy array or a tensor.
            penalty: Weight of compute, a number or one per image [n]; the stored one
                if None. It steers only a policy that looks at it.

        Returns:
            Inference in the kind of the images (and on the device of a tensor).

        Raises:
            ConfigError: for images of another shape or type, or a bad penalty.
            DataError: for NaN or infinite pixels.
        """
        session = self.session
        shape = session.model.config.in_shape
        inputs = read_images(images, shape, session.device)
        if penalty is None:
            penalties = torch.full((len(inputs),), self.penalty, device=session.device)
        else:
            penalties = read_penalty(penalty, len(inputs)).to(session.device)
        parts = []
        for first in range(0, max(len(inputs), 1), self.batch_size):
            rows = slice(first, first + self.batch_size)
            parts.append(self._infer(inputs[rows], penalties[rows], first))
        whole = Inference.join(parts)
        if not isinstance(images, Tensor):
            return whole.map(host)
        if images.device == session.device:
            return whole
        return whole.map(lambda values: values.to(images.device))

    def save(self, folder: str | Path) -> None:
        """Write network and policy as one folder: the whole new one or, failing, none.

        Args:
            folder: Made if it is absent.

        Raises:
            ConfigError: if the policy is not one of ``POLICIES``.
        """
        if not isinstance(self.policy, SavedPolicy):
            raise ConfigError(
                f"{type(self.policy).__name__} cannot be saved; only these "
                f"policies can: {', '.join(sorted(POLICIES))}"
            )
        network, policy = self.session.model, self.policy
        tensors = {NETWORK + k: v for k, v in network.state_dict().items()}
        tensors |= {POLICY + k: v for k, v in policy.tensors().items()}
        meta = {
            "kind": KIND,
            "config": network.config.to_dict(),
            "policy": {"kind": policy.kind, "options": policy.options()},
            "penalty": self.penalty,
            "rtol": self.session.solver.rtol,
            "max_steps": self.session.solver.max_steps,
            "max_decisions": self.max_decisions,
        }
        save_tensors(Path(folder), tensors, meta)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 256,
    ) -> "DynaLayPredictor":
        """Read what ``save`` wrote; needs neither ``agents`` nor its libraries.

        Args:
            folder: The folder.
            device: Where the predictor computes.
            batch_size: Images that are worked on side by side.

        Raises:
            CheckpointError: if it is missing, corrupt, or its parts do not fit.
        """
        tensors, meta = load_tensors(folder, device)
        if meta.get("kind") != KIND:
            raise CheckpointError(
                f"the checkpoint at {folder} holds {meta.get('kind')!r}, not a "
                "predictor; give the predictor/ folder that train_agent.py wrote"
            )
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise CheckpointError(
                f"the predictor at {folder} has NaN or infinite weights (a training "
                "diverged); save it again from sound ones"
            )
        try:
            network = MainNetwork(MainNetworkConfig(**meta["config"])).to(device)
            network.load_state_dict(_part(tensors, NETWORK))
            saved = meta["policy"]
            kind = POLICIES[saved["kind"]]
            policy = kind.restore(saved["options"], _part(tensors, POLICY))
            names = ("penalty", "rtol", "max_steps", "max_decisions")
            options = {name: meta[name] for name in names}
            return cls(network, policy, batch_size=batch_size, **options)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0].strip()
            raise CheckpointError(
                f"the parts of the predictor at {folder} do not fit each other "
                f"({reason}); save it again with this version"
            ) from None

    def _infer(self, batch: Tensor, penalties: Tensor, first: int) -> Inference:
        """Walk one batch in the memory of the last one, if it was as large."""
        n = len(batch)
        key = n, self.max_decisions
        walk = self._spare.pop(key, None) or self._walk(n)  # nobody else has it now
        found = infer_batch(walk, self.policy, batch, penalties, first)
        if not torch.is_inference_mode_enabled():  # whose tensors work nowhere else
            self._spare = {key: walk}
        return found

    def __getstate__(self) -> dict[str, Any]:
        """All but the memory that is kept for the next batch."""
        return vars(self) | {"_spare": {}}

    def _walk(self, num_rows: int) -> LayerWalk:
        return LayerWalk(self.session, num_rows, self.max_decisions)

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=False),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=True, three_d_array=False),
            requires_fit=False,
        )


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors of one part, under their own names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
