"""Perplexity of a network's plain pass over the words of WikiText-2's test part.

    python -m benchmarks.paper.perplexity --networks NETWORK --data-dir DATA

Every word but the first few is predicted from as many before it as a window has; the
split itself asks for one word per window.

Axes: n windows, T words of a window.
"""

from dataclasses import dataclass
from math import exp
from pathlib import Path

import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.networks.checkpoint import load_main_network
from dynalay_gym.networks.main_network import MainNetwork

_BATCH = 250


@dataclass(frozen=True, kw_only=True)
class Args:
    """Print the perplexity of networks, at the split's words and at all of them."""

    networks: tuple[Path, ...]
    """Folders of the networks."""
    data_dir: Path | None = None
    """Folder of the data files."""
    stride: int = 1
    """Predict every n-th word."""


def main(args: Args) -> None:
    """Load, measure, print."""
    torch.set_num_threads(1)
    split = load_split("wikitext2", "test", data_dir=args.data_dir)
    for folder in args.networks:
        network = load_main_network(folder)[0].eval()
        found, words = perplexity(network, split, args.stride)
        print(f"{folder}: {found:.1f} over {words:,} words", flush=True)


@torch.no_grad()
def perplexity(network: MainNetwork, split: Split, stride: int) -> tuple[float, int]:
    """Return the perplexity of the plain pass, and over how many words it is."""
    total, words = 0.0, 0
    for windows in sliding(split, stride).split(_BATCH):
        texts, labels = windows[:, :-1], windows[:, -1]
        total += float(F.cross_entropy(network(texts), labels, reduction="sum"))
        words += len(labels)
    return exp(total / words), words


def sliding(split: Split, stride: int) -> Tensor:
    """Return windows and the word behind each, int64 [n, T + 1], `stride` words apart.

    Args:
        split: Windows that follow each other without a gap.
        stride: Words from one window to the next.
    """
    text = torch.cat([split.inputs.flatten(), split.labels[-1:]])
    return text.unfold(0, split.inputs.shape[1] + 1, stride)


if __name__ == "__main__":
    main(tyro.cli(Args))
