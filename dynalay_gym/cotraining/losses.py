"""The two losses of a co-trained main network.

Axes: n samples, L layers, S = 2^L states.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.cotraining.config import CoTrainingConfig
from dynalay_gym.data.splits import Split, augment
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.selective import SelectiveNetwork

_MIXED_WEIGHT = 0.7  # of the random state beside plain and full, as in the warm-up


class CoLosses:
    """Cross-entropy of chosen states, and of what keeps every state usable.

    Args:
        model: The main network, on its device.
        data: The main split, there too.
        solver: Tolerances of the solves that the agent sees.
        config: Options.
        augmented: Shift and mirror the kept samples. Walked ones stay as they are: the
            policy decides on real ones.
    """

    def __init__(
        self,
        model: MainNetwork,
        data: Split,
        solver: SolverConfig,
        config: CoTrainingConfig,
        augmented: bool,
    ) -> None:
        self._model, self._data, self._config = model, data, config
        self._augmented = augmented
        self._selective = SelectiveNetwork(model)
        self._solver = SolverConfig(
            rtol=solver.rtol,
            max_steps=solver.max_steps,
            adjoint_rtol=config.adjoint_rtol,
            adjoint_max_steps=config.adjoint_max_steps,
        )

    def chosen(self, index: Tensor, states: Tensor) -> Tensor:
        """Mean loss of walked samples, each in the state that it was left in.

        Args:
            index: Samples, int64 [n].
            states: Their states, int64 [n].
        """
        with self._autocast():
            logits = self._selective.logits(
                self._data.inputs[index],
                states,
                self._solver,
                chosen_only=self._config.gradients == "chosen",
            )
        return F.cross_entropy(logits.float(), self._data.labels[index])

    def kept(self, num: int, source: torch.Generator) -> Tensor:
        """Mean loss of random samples in the plain, the full and one random state.

        Args:
            num: How many, at least 2.
            source: Source of samples, state and augmentation, on the device.
        """
        device = self._data.labels.device
        index = torch.randint(len(self._data), (num,), generator=source, device=device)
        images, labels = self._data.inputs[index], self._data.labels[index]
        if self._augmented:
            images = augment(images, source)
        weights = self._kept_states(source)
        self._model.train()
        with self._autocast():
            logits = self._model.forward_paths(images, weights, self._solver)
        losses = [
            weight * F.cross_entropy(answer.float(), labels)
            for weight, answer in zip(weights.values(), logits, strict=True)
        ]
        return torch.stack(losses).sum() / sum(weights.values())

    def _kept_states(self, source: torch.Generator) -> dict[int, float]:
        """States of this step and their weights in the loss."""
        full = 2**self._model.num_layers - 1
        weights = {0: 1.0, full: 1.0}
        if full > 1:
            between = torch.randint(1, full, (), generator=source, device=source.device)
            weights[int(between)] = _MIXED_WEIGHT
        return weights

    def _autocast(self) -> torch.autocast:
        device = self._data.inputs.device.type
        bf16 = self._config.precision == "bf16"
        return torch.autocast(device, torch.bfloat16, enabled=bf16)
