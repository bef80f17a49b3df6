"""Anybody's network as a session: its blocks are run, skipped or iterated in turn.

Axes: n rows (one input each), m of them chosen, B blocks.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dynalay_gym.errors import CheckpointError, ConfigError
from dynalay_gym.networks.wrapped.config import Mode, WrapConfig
from dynalay_gym.networks.wrapped.network import Shortcut, WrappedNetwork
from dynalay_gym.networks.wrapped.pieces import Function
from dynalay_gym.sessions.checks import check_weights
from dynalay_gym.sessions.skip.blocks import BlockSession
from dynalay_gym.sessions.skip.decisions import ITERATE, RUN, SKIP, STOP
from dynalay_gym.sessions.skip.state import BlockState, empty_parts
from dynalay_gym.storage.digest import tensors_digest
from dynalay_gym.storage.io import plain
from dynalay_gym.utils.device import torch_defaults

_ACTIONS: dict[Mode, int] = {"run": RUN, "skip": SKIP, "iterate": ITERATE}


@dataclass
class WrappedState(BlockState):
    """Networks in progress; see `BlockState`.

    Attributes:
        values: What crosses the cut before each block, B times a list of [n, ...].
    """

    values: list[list[Tensor]]


class WrappedSession(BlockSession[WrappedState]):
    """Runs a wrapped network on any device; see `BlockSession`.

    A block that is skipped does not run, nor does any other part twice where the
    decision is what would have been done anyway.

    Args:
        network: The network; the session works on a frozen copy of it.
        batch_invariant: Whether every row is computed by itself, so that its bits do
            not depend on the others, as `NetworkSession` promises. Otherwise rows that
            do the same run together, which is faster, and the last bits of an answer
            can depend on how many they are.
    """

    def __init__(self, network: WrappedNetwork, batch_invariant: bool = False) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.batch_invariant = batch_invariant
        self.in_shape, self.in_dtype = network.in_shape, network.in_dtype
        self.num_classes = network.num_classes
        rest = _ACTIONS[network.config.rest or "run"]
        self.full_plan = (RUN,) if rest == SKIP else (ITERATE,)
        skips = rest == SKIP
        of_rest = network.shortcut_macs if skips else network.block_macs
        self.plain_macs = sum(network.piece_macs) + sum(of_rest)
        choices = [sorted(_ACTIONS[m] for m in own) for own in network.choices]
        empty = [torch.zeros(1, *cut.shapes[0]) for cut in network.cuts]
        width = max(_pool(x, network.config.channels).shape[1] for x in empty)
        super().__init__(self.network, choices, width, rest)
        self.network.freeze()

    def to_saved(self) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        """Return kind, options and weights; `wrapped_loader` makes it anew."""
        options = self.network.config.to_dict()
        options["batch_invariant"] = self.batch_invariant
        # Weights may be tied, and saved files hold no memory twice.
        weights = {name: v.clone() for name, v in self.network.state_dict().items()}
        return "wrapped", options, weights

    def fingerprint(self) -> str:
        """Return a hash of weights and options, and of what the network does."""
        signature = tensors_digest(self.network.signature())
        return hashlib.sha256((super().fingerprint() + signature).encode()).hexdigest()

    @torch_defaults()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take other weights; see `NetworkSession.load_weights`."""
        check_weights(weights, self.network.state_dict())
        self.network.load_state_dict(weights)
        self.network.freeze()

    def _empty(self, num_rows: int) -> WrappedState:
        network = self.network
        width = self.feature_layout["activations"]
        sizes = num_rows, self.num_blocks, width, self.num_classes, self.device
        values = [
            [
                torch.zeros(num_rows, *shape, dtype=dtype, device=self.device)
                for axis, shape, dtype in zip(*cut[:3], strict=True)
                if axis is not None
            ]
            for cut in network.cuts
        ]
        return WrappedState(**empty_parts(*sizes), values=values)

    def _enter(self, state: WrappedState, rows: Tensor, inputs: Tensor) -> None:
        for some in self._groups(torch.arange(len(rows), device=self.device)):
            self._write(state, 0, rows[some], self.network.start(inputs[some]))

    def _answer(self, state: WrappedState, rows: Tensor) -> int:
        return 0  # is written behind the last block, and counted there

    def _pass(
        self, state: WrappedState, level: int, rows: Tensor, actions: Tensor
    ) -> Tensor:
        """Take some rows through a block; see `BlockSession._pass`."""
        network, cut = self.network, self.network.cuts[level]
        cost = torch.zeros(3, len(rows), dtype=torch.int64, device=self.device)
        done = torch.where(actions == STOP, self._rest, actions)
        for action in (RUN, SKIP, ITERATE):
            for some in self._groups((done == action).nonzero()[:, 0]):
                stored = [each[rows[some]] for each in state.values[level]]
                values = cut.from_rows(stored)
                output, cost[:, some] = self._act(level, values, action)
                following = network.advance(level, output, values)
                self._write(state, level + 1, rows[some], following)
        cost[0] += network.piece_macs[level + 1]
        return cost

    def _act(
        self, level: int, values: Sequence[Any], action: int
    ) -> tuple[Any, Tensor]:
        """Return what a block makes of m rows, and the cost, int64 [3, m] or [3, 1]."""
        network = self.network
        if action == SKIP:
            macs = network.shortcut_macs[level]
            return network.skip(level, values), self._cost(macs)
        if action == RUN:
            solved = network.solve(level, values)
            if solved is None:
                return network.run(level, values), self._cost(network.block_macs[level])
            output, result = solved
        else:
            output, result = network.iterate(level, values)
        steps = result.num_steps
        cost = torch.stack([network.block_macs[level] * steps, steps, result.status])
        return output, cost

    def _cost(self, macs: int) -> Tensor:
        return torch.tensor([[macs], [0], [0]], device=self.device)

    def _groups(self, rows: Tensor) -> Iterator[Tensor]:
        """Yield the rows that are computed together, int64 [m]; none if empty."""
        if len(rows) > 0:
            yield from rows.split(1 if self.batch_invariant else len(rows))

    def _write(
        self, state: WrappedState, level: int, rows: Tensor, values: Sequence[Any]
    ) -> None:
        """Write what crosses the cut before a block; behind the last one, logits."""
        if level == self.num_blocks:
            state.logits[rows] = self.network.answer(values).float()
        else:
            tensors = self.network.cuts[level].to_rows(values)
            for stored, new in zip(state.values[level], tensors, strict=True):
                stored[rows] = new
            pooled = _pool(tensors[0].float(), self.network.config.channels)
            state.pooled[rows, level, : pooled.shape[1]] = pooled


