"""Memory of a piece of work: what autograd keeps, and the most alive at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def saved_bytes(forward: Callable[[], Tensor], known: list[Tensor]) -> int:
    """Bytes that ``forward`` leaves saved for its backward pass.

    Every storage counts once; those of ``known`` tensors (input, weight) do not.
    """
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)  # a freed address must not be counted again
        return tensor

    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    for tensor in known:
        sizes.pop(tensor.untyped_storage().data_ptr(), None)
    del result
    return sum(sizes.values())


class PeakMemory(TorchDispatchMode):
    """Most bytes of results of PyTorch operations alive at once inside the context.

    Memory that a kernel takes and gives back within one operation is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and look at what is alive after it."""
        result = func(*args, **(kwargs or {}))
        self._alive = {
            key: (ref, size)
            for key, (ref, size) in self._alive.items()
            if not ref.expired()
        }
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                ref = StorageWeakRef(leaf.untyped_storage())
                self._alive[ref.cdata] = (ref, leaf.untyped_storage().nbytes())
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result
