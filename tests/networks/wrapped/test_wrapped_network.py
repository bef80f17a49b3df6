"""Anybody's network, cut at its blocks: it answers as before, or leaves some out."""

import copy
from typing import Any

import pytest
import torch
from helpers.wrapped import OTHERS, LstmStack, Other, other
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.layers import DenseFixedPointLayer
from dynalay_gym.fixed_point.progress import SolverStatus
from dynalay_gym.networks.wrapped.config import WrapConfig
from dynalay_gym.networks.wrapped.contraction import measure_contraction
from dynalay_gym.networks.wrapped.macs import count_macs
from dynalay_gym.networks.wrapped.network import WrappedNetwork


@pytest.fixture(params=OTHERS)
def found(request: pytest.FixtureRequest) -> Other:
    return other(request.param)


class Chain(nn.Module):
    """Blocks one after the other, as a function that may be given."""

    def __init__(self, *blocks: nn.Module, width: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x)
        return logits


class Identity(nn.Module):
    """Takes the place of a block of any kind."""

    def __init__(self, of: nn.Module, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.shortcut = shortcut or nn.Identity()
        self.is_tuple = isinstance(of, nn.LSTM)
        self.self_attn = getattr(of, "self_attn", None)  # the encoder asks for it

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        y = self.shortcut(x)
        return (y, None) if self.is_tuple else y


def without(found: Other, *names: str) -> nn.Module:
    """Return a copy of a network whose blocks are replaced by what is left of them."""
    module = copy.deepcopy(found.module)
    for name in names:
        owner, _, last = name.rpartition(".")
        shortcut = found.shortcuts.get(name)
        rest = None if shortcut is None else module.get_submodule(shortcut)
        replaced = Identity(module.get_submodule(name), rest)
        setattr(module.get_submodule(owner), last, replaced)
    return module


# --- it is the network ----------------------------------------------------------------


def test_it_answers_as_the_network_to_the_bit(found: Other) -> None:
    wrapped = found.wrap()
    with torch.no_grad():
        assert torch.equal(wrapped(found.inputs), found.module(found.inputs))


def test_the_network_is_left_as_it_was(found: Other) -> None:
    found.module.train()
    given = found.inputs.clone()
    before = copy.deepcopy(found.module.state_dict())
    wrapped = found.wrap()
    assert found.module.training and not wrapped.network.training
    after = found.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(part.requires_grad for part in found.module.parameters())
    assert torch.equal(found.inputs, given)
    for module in found.module.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    found.module.eval()


@torch.no_grad()
def test_a_skipped_block_is_as_if_it_were_not_there(found: Other) -> None:
    """Each block by itself, and all of them."""
    wrapped, num = found.wrap(), len(found.inputs)
    assert wrapped.names == found.layers
    for skipped in [*((level,) for level in range(len(found.layers))), range(9)]:
        chosen = torch.zeros(num, len(found.layers), dtype=torch.bool)
        names = [found.layers[level] for level in skipped if level < len(found.layers)]
        chosen[:, [found.layers.index(name) for name in names]] = True
        expected = without(found, *names)(found.inputs)
        torch.testing.assert_close(wrapped(found.inputs, chosen), expected)
        assert not torch.allclose(expected, found.module(found.inputs))


@torch.no_grad()
def test_every_sample_skips_its_own(found: Other) -> None:
    wrapped = found.wrap()
    generator = torch.Generator().manual_seed(0)
    size = len(found.inputs), len(found.layers)
    chosen = torch.rand(size, generator=generator) < 0.5
    together = wrapped(found.inputs, chosen)
    for row in range(len(found.inputs)):
        alone = wrapped(found.inputs[row : row + 1], chosen[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone)


class Long(nn.Module):
    """What the first block is given is added behind the second one, twice as a view."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Bilinear(4, 4, 4)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor, times: int = 3) -> Tensor:
        start = x * self.scale
        y = self.first(start)
        y = self.second(y, start)
        return y + start[:, : y.shape[1]] * times


@torch.no_grad()
def test_what_crosses_over_a_block_is_carried() -> None:
    torch.manual_seed(0)
    module, x = Long().eval(), torch.randn(5, 4)
    config = WrapConfig(layers=("second", "first"))  # in any order
    wrapped = WrappedNetwork(module, config, x)
    assert wrapped.names == ("first", "second")
    assert [len(cut.axes) for cut in wrapped.cuts] == [2, 2]
    assert torch.equal(wrapped(x), module(x))
    start = 2 * x
    skipped = module.second(start, start) + 3 * start
    chosen = torch.tensor([[True, False]] * 5)
    torch.testing.assert_close(wrapped(x, chosen), skipped)


@torch.no_grad()
def test_stem_and_head_take_the_place_of_a_look_inside() -> None:
    torch.manual_seed(0)
    module = Chain(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    x, config = torch.randn(5, 4), WrapConfig(layers=("blocks.0", "blocks.1"))
    wrapped = WrappedNetwork(
        module, config, x, stem=lambda net, x: x, head=lambda net, z: net.head(z)
    )
    assert torch.equal(wrapped(x), module(x))
    chosen = torch.tensor([[True, False]] * 5)
    torch.testing.assert_close(wrapped(x, chosen), module.head(module.blocks[1](x)))


class Odd(nn.Module):
    """Does what networks do between blocks, each thing on request."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.register_buffer("position", torch.arange(8.0))
        self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.what == "in place":
            y = y.clone().mul_(2)
        y = self.first(y)
        if self.what == "in place":
            y = F.silu(y, inplace=True)
        if self.what == "made":
            y = y * torch.tensor(2.0) + torch.ones(4)
        if self.what == "buffer":
            y = y + self.get_buffer("position")[: x.shape[1]]
        if self.what == "itself":
            tokens = y[:, :, None] * self.second.weight[0]
            y, _ = self.attention(tokens, tokens, tokens, attn_mask=self.mask)
            y = y.mean(1)
        shared = self.get_buffer("position")[: x.shape[1]]
        y = self.second(y)
        logits: Tensor = self.head(y + shared if self.what == "shared" else y)
        return logits


@pytest.mark.parametrize("what", ["in place", "made", "buffer", "shared"])
@torch.no_grad()
def test_what_lies_between_blocks_may_be_odd(what: str) -> None:
    torch.manual_seed(0)
    module, x = Odd(what).eval(), torch.randn(5, 4)
    given = x.clone()
    wrapped = WrappedNetwork(module, WrapConfig(layers=("first", "second")), x)
    assert torch.equal(wrapped(x), module(x)) and torch.equal(x, given)
    chosen = torch.tensor([[False, True]] * 5)
    module.second = nn.Identity()
    torch.testing.assert_close(wrapped(x, chosen), module(x))


@torch.no_grad()
def test_a_block_that_is_given_its_input_thrice_is_iterated_on_all() -> None:
    torch.manual_seed(0)
    module, x = Odd("itself").eval(), torch.randn(5, 4)
    config = WrapConfig(
        layers=("attention",), modes=("run", "iterate"), damping=1.0, max_steps=2
    )
    wrapped = WrappedNetwork(module, config, x)
    assert torch.equal(wrapped(x), module(x))
    values = wrapped.start(x)
    assert len(values) == 2  # x itself crosses, since its shape is read behind it
    q = values[0]

    def attend(z: Tensor) -> Tensor:
        found: Tensor = module.attention(z, z, z, attn_mask=module.mask)[0]
        return found

    once = attend(q)  # q + (f(q) - q)
    output, _ = wrapped.iterate(0, values)
    torch.testing.assert_close(output[0], q + (attend(once) - once))


class Keyword(nn.Module):
    """Calls a block by keywords, the input not first."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = nn.Bilinear(4, 4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.block(input2=x.exp(), input1=x))
        return logits


@torch.no_grad()
def test_the_input_is_the_first_parameter_however_it_is_given() -> None:
    torch.manual_seed(0)
    module, x = Keyword().eval(), torch.randn(5, 4)
    wrapped = WrappedNetwork(module, WrapConfig(layers=("block",)), x)
    assert torch.equal(wrapped(x), module(x))
    chosen = torch.ones(5, 1, dtype=torch.bool)
    torch.testing.assert_close(wrapped(x, chosen), module.head(x))


# --- multiply-adds --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "shapes", "expected"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), [(1, 3, 8, 8)], 3 * 8 * 9 * 64),
        (nn.Conv2d(8, 8, 3, groups=8), [(1, 8, 8, 8)], 8 * 9 * 36),
        (nn.Linear(4, 5), [(1, 7, 4)], 7 * 4 * 5),
        (nn.LSTM(6, 8, 2, batch_first=True), [(1, 5, 6)], 5 * 32 * (6 + 8 + 8 + 8)),
        (nn.GRU(8, 8, batch_first=True), [(1, 5, 8)], 5 * 3 * 8 * 16),
        # Three projections, scores and weighted values of all heads, one projection.
        (
            nn.MultiheadAttention(8, 2, batch_first=True),
            [(1, 5, 8)] * 3,
            4 * 5 * 64 + 2 * 25 * 8,
        ),
        (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            [(1, 5, 8)],
            4 * 5 * 64 + 2 * 25 * 8 + 2 * 5 * 8 * 16,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_multiply_adds_are_those_of_the_formulas(
    module: nn.Module, shapes: list[tuple[int, ...]], expected: int
) -> None:
    assert count_macs(module.eval(), *map(torch.rand, shapes)) == expected


def test_parts_add_up_to_the_network(found: Other) -> None:
    wrapped = found.wrap()
    total = count_macs(found.module, found.inputs[:1])
    assert sum(wrapped.block_macs) + sum(wrapped.piece_macs) == total
    halved = [name in found.shortcuts for name in wrapped.names]
    assert [macs > 0 for macs in wrapped.shortcut_macs] == halved


# --- iteration ------------------------------------------------------------------------


def linear_block(scale: float) -> tuple[Chain, Tensor, Tensor]:
    """Return a network of one linear block z -> A z + b, and A and b."""
    torch.manual_seed(1)
    module = Chain(nn.Linear(4, 4)).double().eval()
    block = module.blocks[0]
    assert isinstance(block, nn.Linear)
    nn.init.orthogonal_(block.weight)
    block.weight.data *= scale
    return module, block.weight.detach(), block.bias.detach()


@pytest.mark.parametrize("damping", [0.5, 1.0])
@torch.no_grad()
def test_a_plain_iteration_ends_where_the_block_changes_nothing(damping: float) -> None:
    """The answer is known: z = (I - A)^-1 b, whatever the input."""
    module, a, b = linear_block(0.5)
    x = torch.randn(3, 4, dtype=torch.float64)
    options = {"iteration": "plain", "damping": damping, "rtol": 1e-9}
    config = WrapConfig(
        layers=("blocks.0",), modes=("run", "iterate"), max_steps=200, **options
    )
    z, result = WrappedNetwork(module, config, x).iterate(0, [x])
    expected = torch.linalg.solve(torch.eye(4).double() - a, b)
    torch.testing.assert_close(z, expected.expand(3, 4), rtol=1e-7, atol=1e-7)
    assert result.status.tolist() == [SolverStatus.CONVERGED] * 3


@torch.no_grad()
def test_a_residual_iteration_repeats_the_branch() -> None:
    """With f(z) = z + A z it solves z = x + A z."""
    module, a, _ = linear_block(0.5)
    block = module.blocks[0]
    assert isinstance(block, nn.Linear)
    block.weight.data = torch.eye(4).double() + a
    block.bias.data.zero_()
    x = torch.randn(3, 4, dtype=torch.float64)
    modes = ("run", "skip", "iterate")
    config = WrapConfig(
        layers=("blocks.0",), modes=modes, damping=1.0, rtol=1e-9, max_steps=100
    )
    wrapped = WrappedNetwork(module, config, x)
    z, result = wrapped.iterate(0, [x])
    expected = torch.linalg.solve(torch.eye(4).double() - a, x.T).T
    torch.testing.assert_close(z, expected, rtol=1e-7, atol=1e-7)
    assert bool((result.num_steps > 1).all())
    once, _ = WrappedNetwork(
        module,
        WrapConfig(layers=("blocks.0",), modes=modes, damping=1.0, max_steps=1),
        x,
    ).iterate(0, [x])
    torch.testing.assert_close(once, module.blocks[0](x))  # the block run once


@torch.no_grad()
def test_what_does_not_contract_is_capped_and_says_so() -> None:
    module, _, _ = linear_block(3.0)
    x = torch.randn(3, 4, dtype=torch.float64)
    config = WrapConfig(
        layers=("blocks.0",),
        modes=("run", "iterate"),
        iteration="plain",
        damping=1.0,
        max_steps=5,
    )
    z, result = WrappedNetwork(module, config, x).iterate(0, [x])
    assert result.status.tolist() == [SolverStatus.MAX_STEPS] * 3
    assert result.num_steps.tolist() == [5] * 3 and bool(z.isfinite().all())


def test_blocks_of_ours_are_certified_and_solve_when_they_run() -> None:
    torch.manual_seed(0)
    module = Chain(DenseFixedPointLayer(4), nn.Linear(4, 4)).eval()
    x = torch.rand(3, 4)
    config = WrapConfig(
        layers=("blocks.0", "blocks.1"), modes=("run", "skip", "iterate")
    )
    wrapped = WrappedNetwork(module, config, x)
    assert wrapped.certified == ("blocks.0",)
    assert wrapped.choices == [("run", "skip"), ("run", "skip", "iterate")]
    assert wrapped.block_macs == [16, 16]
    with torch.no_grad():
        assert torch.equal(wrapped(x), module(x))
        solved = wrapped.solve(0, [x])
    assert solved is not None and bool((solved[1].num_steps > 1).all())
    assert wrapped.solve(1, [x]) is None


@torch.no_grad()
def test_contraction_is_measured_where_it_is_not_bound() -> None:
    """A step of z -> (1 - g) z + g A z with A of norm 1/2 is at most 1 - g / 2."""
    module, _, _ = linear_block(0.5)
    layer = DenseFixedPointLayer(4, kappa=0.8).double()
    module.blocks.append(layer)
    x = torch.rand(50, 4, dtype=torch.float64)
    config = WrapConfig(
        layers=("blocks.0", "blocks.1"),
        modes=("run", "skip", "iterate"),
        iteration="plain",
        damping=0.5,
    )
    linear, bound = measure_contraction(WrappedNetwork(module, config, x), x)
    assert not linear.certified and bound.certified
    assert linear.median <= linear.largest <= 0.75 + 1e-9
    assert bound.largest == pytest.approx(0.8)
    assert linear.converged == bound.converged == 1.0
    assert linear.diverged == 0.0 and linear.mean_steps > 2


# --- what cannot be wrapped -----------------------------------------------------------


class Branching(nn.Module):
    """Does another thing where its data are positive."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if x.sum() > 0:
            x = x + 1
        logits: Tensor = self.second(x)
        return logits


class Twice(Branching):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.second(self.first(self.first(x)))
        return logits


class LastState(LstmStack):
    """Reads the second output of a block."""

    def forward(self, tokens: Tensor) -> Tensor:
        x, (last, _) = self.layers[0](self.embedding(tokens).transpose(0, 1))
        logits: Tensor = self.head(x[-1] + last[0])
        return logits


class Counting(Branching):
    """Carries a number of samples over a block."""

    def forward(self, x: Tensor) -> Tensor:
        num = x.shape[0]
        logits: Tensor = self.second(self.first(x)) * num
        return logits


class Number(Branching):
    """Multiplies by a number that it reads from its data."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        largest = x.abs().max()
        logits: Tensor = self.second(y) * largest
        return logits


class Passed(Branching):
    """Hands the second output of a block on, over another block."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.other = (nn.GRU(4, 4, batch_first=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y, last = self.gru(x[:, None])
        y, _ = self.other(y)
        logits: Tensor = self.second(y[:, 0] + last[0])
        return logits


class Folded(Branching):
    """Takes parts of a sample for samples."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.second(self.first(x.reshape(-1, 4)).reshape(-1, 4))
        return logits


class Wrong(Branching):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).sum(1)


X = torch.arange(-5.0, 7.0).reshape(3, 4) / 3
TOKENS = torch.arange(15).reshape(3, 5) % 8 + 1


@pytest.mark.parametrize(
    ("module", "layers", "inputs", "message"),
    [
        (Branching(), ("frist",), X, "no module 'frist'; give .*such as .'first'"),
        (
            Chain(nn.Linear(4, 6), width=6),
            ("blocks.0",),
            X,
            r"maps \(4,\) of float32 to \(6,\)",
        ),
        (Branching(), ("first", "second"), X, "the network cannot be followed"),
        (
            Chain(Branching()),
            ("blocks.0.first",),
            X,
            "module 'blocks.0' cannot be",
        ),
        (Twice(), ("first",), X, "calls block 'first' 2 times"),
        (
            Chain(nn.Sequential(nn.Linear(4, 4))),
            ("blocks.0", "blocks.0.0"),
            X,
            "part of",
        ),
        (Branching(), ("first", "first"), X, "named twice"),
        (LastState(), ("layers.0",), TOKENS, "more than the first output of block"),
        (Counting(), ("first", "second"), X, "has no axis of as many"),
        (Branching(), ("first",), X[0], r"inputs \[n, ...\], not \(4,\); give one or"),
        (Branching(), ("first",), X[:, :3], r"take the example, of shape \(3, 3\)"),
        (Chain(nn.ReLU(inplace=True)), ("blocks.0",), X, "its input in place"),
        (Number(), ("first", "second"), X, "has no axis of as many"),
        (Passed(), ("gru", "other"), X, "more than the first output of block"),
        (Folded(), ("first",), X.reshape(3, 1, 4).repeat(1, 2, 1), "has no axis of as"),
        (Chain(nn.Embedding(9, 4)), ("blocks.0",), TOKENS, "to .5, 4. of float32"),
        (Wrong(), ("first",), X, r"returns \(2,\), not logits"),
    ],
)
def test_what_does_not_fit_is_named_with_a_remedy(
    module: nn.Module, layers: tuple[str, ...], inputs: Tensor, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        WrappedNetwork(module, WrapConfig(layers=layers), inputs)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": ("run",)}, "leaves nothing to decide"),
        ({"modes": ("skip", "iterate")}, "leaves nothing to decide"),
        ({"modes": ("run", "skip"), "rest": "run"}, "add 'iterate'"),
        ({"modes": ("run", "iterate"), "rest": "skip"}, "add 'skip'"),
        ({"damping": 0.0}, "damping"),
        ({"max_steps": 0}, "max_steps"),
        ({"layers": ()}, "layers"),
    ],
)
def test_options_out_of_range_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        WrapConfig(**({"layers": ("first",)} | options))


def test_shortcuts_and_parts_have_to_fit() -> None:
    module = Chain(nn.Linear(4, 4), nn.Linear(4, 6), width=6)
    config = WrapConfig(layers=("blocks.1",))
    for shortcuts, message in (
        ({"blocks.1": "blocks.0"}, r"gives \(4,\) of float32, the block \(6,\)"),
        ({"blocks.0": "blocks.1"}, "not among layers"),
        ({"blocks.1": "blocks.7"}, "no module 'blocks.7'"),
    ):
        with pytest.raises(ConfigError, match=message):
            WrappedNetwork(module, config, X, shortcuts=shortcuts)
    with pytest.raises(ConfigError, match="come together"):
        WrappedNetwork(module, config, X, head=lambda net, z: z)
    whole = Chain(nn.Linear(4, 4))
    config = WrapConfig(layers=("blocks.0",))
    with pytest.raises(ConfigError, match="otherwise than by itself"):
        WrappedNetwork(
            whole, config, X, stem=lambda net, x: -x, head=lambda net, z: net.head(z)
        )
    first = WrapConfig(layers=("blocks.0", "blocks.1"), modes=("run", "iterate"))
    with pytest.raises(ConfigError, match="cannot be iterated any further"):
        WrappedNetwork(
            module, first, X, shortcuts={"blocks.1": lambda block, x: block(x)}
        )
