"""Use fixed-point layers in a network of your own: two of them, on small digits.

Both layers return the solution of ``z = relu(x + W z)`` and are trained through it with
the implicit gradient. Run it from the checkout:

    python examples/fixed_point_layer.py

Axes: n samples, C channels, H rows, W columns, K classes.
"""

import torch
import tyro
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.fixed_point.layers import (
    ConvFixedPointLayer,
    DenseFixedPointLayer,
    FixedPointLayer,
)
from dynalay_gym.fixed_point.progress import SolveResult
from dynalay_gym.fixed_point.solve import SolverConfig

SIDE, CHANNELS, FEATURES = 4, 16, 32


class Net(nn.Module):
    """A convolution, a fixed point of maps, a fixed point of vectors, a head."""

    def __init__(self) -> None:
        super().__init__()
        solver = SolverConfig(rtol=1e-3, max_steps=50)
        self.embed = nn.Conv2d(1, CHANNELS, 3, stride=2, padding=1)
        self.maps = ConvFixedPointLayer(CHANNELS, SIDE, SIDE, solver=solver)
        self.flatten = nn.Sequential(
            nn.Flatten(), nn.Linear(CHANNELS * SIDE**2, FEATURES)
        )
        self.vectors = DenseFixedPointLayer(FEATURES, kappa=0.8, solver=solver)
        self.head = nn.Linear(FEATURES, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [n, K] of images [n, 1, 8, 8]."""
        maps = self.maps(self.embed(images))
        logits: Tensor = self.head(self.vectors(self.flatten(maps)))
        return logits


def train(net: Net, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Train on batches of 64 as one trains any other network."""
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(net(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss of the last batch {loss.item():.3f}")


@torch.no_grad()
def report(net: Net, images: Tensor, labels: Tensor) -> None:
    """Print accuracy, and for each layer what its solves took and what is certain."""
    accuracy = (net(images).argmax(1) == labels).float().mean()
    print(f"accuracy on {len(images)} test images: {100 * accuracy:.1f} %")
    maps = net.maps.solve(net.embed(images))
    describe("maps", net.maps, maps)
    describe("vectors", net.vectors, net.vectors.solve(net.flatten(maps.value)))


def describe(name: str, layer: FixedPointLayer, solve: SolveResult) -> None:
    """Print one layer's evidence: iterations of each sample, bound of the map."""
    steps = solve.num_steps
    # The free weight is scaled only where its bound exceeds kappa.
    bound = layer.norm_bound().clamp(max=layer.kappa)
    print(
        f"{name}: {steps.float().mean():.1f} iterations per sample "
        f"({steps.min()} to {steps.max()}), largest residual "
        f"{solve.residual.max():.0e}, certified bound of ||W|| {bound:.3f}"
    )


def main(epochs: int = 8, seed: int = 0) -> None:
    """Train on two thirds of scikit-learn's digits and report on the rest."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # networks this small are slower with more
    digits = load_digits()
    images = torch.as_tensor(digits.images, dtype=torch.float32)[:, None] / 16.0
    labels = torch.as_tensor(digits.target)
    order = torch.randperm(len(labels))
    training, testing = order[:1200], order[1200:]
    net = Net()
    train(net, images[training], labels[training], epochs)
    report(net, images[testing], labels[testing])


if __name__ == "__main__":
    tyro.cli(main)
