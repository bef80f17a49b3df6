"""The main network: stem, selectable layers, head.

Axes: n samples, L layers, K classes. A state is a set of iterated layers, numbered by
its bits (bit l - 1 = layer l): 0 is the plain pass, 2^L - 1 iterates everything.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.batch_invariant import (
    conv2d,
    conv2d_macs,
    conv2d_size,
    linear,
)
from dynalay_gym.fixed_point.caching import Freezable
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.layers.base import LayerState, MainLayer
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.layers.conv import (
    StateLayer,
    WideStreamLayer,
    check_map,
    conv_weight,
)
from dynalay_gym.networks.layers.encoder import EncoderLayer, EncoderStem, grid
from dynalay_gym.networks.layers.norm import Pattern, PatternNorm
from dynalay_gym.networks.layers.planner import PlannerLayer, PlannerStem
from dynalay_gym.networks.layers.reading import ReadingLayer, TokenStem
from dynalay_gym.networks.layers.word_head import WordHead
from dynalay_gym.utils.device import torch_defaults


class MainNetwork(nn.Module):
    """Stem, L selectable layers, head; ``forward`` gives the plain pass's logits.

    Args:
        config: Architecture.

    Raises:
        ConfigError: It is of a text network and has no vocabulary.
    """

    @torch_defaults(device=None)
    def __init__(self, config: MainNetworkConfig) -> None:
        super().__init__()
        self.config = config
        channels, size = (*config.in_shape, 1)[:2]
        if config.form == "text":
            self.token_stem = self._build_words()
        elif config.form == "attention":
            words, asked = None, 0
            if config.reads_texts:
                words = self._build_words()
            if config.asked and config.vocabulary:
                asked = config.vocabulary.words.index(config.asked)
            options = config.stem, config.stem_stride, words, asked
            self.encoder_stem = EncoderStem(config.in_shape, *options)
        elif config.form == "planner":
            self.planner_stem = PlannerStem(channels, config.stem, config.channels[0])
        elif config.stem:
            self.stem_weight = conv_weight(config.stem, channels)
            self.stem_norm = PatternNorm(config.stem, 1)
            channels = config.stem
            size = conv2d_size(size, config.stem_stride)
        self.layers = nn.ModuleList(self._build_layers(channels, size))
        self.num_layers = len(config.channels)
        features = self.main_layers[-1].num_features
        # In a batch of portions all solves stop after equally many iterations: its
        # statistics are not those of the pattern.
        by_batch = config.form in ("state", "wide")
        self.head_norm = PatternNorm(features, 2**self.num_layers, by_batch=by_batch)
        if config.form == "text":
            # Its features lie about 1/2. Centred, they are learnt from at once; as they
            # are, a network may answer at random for epochs.
            self.head_norm.weight.data.fill_(2.0)
            self.head_norm.bias.data.fill_(-1.0)
        if config.cutoffs:
            sizes = config.num_classes, config.stem, config.cutoffs
            self.word_head = WordHead(features, *sizes)
            return
        if config.head_width:
            self.head_hidden = nn.Parameter(torch.empty(config.head_width, features))
            nn.init.kaiming_uniform_(self.head_hidden, nonlinearity="relu")
            features = config.head_width
        self.head = nn.Parameter(torch.empty(config.num_classes, features))
        nn.init.kaiming_uniform_(self.head, nonlinearity="linear")
        self.head_bias = nn.Parameter(torch.zeros(config.num_classes))

    def _build_words(self) -> TokenStem:
        config, vocabulary = self.config, self.config.vocabulary
        if vocabulary is None:
            raise ConfigError(
                "a text network needs a vocabulary; take the data's: "
                "dataclasses.replace(config, vocabulary=split.vocabulary)"
            )
        options = config.stem, config.stem_stride, config.stem_std
        # Vectors that are weights of the head, too, are stored as small as those.
        scale = config.stem**0.5 if config.cutoffs else 1.0
        return TokenStem(len(vocabulary), *options, scale)

    def _build_layers(self, channels: int, size: int) -> Iterator[MainLayer]:
        if self.config.form == "attention":
            return self._build_encoders()
        if self.config.form == "text":
            return self._build_readers()
        if self.config.form == "planner":
            return self._build_planners(size)
        return self._build_convolutions(channels, size)

    def _build_readers(self) -> Iterator[MainLayer]:
        config, below = self.config, self.config.stem
        length = -(-config.in_shape[0] // config.stem_stride)
        for hidden in config.channels:
            yield ReadingLayer(below, hidden, length)
            below = hidden

    def _build_encoders(self) -> Iterator[MainLayer]:
        config = self.config
        sides = grid(config.in_shape, config.stem_stride)
        kappa = config.kappa if config.certified else None
        for width, hidden in zip(config.channels, config.hidden, strict=True):
            yield EncoderLayer(width, hidden, config.heads, sides, kappa, config.biased)

    def _build_planners(self, size: int) -> Iterator[MainLayer]:
        config, num_layers = self.config, len(self.config.views)
        for level, view in enumerate(config.views, start=1):
            yield PlannerLayer(
                config.stem,
                config.channels[0],
                size,
                view if 0 < view < size else size,
                level=level,
                is_last=level == num_layers,
                gamma=config.kappa,
            )

    def _build_convolutions(self, channels: int, size: int) -> Iterator[MainLayer]:
        config, below = self.config, (channels, size)
        image_channels, side = config.in_shape[:2]
        below_hidden = image_channels * config.unshuffle**2, side // config.unshuffle
        sizes = zip(config.channels, config.strides, strict=True)
        for i, (width, stride) in enumerate(sizes):
            layer: StateLayer | WideStreamLayer
            shared: Any = {"num_patterns": 2**i, "kappa": config.kappa}
            if config.form == "state":
                layer = StateLayer(below, width, stride, **shared)
            else:
                hidden, pool = config.hidden[i], config.pools[i]
                layer = WideStreamLayer(
                    below, below_hidden, width, stride, hidden, pool, **shared
                )
                below_hidden = hidden, layer.hidden_size
            check_map(layer.recurrence)
            yield layer
            below = width, layer.size

    def stem(self, images: Tensor) -> LayerState:
        """Return the state below layer 1 of images [n, C, H, W] or texts [n, T]."""
        y, config = images, self.config
        if config.form == "attention":
            below: LayerState = self.encoder_stem(images)
            return below
        if config.form == "text":
            y = self.token_stem(images)
            return LayerState(y, y)
        if config.form == "planner":
            y = self.planner_stem(images)
            return LayerState(y, y)
        if config.stem:
            u = conv2d(y, self.stem_weight, stride=config.stem_stride, padding=1)
            y = torch.relu(self.stem_norm(u, 0))
        if config.form == "state":
            return LayerState(y, y)
        return LayerState(y, y, F.pixel_unshuffle(images, config.unshuffle))

    def padding(self, inputs: Tensor) -> Tensor:
        """Return how many positions of texts [n, T] hold no word, int64 [n]; else 0."""
        if self.config.form == "text":
            return self.token_stem.padding(inputs)
        if self.config.form == "attention":
            return self.encoder_stem.padding(inputs)
        return torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)

    def classify(self, top: LayerState, state_id: Pattern) -> Tensor:
        """Return logits [n, K] of the last layer's state; see `answer`."""
        return self.answer(self.main_layers[-1].pool(top), state_id)

    def answer(self, features: Tensor, state_id: Pattern) -> Tensor:
        """Apply the head.

        Args:
            features: Pooled activations of the last layer, float [n, F_L].
            state_id: State of the whole batch, or of each row (int64 [n]).

        Returns:
            Logits [n, K].
        """
        top = self.head_norm(features, state_id)
        if self.config.cutoffs:
            return self.word_head.log_prob(top, self.token_stem.vectors)
        if self.config.head_width:
            top = torch.relu(linear(top, self.head_hidden))
        return linear(top, self.head) + self.head_bias

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [n, K] of the plain pass over images [n, C, H, W]."""
        return self.forward_path(images, 0)

    def forward_path(
        self, images: Tensor, state_id: int, solver: SolverConfig | None = None
    ) -> Tensor:
        """Return logits [n, K] of one state; see `forward_paths`."""
        return self.forward_paths(images, [state_id], solver)[0]

    def forward_paths(
        self,
        images: Tensor,
        state_ids: Iterable[int],
        solver: SolverConfig | None = None,
    ) -> list[Tensor]:
        """Return the logits [n, K] of several states over one batch; see `tops`."""
        ids = list(state_ids)
        tops = self.tops(images, ids, solver)
        return [self.classify(top, i) for top, i in zip(tops, ids, strict=True)]

    def tops(
        self,
        images: Tensor,
        state_ids: Iterable[int],
        solver: SolverConfig | None = None,
    ) -> list[LayerState]:
        """Return the last layer in several states over one batch.

        What their paths share is computed once.

        Args:
            images: Input [n, C, H, W], or texts [n, T].
            state_ids: States, each in 0..2^L - 1.
            solver: Options of all solves; the architecture's if None.

        Returns:
            The last layer's state in each of them, differentiable.
        """
        solvers, stem = self.solvers, self.stem(images)
        if solver is not None:
            solvers = (solver,) * self.num_layers

        @cache
        def plain(level: int, pattern: int) -> LayerState:
            below = reach(level - 1, pattern)
            return self.main_layers[level - 1].plain(below, pattern)

        @cache
        def reach(level: int, state_id: int) -> LayerState:
            """Return the state of layer `level`; `state_id` has as many bits."""
            if level == 0:
                return stem
            pattern = state_id & (2 ** (level - 1) - 1)
            state = plain(level, pattern)
            if state_id == pattern:
                return state
            below, layer = reach(level - 1, pattern), self.main_layers[level - 1]
            return layer.iterate(below, state, pattern, solvers[level - 1])[0]

        return [reach(self.num_layers, i) for i in state_ids]

    @property
    def stem_macs(self) -> int:
        """Multiply-adds of the stem for one image."""
        if not self.config.stem or self.config.form == "text":
            return 0
        if self.config.form == "attention":
            return self.encoder_stem.macs
        size = self.config.in_shape[1]
        if self.config.form == "planner":
            return self.planner_stem.macs(size)
        side = conv2d_size(size, self.config.stem_stride)
        return conv2d_macs(self.stem_weight.shape, side, side)

    @property
    def head_macs(self) -> int:
        """Multiply-adds of the head for one image."""
        if self.config.cutoffs:
            return self.word_head.macs
        hidden = self.head_hidden.numel() if self.config.head_width else 0
        return hidden + self.head.numel()

    @property
    def main_layers(self) -> Sequence[MainLayer]:
        """The selectable layers, bottom up."""
        return [cast(MainLayer, layer) for layer in self.layers]

    @property
    def solvers(self) -> tuple[SolverConfig, ...]:
        """Solver options of each layer, with the implicit gradient."""
        rtol, each = self.config.rtol, self.config.layer_steps
        return tuple(SolverConfig(rtol=rtol, max_steps=steps) for steps in each)

    def freeze(self) -> Self:
        """Prepare for running: evaluation mode, no gradients, constants computed once.

        The kernels move to the channels-last format, the fastest one for running.
        Weights that are loaded or converted later are noticed, see `Freezable`;
        ``train()`` undoes it except for the format and ``requires_grad``.
        """
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        for module in self.modules():
            if isinstance(module, Freezable):
                module.freeze()
        return self
