"""The global random states that Stable-Baselines3 draws from, as named tensors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_states() -> dict[str, Tensor]:
    """Return the states of torch's and NumPy's global generators."""
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - it draws from it
    inner = state["state"]
    numbers = [inner["pos"], state["has_gauss"], state["gauss"]]
    return {
        "random/torch": torch.get_rng_state(),
        "random/numpy": torch.from_numpy(inner["key"].astype(np.int64)),
        "random/numpy-rest": torch.tensor(numbers, dtype=torch.float64),
    }


def set_random_states(tensors: Mapping[str, Tensor]) -> None:
    """Put the global generators where `random_states` found them."""
    torch.set_rng_state(tensors["random/torch"].cpu())
    pos, has_gauss, gauss = tensors["random/numpy-rest"].tolist()
    key = tensors["random/numpy"].cpu().numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, int(pos), int(has_gauss), gauss))  # noqa: NPY002
