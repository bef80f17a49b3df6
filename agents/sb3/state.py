"""What a training of Stable-Baselines3 continues from, beside its networks.

Its own ``save`` pickles objects and leaves out what lies outside of the algorithm: the
monitor's episodes, metrics that are not written yet, the global random numbers.
"""

import json
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynalay_gym.networks.policy import Infos, as_numpy
from dynalay_gym.storage.training_state import strip_prefix

_COUNTS = ("num_timesteps", "_n_updates", "_episode_num", "_n_calls")
_BUFFER = "observations next_observations actions rewards dones timeouts".split()


def algorithm_state(model: Any) -> dict[str, Tensor]:
    """Return counters, episodes, unwritten metrics, random numbers, replay buffer."""
    monitor, episodes = model.env, model.ep_info_buffer
    returns = np.array([each["r"] for each in episodes], dtype=np.float32)
    lengths = np.array([each["l"] for each in episodes], dtype=np.int32)
    tensors = {
        "counts": torch.tensor([getattr(model, name, 0) for name in _COUNTS]),
        "monitor/returns": torch.from_numpy(monitor.episode_returns.copy()),
        "monitor/lengths": torch.from_numpy(monitor.episode_lengths.copy()),
        "episodes/returns": torch.from_numpy(returns),
        "episodes/lengths": torch.from_numpy(lengths),
    }
    for tag, value in model.logger.name_to_value.items():
        if isinstance(value, int | float | np.number):
            number = torch.tensor(float(value), dtype=torch.float64)
            tensors[f"metrics/{tag}"] = number.view(torch.int64)  # may be NaN
    return tensors | _random_state(model) | _buffer_state(model)


def load_algorithm_state(
    model: Any, tensors: Mapping[str, Tensor], observations: Any, infos: Infos
) -> None:
    """Let the next ``learn`` of an equal model continue; see `algorithm_state`.

    Before it, call `load_for_learn`.
    """
    for name, count in zip(_COUNTS, tensors["counts"].tolist(), strict=True):
        if hasattr(model, name):
            setattr(model, name, count)
    model._last_obs = as_numpy(observations)
    model._last_episode_starts = as_numpy(infos["decisions"]) == 0
    monitor = model.env
    monitor.episode_returns = tensors["monitor/returns"].numpy(force=True).copy()
    monitor.episode_lengths = tensors["monitor/lengths"].numpy(force=True).copy()
    kept = (
        tensors[f"episodes/{name}"].numpy(force=True) for name in ("returns", "lengths")
    )
    episodes = [{"r": r, "l": n, "t": 0.0} for r, n in zip(*kept, strict=True)]
    model.ep_info_buffer = deque(episodes, maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(maxlen=model._stats_window_size)
    _load_buffer(model, strip_prefix("buffer/", tensors))


def load_for_learn(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Set what others may use meanwhile: the logger and the random numbers."""
    for tag, bits in strip_prefix("metrics/", tensors).items():
        model.logger.record(tag, bits.cpu().view(torch.float64).item())
    torch.set_rng_state(tensors["random/torch"].cpu())
    *key, position = tensors["random/numpy"].tolist()
    state = "MT19937", np.array(key, dtype=np.uint32), position, 0, 0.0
    np.random.set_state(state)  # noqa: NPY002
    text = bytes(tensors["random/actions"].tolist())
    model.action_space.np_random.bit_generator.state = json.loads(text)


def _random_state(model: Any) -> dict[str, Tensor]:
    """Return the states of the global generators, and of its random actions'."""
    state: Any = np.random.get_state()  # noqa: NPY002 - it draws from it
    numbers = [*state[1].tolist(), state[2]]  # key, and the position in it
    text = json.dumps(model.action_space.np_random.bit_generator.state)
    return {
        "random/torch": torch.get_rng_state(),
        "random/numpy": torch.tensor(numbers),
        "random/actions": torch.tensor(list(text.encode()), dtype=torch.uint8),
    }


def _buffer_state(model: Any) -> dict[str, Tensor]:
    """Return DQN's replay buffer and exploration; nothing of other algorithms."""
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None:
        return {}
    filled = buffer.buffer_size if buffer.full else buffer.pos
    parts = {
        f"buffer/{name}": torch.from_numpy(getattr(buffer, name)[:filled])
        for name in _BUFFER
    }
    rate = torch.tensor(model.exploration_rate, dtype=torch.float64)
    return parts | {"buffer/pos": torch.tensor(buffer.pos), "buffer/rate": rate}


def _load_buffer(model: Any, parts: Mapping[str, Tensor]) -> None:
    """Fill the replay buffer with what `_buffer_state` returned."""
    if not parts:
        return
    buffer, filled = model.replay_buffer, len(parts["rewards"])
    for name in _BUFFER:
        getattr(buffer, name)[:filled] = parts[name].numpy(force=True)
    model.exploration_rate = float(parts["rate"])
    buffer.pos, buffer.full = int(parts["pos"]), filled == buffer.buffer_size