def wrap(
    module: nn.Module,
    layers: Sequence[str],
    example: Tensor,
    *,
    modes: Sequence[Mode] = ("run", "skip"),
    shortcuts: Mapping[str, Shortcut] | None = None,
    stem: Function | None = None,
    head: Function | None = None,
    batch_invariant: bool = False,
    **options: Any,
) -> WrappedSession:
    """Return anybody's network as a session, which environments and predictors take.

    Args:
        module: Maps inputs [n, ...] to logits [n, K]. It is copied, and not changed.
        layers: Names of the blocks to decide on, as in ``module.named_modules()``.
        example: One or more inputs [n, ...] with the shape and type of all others.
        modes: What can be done with a block: ``run`` it once, as trained; ``skip`` it;
            ``iterate`` it.
        shortcuts: What runs in the place of a block that is skipped; see
            `WrappedNetwork`.
        stem: What comes before the first block; see `WrappedNetwork`.
        head: What comes after the last one.
        batch_invariant: See `WrappedSession`.
        **options: Other fields of `WrapConfig`.

    Raises:
        ConfigError: See `WrappedNetwork`.
    """
    for name, given in (("layers", layers), ("modes", modes)):
        if isinstance(given, str):
            raise ConfigError(f"{name} must be a list of names; give [{given!r}]")
    config = WrapConfig(layers=tuple(layers), modes=tuple(modes), **options)
    network = WrappedNetwork(
        module, config, example, shortcuts=shortcuts, stem=stem, head=head
    )
    return WrappedSession(network, batch_invariant)


def wrapped_loader(
    make: Callable[[], WrappedSession],
) -> Callable[[dict[str, Any], dict[str, Tensor]], WrappedSession]:
    """Return what makes a saved session anew, for ``DynaLayPredictor.load``.

    Args:
        make: Wraps the same module, with any weights, in the same way as before.
    """

    def load(options: dict[str, Any], weights: dict[str, Tensor]) -> WrappedSession:
        session = make()
        if plain(session.to_saved()[1]) != options:
            raise CheckpointError(
                "the network was saved with other options of wrap(); give the same: "
                f"{options}"
            )
        session.load_weights(weights)
        return session

    return load


def _pool(x: Tensor, channels: Literal["first", "last"] | None) -> Tensor:
    """Return the mean of each channel, [n, C]; see `WrapConfig.channels`."""
    if x.dim() == 2:
        return x
    if channels == "last" or (channels is None and x.dim() == 3):
        return x.flatten(1, -2).mean(1)
    return x.flatten(2).mean(2)
