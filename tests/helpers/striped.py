"""Images of three classes that any network can tell apart."""

import torch

from dynalay_gym.data.splits import Split


def striped_split() -> Split:
    """Return 96 images [1, 8, 8]: which third of the rows is bright is the class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 3
    images = 0.3 * torch.randn(96, 1, 8, 8, generator=generator)
    for row, label in enumerate(labels.tolist()):
        images[row, 0, 3 * label : 3 * label + 2] += 2.0
    return Split(inputs=images, labels=labels, name="main")
