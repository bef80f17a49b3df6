"""Processes that train one network together, each on its part of every batch.

They are started by ``torchrun --nproc-per-node 2 train_main.py ...`` (see
https://docs.pytorch.org/docs/stable/elastic/run.html). All of them draw the same random
numbers and begin with the same weights. Each computes the gradient of its part of a
batch; the mean of those is the gradient of the whole batch, if its loss is a mean over
samples, and is what everybody's optimiser steps on.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Processes:
    """One of several processes; by default the only one, which then waits for nobody.

    All of them have to call the same methods in the same order.

    Attributes:
        rank: Number of this process, from 0. The first one writes the files.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def part(self, num: int) -> slice:
        """Return where this process's part of a batch is.

        Args:
            num: Samples of the batch, a multiple of the number of processes.
        """
        own = num // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of floats by their mean over the processes."""
        if self.size == 1:
            return
        total = torch.cat([each.detach().reshape(-1) for each in tensors])
        distributed.all_reduce(total)
        parts = total.div_(self.size).split([each.numel() for each in tensors])
        for each, mean in zip(tensors, parts, strict=True):
            each.detach().copy_(mean.view_as(each))

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of the first process."""
        if self.size > 1:
            for each in tensors:
                distributed.broadcast(each.detach(), 0)

    def largest(self, number: int) -> int:
        """Return the largest of the processes' numbers; wait until all have come."""
        if self.size == 1:
            return number
        found = torch.tensor(number, device="cpu")
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return int(found)


@contextmanager
def join() -> Iterator[Processes]:
    """Join the processes that torchrun started; a single one has nothing to join.

    On a machine with GPUs each process has one of its own, which ``cuda`` then means.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group()
    try:
        yield Processes(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()
