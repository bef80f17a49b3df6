"""One batch of images walked by a policy, and the checks of what a caller hands in.

Axes: n images [n, C, H, W], K classes, A = L + 1 actions, T = most decisions.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynalay_gym.envs.actions import check_actions
from dynalay_gym.envs.walk import LayerWalk
from dynalay_gym.errors import ConfigError, DataError
from dynalay_gym.fixed_point.progress import SolverStatus
from dynalay_gym.predictor.policies import ObservationPolicy
from dynalay_gym.sessions.activations import ALL, Rows


@dataclass(frozen=True)
class Inference:
    """Answers and what each took; numpy arrays or tensors, as the images were.

    Attributes:
        probabilities: Softmax of the logits at the stop, float32 [n, K].
        labels: The most probable class, int64 [n].
        macs: Multiply-adds of the main network, plain pass included, int64 [n].
        policy_macs: Multiply-adds of the policy, int64 [n].
        decisions: Decisions taken, int64 [n].
        solver_steps: Iterations of all solves, int64 [n].
        converged: Whether every solve reached its tolerance, bool [n].
        actions: Actions in order, int64 [n, T]; -1 after the stop.
    """

    probabilities: Any
    labels: Any
    macs: Any
    policy_macs: Any
    decisions: Any
    solver_steps: Any
    converged: Any
    actions: Any

    def map(self, convert: Callable[[Any], Any]) -> "Inference":
        """The same with every entry converted."""
        return Inference(*(convert(getattr(self, f.name)) for f in fields(self)))

    @staticmethod
    def join(parts: "Sequence[Inference]") -> "Inference":
        """One of all rows; the entries are tensors."""
        if len(parts) == 1:
            return parts[0]
        columns = ([getattr(part, f.name) for part in parts] for f in fields(Inference))
        return Inference(*(torch.cat(column) for column in columns))


@torch.no_grad()
def infer_batch(
    walk: LayerWalk,
    policy: ObservationPolicy,
    images: Tensor,
    penalty: Tensor,
    first: int = 0,
) -> Inference:
    """Walk one batch to its answers; a row that has stopped runs nothing any more.

    Args:
        walk: A walk of n rows; whatever it did before is forgotten.
        policy: Chooses the layers.
        images: Images [n, C, H, W].
        penalty: Their penalties [n].
        first: Number of the first image.

    Returns:
        Inference of tensors.

    Raises:
        InvalidActionError: for a policy's action that there is not.
    """
    numbers = torch.arange(first, first + len(images), device=walk.device)
    walk.start(ALL, images, numbers, penalty)
    total = walk.costs.clone()
    for rows in _decisions(walk, policy):
        if isinstance(rows, slice):  # all of them: nothing to gather
            _add(total, walk.costs)
        else:
            some = total[:, rows]
            _add(some, walk.costs[:, rows])
            total[:, rows] = some
    macs, steps, status = total.unbind()
    assert walk.state is not None, "started above"
    return Inference(
        probabilities=walk.state.logits.softmax(1),
        labels=walk.prediction(),
        macs=macs,
        policy_macs=walk.episode.decisions * policy.macs_per_decision,
        decisions=walk.episode.decisions.clone(),
        solver_steps=steps,
        converged=status == SolverStatus.CONVERGED,
        actions=walk.history.clone(),
    )


def _add(total: Tensor, last: Tensor) -> None:
    """Add a decision's MACs and iterations; of statuses the worst counts."""
    total[:2] += last[:2]
    torch.maximum(total[2], last[2], out=total[2])


def _decisions(walk: LayerWalk, policy: ObservationPolicy) -> Iterator[Rows]:
    """Let a policy walk to the end; yields the rows of each decision after it."""
    plans = getattr(policy, "plans", None)  # as OpenLoopPolicy has it
    if plans is not None:
        walk.follow(plans(walk.observe_rows(ALL), _infos(walk, ALL)))
        yield ALL
        return
    rows: Rows = ALL
    going = torch.arange(walk.num_rows, device=walk.device)
    while len(going) > 0:
        seen, infos = walk.observe_rows(rows), _infos(walk, rows)
        actions = check_actions(policy.act(seen, infos), len(going), walk.num_actions)
        stops = walk.advance(rows, actions)
        yield rows
        rows = going = going[~stops]


def _infos(walk: LayerWalk, rows: Rows) -> dict[str, Tensor]:
    """What a policy is told beside the observation; copies."""
    episode = walk.episode
    told = {
        "index": episode.index,
        "penalty": episode.penalty,
        "decisions": episode.decisions,
    }
    mask = walk.action_mask().to(torch.int8)
    if isinstance(rows, slice):
        infos = {name: values.clone() for name, values in told.items()}
        return infos | {"action_mask": mask}
    infos = {name: values.index_select(0, rows) for name, values in told.items()}
    return infos | {"action_mask": mask.index_select(0, rows)}


def read_images(
    images: Any, shape: tuple[int, ...], device: torch.device | str
) -> Tensor:
    """Check images and bring them to the device.

    Args:
        images: Floats [n, *shape] or flat, an array or a tensor.
        shape: Channels, height and width.
        device: Where they go.

    Returns:
        float32 [n, *shape].

    Raises:
        ConfigError: for another type or shape.
        DataError: for NaN or infinite pixels.
    """
    sides = ", ".join(map(str, shape))
    try:
        given = images if isinstance(images, Tensor) else _own_tensor(images)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(
            f"images must be an array of floats [n, {sides}], not "
            f"{type(images).__name__}"
        ) from None
    if not given.is_floating_point():
        raise ConfigError(
            f"images must be floats, normalised as in training, not {given.dtype}"
        )
    if tuple(given.shape[1:]) not in (shape, (math.prod(shape),)):
        raise ConfigError(
            f"images must have shape [n, {sides}] or be flat, not {list(given.shape)}"
        )
    inputs = given.detach().to(device, torch.float32)
    # The extremes are NaN or infinite if any pixel is; no mask of all pixels is made.
    # (NumPy's are found without threads that would then wait busily beside our own.)
    pixels = inputs.numpy() if inputs.is_cpu else inputs
    extremes = (pixels.min(), pixels.max()) if inputs.numel() > 0 else ()
    if not all(math.isfinite(each) for each in extremes):
        raise DataError("the images hold NaN or infinite pixels; mend them")
    return inputs.reshape(-1, *shape)


def _own_tensor(values: Any) -> Tensor:
    """Array as a tensor; copied where torch could not share or write its memory."""
    return torch.from_numpy(np.require(np.asarray(values), requirements=["C", "W"]))


def read_penalty(penalty: Any, num: int) -> Tensor:
    """Check a penalty, a number or one per image; float32 [num] on the CPU."""
    try:
        values = np.asarray(host(penalty), dtype=np.float32)
        spread = np.empty(num, dtype=np.float32)
        spread[:] = values
    except (TypeError, ValueError):
        raise ConfigError(
            f"penalty must be a number, or one per image [{num}], not {penalty!r}"
        ) from None
    if not bool(np.all(np.isfinite(values) & (values >= 0))):
        raise ConfigError(f"penalty must be finite and at least 0: {penalty!r}")
    return torch.from_numpy(spread)


def host(values: Any) -> Any:
    """Tensors as numpy arrays; anything else as it is."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values
