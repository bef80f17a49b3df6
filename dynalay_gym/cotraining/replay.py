"""The recent walks, for reuse: sample and state of each, on one device."""

import torch
from torch import Tensor


class Replay:
    """Ring of (sample, state) pairs; the oldest leave first.

    Attributes:
        kept: Newest last, int64 [capacity, 2]; -1 where nothing has come yet.

    Args:
        capacity: Most pairs.
        device: Where they live.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.kept = torch.full((capacity, 2), -1, dtype=torch.int64, device=device)

    def __len__(self) -> int:
        """Pairs that are there."""
        return int((self.kept[:, 0] >= 0).sum())

    def add(self, pairs: Tensor) -> None:
        """Take int64 pairs [n, 2], the newest last."""
        self.kept = torch.cat([self.kept, pairs])[-len(self.kept) :].contiguous()

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Pairs [num, 2] drawn evenly with replacement; needs at least one to be there.

        Args:
            num: How many, >= 0.
            generator: Source of the draw, on the device.
        """
        there = max(len(self), 1)
        back = torch.randint(
            1, there + 1, (num,), generator=generator, device=self.kept.device
        )
        return self.kept[len(self.kept) - back]
