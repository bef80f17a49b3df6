"""Data-parallel processes that torchrun started; one process is the ordinary case.

The main network's gradients are averaged over the processes by plain reductions: the
policies of two processes choose different layers, so a parameter may have a gradient
on one of them alone, and a missing one counts as zeros.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from dynalay_gym.errors import ConfigError


@dataclass(frozen=True)
class Workers:
    """This process among all.

    Attributes:
        rank: Number of this process, from 0; process 0 writes files.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str) -> "Workers":
        """Join the processes that torchrun started, if it did.

        Args:
            device: ``auto``, ``cpu`` or ``cuda``; every process gets a GPU of its own.

        Raises:
            ConfigError: its variables are there but the others cannot be met.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not distributed.is_initialized():
            on_gpu = device != "cpu" and torch.cuda.is_available()
            if on_gpu:
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            backend = "nccl" if on_gpu else "gloo"
            try:
                distributed.init_process_group(backend)
            except (RuntimeError, ValueError) as error:
                raise ConfigError(
                    f"WORLD_SIZE is set but the processes do not meet ({error}); start "
                    "with torchrun, or unset WORLD_SIZE"
                ) from None
        return cls(distributed.get_rank(), distributed.get_world_size())

    def leave(self) -> None:
        """Part from the other processes, once all are ready to."""
        if self.size > 1 and distributed.is_initialized():
            # One that ends while another still speaks may be aborted.
            distributed.barrier()
            distributed.destroy_process_group()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients over the processes; what nobody has stays missing."""
        if self.size == 1:
            return
        parameters = list(parameters)
        flat = torch.cat(
            [
                torch.zeros_like(one).flatten()
                if one.grad is None
                else one.grad.flatten()
                for one in parameters
            ]
        )
        there = flat.new_tensor([float(one.grad is not None) for one in parameters])
        both = torch.cat([flat / self.size, there])
        distributed.all_reduce(both)
        flat, there = both.split([len(flat), len(there)])
        parts = flat.split([one.numel() for one in parameters])
        for one, part, count in zip(parameters, parts, there.tolist(), strict=True):
            one.grad = part.view_as(one).clone() if count > 0 else None

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Average floating-point tensors over the processes, in place."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([one.detach().flatten() for one in tensors]) / self.size
        distributed.all_reduce(flat)
        self._write(flat, tensors)

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Give process 0's tensors (of one dtype and device) to all, in place."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([one.detach().flatten() for one in tensors])
        distributed.broadcast(flat, 0)
        self._write(flat, tensors)

    def tell(self, text: str) -> str:
        """Process 0's text, in all processes; the others wait for it."""
        said: list[str] = [text]
        if self.size > 1:
            distributed.broadcast_object_list(said, 0)
        return said[0]

    def gather(self, tensor: Tensor) -> Tensor:
        """Stack equally shaped tensors of all processes: [size, ...]."""
        if self.size == 1:
            return tensor[None]
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(parts, tensor)
        return torch.stack(parts)

    @staticmethod
    def _write(flat: Tensor, tensors: Sequence[Tensor]) -> None:
        parts = flat.split([one.numel() for one in tensors])
        with torch.no_grad():
            for one, part in zip(tensors, parts, strict=True):
                one.copy_(part.view_as(one))
