"""Checks of what a session is asked for, before it touches any memory.

Axes: n rows, m of them chosen.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from dynalay_gym.data.splits import Split
from dynalay_gym.errors import CheckpointError, DataError, brief
from dynalay_gym.sessions.protocol import NetworkSession
from dynalay_gym.utils.finite import broken_part


def check_rows(rows: Tensor, num_rows: int) -> None:
    """Raise ValueError unless rows are int64 [m] in 0..n-1."""
    _check(rows, None, num_rows, "rows")


def check_actions(actions: Tensor, num_chosen: int, num_actions: int) -> None:
    """Raise ValueError unless actions are int64 [m] in 0..A-1."""
    _check(actions, num_chosen, num_actions, "actions")


def check_states(state_ids: Tensor, num_chosen: int, num_states: int) -> None:
    """Raise ValueError unless states are int64 [m] in 0..S-1."""
    _check(state_ids, num_chosen, num_states, "state_ids")


def check_inputs(inputs: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise ValueError unless inputs have this shape and type."""
    wanted = f"inputs must be {dtype} of shape {shape}"
    if not _is_dense(inputs):
        raise ValueError(f"{wanted}, a dense tensor, not {type(inputs).__name__}")
    if inputs.shape != shape or inputs.dtype != dtype:
        raise ValueError(f"{wanted}, not {inputs.dtype} of shape {tuple(inputs.shape)}")


def _is_dense(values: Tensor) -> bool:
    """Return whether it is a tensor with numbers in memory, one beside the other."""
    is_tensor = isinstance(values, Tensor)
    return is_tensor and values.layout is torch.strided and not values.is_meta


def check_weights(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless weights can take the place of a session's own."""
    shapes, given = ({k: v.shape for k, v in w.items()} for w in (own, weights))
    if shapes != given:
        raise CheckpointError(
            "the weights are of another architecture than this environment's "
            "network; give those of a network made from the same checkpoint"
        )
    # A mask of -inf, say, is no sign of a training that diverged.
    finite = [name for name, part in own.items() if bool(part.isfinite().all())]
    broken = broken_part({name: weights[name] for name in finite})
    if broken is not None:
        raise CheckpointError(
            f"the weights' {broken} is not finite (their training diverged); give "
            "earlier ones"
        )


def check_tokens(tokens: Tensor, vocabulary: int) -> None:
    """Check that tokens, int64 [m, T], are in a vocabulary, and padding behind them.

    Raises:
        DataError: They are not.
    """
    if tokens.numel() == 0:
        return
    lowest, highest = map(int, torch.aminmax(tokens))
    if lowest < 0 or highest >= vocabulary:
        wrong = lowest if lowest < 0 else highest
        raise DataError(
            f"tokens must lie in 0..{vocabulary - 1}, not {wrong}; encode texts as in "
            "training"
        )
    is_word = tokens != 0
    if bool((is_word[:, 1:] & ~is_word[:, :-1]).any()):
        raise DataError(
            "padding (token 0) stands before a word; put it behind the text"
        )


def check_fit(session: NetworkSession, split: Split) -> None:
    """Check that a network can run a split.

    Raises:
        CheckpointError: Shape of the samples or number of classes differ.
        DataError: A sample is not finite, or of another type than the network takes.
    """
    expected = getattr(session, "in_shape", None)
    got = tuple(split.inputs.shape[1:])
    if expected is not None and tuple(expected) != got:
        raise CheckpointError(
            f"the network takes inputs of shape {tuple(expected)}, the data has {got}; "
            "give a checkpoint that was trained on this data set"
        )
    own = split.vocabulary
    if own is not None and own != getattr(session, "vocabulary", own):
        raise CheckpointError(
            f"the words of split {split.name!r} have other numbers than those that the "
            "network was trained on; give a checkpoint of this data set, or encode the "
            "texts with its own vocabulary (network.config.vocabulary)"
        )
    dtype = getattr(session, "in_dtype", split.inputs.dtype)
    if split.inputs.dtype != dtype:
        raise DataError(
            f"split {split.name!r} holds {split.inputs.dtype}, the network takes "
            f"{dtype}; convert it with .to({dtype}), prepared as in training"
        )
    if split.inputs.is_floating_point() and not bool(split.inputs.isfinite().all()):
        raise DataError(
            f"split {split.name!r} holds NaN or infinite inputs; mend or replace it"
        )
    if int(split.labels.max()) >= session.num_classes:
        raise CheckpointError(
            f"the network knows {session.num_classes} classes, the data has more; "
            "give a checkpoint that was trained on this data set"
        )


def _check(values: Tensor, length: int | None, limit: int, name: str) -> None:
    if not _is_dense(values) or values.dtype != torch.int64 or values.dim() != 1:
        raise ValueError(f"{name} must be int64 of one axis, not {brief(values)}")
    host = values.cpu().numpy().view(np.uint64)  # a negative number becomes a huge one
    if length is not None and host.size != length:
        raise ValueError(f"{name} must have {length} entries, not {host.size}")
    if host.size > 0 and host.max() >= limit:
        raise ValueError(f"{name} must lie in 0..{limit - 1}, not {brief(values)}")
