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

from dynalay_gym.errors import CheckpointError
from dynalay_gym.networks.policy import Infos, as_numpy
from dynalay_gym.storage.schema import parse_json
from dynalay_gym.storage.training_state import strip_prefix, take

_COUNTS = ("_n_updates", "_episode_num", "_n_calls")
_MOST = 2**62  # of a count
_BUFFER = "observations next_observations actions rewards dones timeouts".split()


def algorithm_state(model: Any) -> dict[str, Tensor]:
    """Return counters, episodes, unwritten metrics, random numbers, replay buffer."""
    monitor, episodes = model.env, model.ep_info_buffer
    returns = np.array([each["r"] for each in episodes], dtype=np.float32)
    lengths = np.array([each["l"] for each in episodes], dtype=np.int32)
    tensors = {
        "taken": torch.tensor(model.num_timesteps),
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

    Raises:
        CheckpointError: Something is missing or does not belong there.
    """
    _read_random(model, tensors)  # so that `load_for_learn` finds nothing wrong
    _read_metrics(tensors)
    counts = take(tensors, "counts", torch.int64, (len(_COUNTS),), least=0, most=_MOST)
    for name, count in zip(_COUNTS, counts.tolist(), strict=True):
        if hasattr(model, name):
            setattr(model, name, count)
    taken = take(tensors, "taken", torch.int64, least=0, most=_MOST)
    model.num_timesteps = int(taken)
    model._last_obs = as_numpy(observations)
    model._last_episode_starts = as_numpy(infos["decisions"]) == 0
    rows = (model.env.num_envs,)
    returns, lengths = _read_episodes(tensors, "monitor", rows)
    model.env.episode_returns, model.env.episode_lengths = returns, lengths
    kept = _read_episodes(tensors, "episodes", (None,))
    episodes = [{"r": r, "l": n, "t": 0.0} for r, n in zip(*kept, strict=True)]
    model.ep_info_buffer = deque(episodes, maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(maxlen=model._stats_window_size)
    _load_buffer(model, strip_prefix("buffer/", tensors))


def load_for_learn(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Set what others may use meanwhile: the logger and the random numbers."""
    for tag, value in _read_metrics(tensors).items():
        model.logger.record(tag, value)
    state, numpy_state, actions_state = _read_random(model, tensors)
    torch.set_rng_state(state)
    np.random.set_state(numpy_state)  # noqa: NPY002
    model.action_space.np_random.bit_generator.state = actions_state


def _read_episodes(
    tensors: Mapping[str, Tensor], group: str, shape: tuple[int | None]
) -> tuple[Any, Any]:
    """Return returns and lengths of as many episodes, as arrays."""
    returns = take(tensors, f"{group}/returns", torch.float32, shape)
    num = tuple(returns.shape)
    lengths = take(tensors, f"{group}/lengths", torch.int32, num, least=0)
    return returns.numpy().copy(), lengths.numpy().copy()


def _read_metrics(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the metrics that are not written yet, by tag."""
    tags = [name for name in tensors if name.startswith("metrics/")]
    bits = {tag: take(tensors, tag, torch.int64) for tag in tags}
    return {
        tag.removeprefix("metrics/"): value.view(torch.float64).item()
        for tag, value in bits.items()
    }


def _read_random(
    model: Any, tensors: Mapping[str, Tensor]
) -> tuple[Tensor, tuple[Any, ...], Any]:
    """Return states of the global generators, and of its random actions'."""
    own = torch.get_rng_state()
    state = take(tensors, "random/torch", torch.uint8, tuple(own.shape))
    most = 2**32 - 1
    numbers = take(tensors, "random/numpy", torch.int64, (625,), least=0, most=most)
    *key, position = numbers.tolist()
    numpy_state = "MT19937", np.array(key, dtype=np.uint32), position, 0, 0.0
    text = bytes(take(tensors, "random/actions", torch.uint8, (None,)).tolist())
    actions_state = parse_json(text, "the saved training's state of random actions")
    try:
        torch.Generator().set_state(state)
        np.random.RandomState().set_state(numpy_state)
        kind = type(model.action_space.np_random.bit_generator)
        kind().state = actions_state
    except (KeyError, OverflowError, RuntimeError, TypeError, ValueError):
        raise CheckpointError(
            "the saved training has random numbers in no possible state; start anew"
        ) from None
    return state, numpy_state, actions_state


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
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None:
        return
    pos = int(take(parts, "pos", torch.int64, least=0, most=buffer.buffer_size - 1))
    rewards = take(parts, "rewards", torch.float32, (None, model.env.num_envs))
    filled = len(rewards)
    if filled not in (pos, buffer.buffer_size):
        raise CheckpointError("the saved training has half a replay buffer; start anew")
    for name in _BUFFER:
        own = getattr(buffer, name)
        limits: dict[str, float] = {}
        if name == "actions":
            limits = {"least": 0, "most": model.action_space.n - 1}
        dtype, shape = torch.from_numpy(own[:0]).dtype, (filled, *own.shape[1:])
        part = take(parts, name, dtype, shape, **limits)
        own[:filled] = part.numpy()
    rate = take(parts, "rate", torch.float64, least=0, most=1)
    model.exploration_rate = float(rate)
    buffer.pos, buffer.full = pos, filled == buffer.buffer_size
