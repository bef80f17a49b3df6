"""A network of anybody's whose blocks are run, skipped or iterated.

Axes: n samples, B blocks, K classes. What crosses the cut before a block is a list of
*values*, the block's input first: each is a tensor with an axis of n samples, or a
constant.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynalay_gym.errors import ConfigError, first_line
from dynalay_gym.fixed_point.layers import FixedPointLayer
from dynalay_gym.fixed_point.progress import SolveResult
from dynalay_gym.fixed_point.solve import fixed_point_iteration
from dynalay_gym.networks.wrapped.checks import (
    check_answer,
    check_example,
    check_kept,
    check_names,
    check_network,
    check_same_shape,
    check_shortcut,
    kind_of,
)
from dynalay_gym.networks.wrapped.config import Mode, WrapConfig
from dynalay_gym.networks.wrapped.cuts import Cut, find_cut
from dynalay_gym.networks.wrapped.macs import count_macs
from dynalay_gym.networks.wrapped.pieces import Function, chain, cloned, first_of
from dynalay_gym.networks.wrapped.tracing import trace

Shortcut = str | Callable[[nn.Module, Tensor], Tensor]


class WrappedNetwork(nn.Module):
    """Runs anybody's network block by block; ``forward`` is the network itself.

    Args:
        network: Maps inputs [n, ...] to logits [n, K]. It is copied, and not changed.
        config: Which blocks, and what can be done with them.
        example: One or more inputs [n, ...] with the shape and type of all others.
        shortcuts: What runs in the place of a block that is skipped, by its name: the
            name of a module, or a function of the block and its input. Without one
            the block's input is passed on, which must have the shape of its output.
        stem: Function of the network and its inputs to the first block's input. With
            `head`, the network's own forward is not looked into; its blocks have to
            follow each other directly, in the order of ``config.layers``.
        head: Function of the network and the last block's output to the logits.

    Attributes:
        names: Names of the blocks, in the order in which they run.
        choices: What can be done with each block. One that changes the shape of its
            input, or that is a `FixedPointLayer` (which iterates when it is run), is
            not iterated.
        certified: Names of the blocks that are bound to contract, because they are a
            `FixedPointLayer`. What is known of others is measured.
        cuts: What crosses the cut before each block.
        num_classes: Classes K.
        block_macs: Multiply-adds of each block for one sample, run once; of one
            iteration if it is a `FixedPointLayer`.
        shortcut_macs: Of what runs in its place.
        piece_macs: Of what lies before the first block, between two, and behind the
            last one; B + 1 entries.

    Raises:
        ConfigError: A block does not exist, changes the shape, or is not called exactly
            once; or the network's forward cannot be followed.
    """

    def __init__(
        self,
        network: nn.Module,
        config: WrapConfig,
        example: Tensor,
        *,
        shortcuts: Mapping[str, Shortcut] | None = None,
        stem: Function | None = None,
        head: Function | None = None,
    ) -> None:
        super().__init__()
        self.config, self.network = config, _copy(network)
        check_example(self.network, example)
        example = example.to(next(self.network.parameters()).device)
        self.in_shape, self.in_dtype = tuple(example.shape[1:]), example.dtype
        check_names(self.network, config.layers, shortcuts or {})
        if (stem is None) != (head is None):
            raise ConfigError("stem= and head= come together; give both, or neither")
        if stem is not None and head is not None:
            traced = chain(config.layers, stem, head)
        else:
            traced = trace(self.network, config.layers)
        self.names, self._calls, self._pieces = traced
        self._shortcuts = dict(shortcuts or {})
        self._num_outputs = [0] * len(self.names)  # of blocks that return a tuple
        self._probe(example)

    @property
    def certified(self) -> tuple[str, ...]:
        """Names of the blocks that are bound to contract."""
        return tuple(name for name in self.names if self.own_layer(name) is not None)

    def forward(self, inputs: Tensor, skipped: Tensor | None = None) -> Tensor:
        """Return logits [n, K] of inputs [n, ...].

        Args:
            inputs: Inputs.
            skipped: Which blocks each sample skips, bool [n, B]; None skips none. All
                blocks run nevertheless, so that a normalisation sees the whole batch.
        """
        values = self.start(inputs)
        for level in range(len(self.names)):
            output = self.run(level, values)
            if skipped is not None:
                axis = self.cuts[level].axes[0]
                shape = [1] * values[0].dim()
                shape[axis or 0] = -1
                left_out = self.skip(level, values)
                y = first_of(output)
                y = torch.where(skipped[:, level].view(shape), first_of(left_out), y)
                output = self._as_output(level, y)
            values = self.advance(level, output, values)
        return self.answer(values)

    def start(self, inputs: Tensor) -> list[Any]:
        """Return the values before the first block, for inputs [n, ...]."""
        return self._pieces[0](self.network, [inputs])

    def run(self, level: int, values: Sequence[Any]) -> Any:
        """Return what the block at a level (from 0) returns."""
        x, *carried = values
        return self._calls[level].run(self.network, self.names[level], x, carried)

    def skip(self, level: int, values: Sequence[Any]) -> Any:
        """Return what takes the place of a block's output when it is skipped."""
        name = self.names[level]
        shortcut = self._shortcuts.get(name)
        if shortcut is None:
            y = values[0]
        elif isinstance(shortcut, str):
            y = self.network.get_submodule(shortcut)(values[0])
        else:
            y = shortcut(self.network.get_submodule(name), values[0])
        return self._as_output(level, y)

    def iterate(self, level: int, values: Sequence[Any]) -> tuple[Any, SolveResult]:
        """Iterate a block from its input; return its output, and the solve.

        Whether the iteration contracts is not known beforehand. A sample that does not
        converge has what the last iteration left, one that diverges its last finite
        value.
        """
        step, (x, *others) = self.iteration(level, values)
        rtol = self.config.rtol * self.config.damping  # of the undamped step
        result = fixed_point_iteration(
            step, x, x, *others, rtol=rtol, max_steps=self.config.max_steps
        )
        y = result.value.movedim(0, self.cuts[level].axes[0] or 0)
        return self._as_output(level, y), result

    def iteration(
        self, level: int, values: Sequence[Any]
    ) -> tuple[Callable[..., Tensor], list[Tensor]]:
        """Return the damped map of a block, and what it depends on.

        Args:
            level: Level of the block.
            values: The values before it.

        Returns:
            A function ``step(z, x, *others)``, and its arguments but for z, each
            [n, ...]; x is the block's input, where z starts.
        """
        cut, config = self.cuts[level], self.config

        def step(z: Tensor, x: Tensor, *others: Tensor) -> Tensor:
            output = self.run(level, cut.from_rows([z, *others]))
            new = first_of(output).movedim(cut.axes[0] or 0, 0)
            aim = x + (new - z) if config.iteration == "residual" else new
            return z.lerp(aim, config.damping)

        return step, cut.to_rows(values)

    def solve(
        self, level: int, values: Sequence[Any]
    ) -> tuple[Any, SolveResult] | None:
        """Run a block that is a `FixedPointLayer`; return its output, and the solve.

        Of any other block, return None.
        """
        layer = self.own_layer(self.names[level])
        if layer is None:
            return None
        result = layer.solve(values[0])
        return result.value, result

    def freeze(self) -> None:
        """Compute the contractions of the certified blocks once for many solves."""
        for name in self.certified:
            layer = self.own_layer(name)
            assert layer is not None
            layer.freeze()

    def advance(self, level: int, output: Any, values: Sequence[Any]) -> list[Any]:
        """Return the values before the next block; behind the last one, the logits.

        Args:
            level: Level of the block.
            output: What it returned.
            values: The values before it.
        """
        return self._pieces[level + 1](self.network, [output, *values[1:]])

    def answer(self, values: Sequence[Any]) -> Tensor:
        """Return the logits [n, K] among the values behind the last block."""
        logits: Tensor = values[0]
        return logits

    def own_layer(self, name: str) -> FixedPointLayer | None:
        """Return a block that is bound to contract; None if it is another one."""
        block = self.network.get_submodule(name)
        return block if isinstance(block, FixedPointLayer) else None

    def _as_output(self, level: int, y: Tensor) -> Any:
        """Return y in the form in which a block returns its output."""
        num = self._num_outputs[level]
        return (y, *[None] * (num - 1)) if num else y

    @torch.no_grad()
    def signature(self) -> dict[str, Tensor]:
        """Return what the network makes of the example, by name.

        It says what code does that weights do not show: shortcuts, what lies between
        blocks, buffers that are not saved.
        """
        found, values = dict[str, Tensor](), self.start(self._example.clone())
        for level in range(len(self.names)):
            run, skipped = (act(level, cloned(values)) for act in (self.run, self.skip))
            found[f"{level}.run"] = first_of(run)
            found[f"{level}.skip"] = first_of(skipped)
            values = self.advance(level, cloned(run), values)
        return found | {"logits": self.answer(values)}

    @torch.no_grad()
    def _probe(self, example: Tensor) -> None:
        """Run the example, to find shapes and multiply-adds, and what does not fit.

        What runs may change its arguments, so that it is given copies.
        """
        ones = [1] * (example.dim() - 1)
        other = (
            example[-1:].roll(1, -1) if example.is_floating_point() else example[-1:]
        )
        self._example = example[:1].clone()
        alone, few = (example[:1].repeat(num, *ones) for num in (1, 2))
        macs = [count_macs(self.start, alone.clone())]
        values, others = self.start(few.clone()), self.start(other.repeat(3, *ones))
        alone_values = self.start(alone)
        self.cuts, self.choices = list[Cut](), list[tuple[Mode, ...]]()
        self.block_macs, self.shortcut_macs = list[int](), list[int]()
        for level, name in enumerate(self.names):
            self.cuts.append(find_cut(values, others, name))
            kept = cloned(values)
            output = self.run(level, kept)
            check_kept(name, values[0], kept[0])
            if isinstance(output, tuple | list):
                self._num_outputs[level] = len(output)
                self._try_one_output(level, values, output)
            own = self.run(level, cloned(alone_values))
            self.choices.append(self._choices(level, values, output))
            self.block_macs.append(self._count_block(level, alone_values))
            left = count_macs(self.skip, level, cloned(alone_values))
            self.shortcut_macs.append(left)
            parts = cloned(own), cloned(alone_values)
            macs.append(count_macs(self.advance, level, *parts))
            other_output = self.run(level, cloned(others))
            values = self.advance(level, output, values)
            others = self.advance(level, other_output, others)
            alone_values = self.advance(level, own, alone_values)
        self.piece_macs = macs
        answer = self.answer(values)
        check_answer(answer, self.network(few))
        self.num_classes = answer.shape[1]

    def _count_block(self, level: int, values: Sequence[Any]) -> int:
        layer = self.own_layer(self.names[level])
        if layer is None:
            return count_macs(self.run, level, cloned(values))
        pair = torch.cat([values[0]] * 2)  # a lone row is computed beside a copy
        return count_macs(layer.recur, pair, layer.weight()) // 2

    def _choices(
        self, level: int, values: Sequence[Any], output: Any
    ) -> tuple[Mode, ...]:
        """Return what can be done with a block."""
        name, x, y = self.names[level], values[0], first_of(output)
        if name in self._shortcuts:
            try:
                passed = first_of(self.skip(level, cloned(values)))
            except Exception as error:
                raise ConfigError(
                    f"the shortcut of block {name!r} does not run "
                    f"({first_line(error)}); give the name of a module, or a function "
                    "of the block and its input"
                ) from error
            check_shortcut(name, passed, y)
        else:
            check_same_shape(name, x, y)
        can_iterate = kind_of(x) == kind_of(y) and name not in self.certified
        if self.config.rest == "run" and not can_iterate:
            raise ConfigError(
                f"block {name!r} cannot be iterated any further, and what is not "
                "decided on runs (rest='run'); leave it out of layers"
            )
        modes = self.config.modes
        return tuple(mode for mode in modes if can_iterate or mode != "iterate")

    def _try_one_output(self, level: int, values: Sequence[Any], output: Any) -> None:
        """Check that the network goes on with the first of a block's outputs alone."""
        try:
            given = self._as_output(level, first_of(output).clone())
            left = self.advance(level, given, cloned(values))
            for above in range(level + 1, len(self.names)):
                left = self.advance(above, self.run(above, left), left)
            assert left[0] is not None
        except Exception as error:
            raise ConfigError(
                f"the network uses more than the first output of block "
                f"{self.names[level]!r}, which is all that there is where it is "
                "skipped or iterated; leave it out of layers"
            ) from error


def _copy(network: nn.Module) -> nn.Module:
    """Return a copy of a network in evaluation mode.

    Of PyTorch's own encoders it does without the nested tensors that these use in
    evaluation, and not in training, for texts with padding: blocks cannot be run so.
    """
    check_network(network)
    copied = copy.deepcopy(network).eval()
    for module in copied.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.enable_nested_tensor = module.use_nested_tensor = False
    return copied
