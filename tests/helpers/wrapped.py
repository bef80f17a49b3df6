"""Networks of other people, small and with random weights, to be wrapped."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import ResNet, VisionTransformer
from torchvision.models.resnet import BasicBlock

from dynalay_gym.networks.wrapped.config import WrapConfig
from dynalay_gym.networks.wrapped.network import WrappedNetwork


class LstmStack(nn.Module):
    """Three LSTMs, time first: what a module returns is a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.layers = nn.ModuleList(nn.LSTM(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens).transpose(0, 1)
        for layer in self.layers:
            x, _ = layer(x)
        logits: Tensor = self.head(x[-1])
        return logits


class TextEncoder(nn.Module):
    """PyTorch's transformer encoder over tokens, of which 0 is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        is_padding = tokens == 0
        x = self.encoder(self.embedding(tokens), src_key_padding_mask=is_padding)
        logits: Tensor = self.head(x[:, 0])
        return logits


class Other(NamedTuple):
    """A network, how it is wrapped, and inputs of it."""

    module: nn.Module
    layers: tuple[str, ...]
    inputs: Tensor
    shortcuts: dict[str, Any]

    def wrap(self, **options: Any) -> WrappedNetwork:
        config = WrapConfig(layers=self.layers, **options)
        return WrappedNetwork(
            self.module, config, self.inputs, shortcuts=self.shortcuts
        )


def other(name: str, num: int = 6) -> Other:
    """Return a network by its name in `OTHERS`, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        images, tokens = torch.randn(num, 3, 16, 16), torch.randint(1, 12, (num, 5))
        if name == "resnet":
            resnet = ResNet(BasicBlock, [1, 2, 1, 1], num_classes=4)
            blocks = ("layer1.0", "layer2.0", "layer2.1", "layer3.0")
            halved = {f"layer{i}.0": f"layer{i}.0.downsample" for i in (2, 3)}
            return Other(resnet.eval(), blocks, images, halved)
        if name == "vit":
            vit = VisionTransformer(16, 8, 3, 2, 16, 32, num_classes=4)
            nn.init.normal_(vit.heads.head.weight)  # which torchvision leaves at 0
            blocks = tuple(f"encoder.layers.encoder_layer_{i}" for i in range(3))
            return Other(vit.eval(), blocks, images, {})
        if name == "lstm":
            blocks = ("layers.0", "layers.1", "layers.2")
            return Other(LstmStack().eval(), blocks, tokens, {})
        tokens[0, 3:] = 0
        blocks = tuple(f"encoder.layers.{i}" for i in range(3))
        return Other(TextEncoder().eval(), blocks, tokens, {})


OTHERS = ("resnet", "vit", "lstm", "encoder")
