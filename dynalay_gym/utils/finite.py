"""A training stops at the first number that is not finite, before it learns from it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from dynalay_gym.errors import DivergedError

MEND_DATA = "mend the data, or the environment, that it comes from"
_LARGE = 2**16  # numbers of a tensor that costs more to copy than to call for


class FiniteGuard:
    """Keeps an optimiser from stepping on, or to, numbers that are not finite.

    A hook looks at gradients and weights before each of the optimiser's steps, whoever
    calls it. What is not finite after the last one shows in `check_weights`; what goes
    into a loss, and the loss, is given to `check`.

    Args:
        module: All that is trained and saved.
        optimizer: Its optimiser, which gets the hook.
        remedy: What a user can do about a divergence, in a few words.
        steps: Returns the steps that were taken, for optimisers that do not count them.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        remedy: str,
        steps: Callable[[], int] | None = None,
    ) -> None:
        self._module, self._optimizer, self._remedy = module, optimizer, remedy
        self._count = steps
        self._weights = list(module.parameters())
        optimizer.register_step_pre_hook(self._before_step)

    def check(
        self,
        name: str,
        values: Tensor,
        *,
        samples: Tensor | None = None,
        remedy: str | None = None,
    ) -> None:
        """Raise if a number that is learned from is not finite.

        Args:
            name: What the numbers are.
            values: The numbers, of any shape.
            samples: Samples that they belong to along axis 0, int64 [n].
            remedy: What a user can do, in place of the training's own remedy.

        Raises:
            DivergedError: Naming the first of them, and the optimiser's step.
        """
        found = _find_broken(name, values, samples)
        if found is None:
            return
        if remedy is None and not are_finite(self._weights):
            self.check_weights()  # from which it follows
        raise self._error(f"{found} at optimiser step {self._steps() + 1}", remedy)

    def check_weights(self) -> None:
        """Raise DivergedError, naming it, if a weight or a statistic is not finite."""
        if not are_finite([*self._weights, *self._module.buffers()]):
            broken = broken_part(self._module.state_dict())
            raise self._error(f"{broken} is not finite after {self._steps()} steps")

    @contextmanager
    def keep_statistics(self) -> Iterator[None]:
        """Put the module's buffers back if a step that moves them diverges."""
        before = [part.clone() for part in self._module.buffers()]
        try:
            yield
        except DivergedError:
            with torch.no_grad():
                for part, kept in zip(self._module.buffers(), before, strict=True):
                    part.copy_(kept)
            raise

    def _before_step(self, *_: Any) -> None:
        gradients = [part.grad for part in self._weights if part.grad is not None]
        if are_finite([*gradients, *self._weights]):
            return
        self.check_weights()
        named = {
            name: weight.grad
            for name, weight in self._module.named_parameters()
            if weight.grad is not None
        }
        what = f"the gradient of {broken_part(named)} is not finite"
        raise self._error(f"{what} at optimiser step {self._steps() + 1}")

    def _error(self, what: str, remedy: str | None = None) -> DivergedError:
        return DivergedError(f"{what}; {remedy or self._remedy}")

    def _steps(self) -> int:
        """Return the steps that the optimiser has taken, also before a resume."""
        if self._count is not None:
            return self._count()
        counts = (state.get("step", 0) for state in self._optimizer.state.values())
        return max(map(int, counts), default=0)


@torch.no_grad()
def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether all numbers are finite: their extremes are; no mask is made."""
    flat = [tensor.reshape(-1) for tensor in tensors if tensor.numel()]
    small = [tensor for tensor in flat if tensor.numel() < _LARGE]
    groups = [tensor for tensor in flat if tensor.numel() >= _LARGE]
    if small:
        groups.append(torch.cat(small))  # one call for all of them
    if not groups:
        return True
    extremes = chain.from_iterable(torch.aminmax(group) for group in groups)
    found = torch.stack([extreme.isfinite() for extreme in extremes])
    return bool(found.all())  # a GPU is waited for once


def broken_part(named: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that is not finite; None if all are."""
    return next((k for k, v in named.items() if not bool(v.isfinite().all())), None)


def check_finite(
    name: str, values: Tensor, remedy: str, samples: Tensor | None = None
) -> None:
    """Raise DivergedError if a number is not finite; see `FiniteGuard.check`."""
    found = _find_broken(name, values, samples)
    if found is not None:
        raise DivergedError(f"{found}; {remedy}")


def _find_broken(name: str, values: Tensor, samples: Tensor | None) -> str | None:
    """Return a sentence on the first number that is not finite; None if all are."""
    if are_finite([values]):
        return None
    place = tuple(values.isfinite().logical_not().nonzero()[0].tolist())
    number = values[place].item()
    if samples is not None:
        name, place = f"{name} of sample {int(samples[place[0]])}", place[1:]
    where = f" at {list(place)}" if place else ""
    return f"the {name}{where} is {number}"
