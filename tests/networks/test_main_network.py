"""The main network: costs against two other counts, states against one pass, bits."""

import json
from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch
from helpers.flops import FlopCount
from helpers.networks import random_images, random_model, tiny_config
from torch import Tensor, nn
from torch.nn import functional as F

from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point import batch_invariant
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.costs import CostTable
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.layers.norm import PatternNorm
from dynalay_gym.networks.presets import PRESETS, make_config
from dynalay_gym.sessions.fastest import fastest_session
from dynalay_gym.sessions.torch_session import TorchSession

CONFIGS = {
    "tiny-wide": tiny_config("wide"),
    "tiny-state": tiny_config("state"),
    "with-stem": tiny_config("wide", stem=5, stem_stride=2, pools=(1, 1, 1)),
    "odd-size": tiny_config("wide", in_shape=(2, 14, 14)),
    "digits": make_config("digits", (1, 8, 8), 10),
    "small-32": make_config("small", (3, 32, 32), 10),
    "small-28": make_config("small", (1, 28, 28), 10),
    "paper": make_config("paper", (3, 32, 32), 10),
    "paper-28": make_config("paper", (1, 28, 28), 10),
}
every_config = pytest.mark.parametrize("name", CONFIGS)
every_session = pytest.mark.parametrize("kind", [fastest_session, TorchSession])


def side_after(side: int, stride: int) -> int:
    """Output positions 0, stride, 2 stride, ... of a convolution padded to `same`."""
    return len(range(0, side, stride))


def macs_by_hand(config: MainNetworkConfig) -> dict[str, list[int] | int]:
    """Multiply-adds of each part, written out from the architecture alone."""
    channels, side = config.in_shape[:2]
    stem = 0
    if config.stem:
        side = side_after(side, config.stem_stride)
        stem, channels = 9 * channels * config.stem * side**2, config.stem
    plain, setup, setup_below, iteration = [], [], [], []
    hidden_below = config.in_shape[0] * config.unshuffle**2
    for i, (width, stride) in enumerate(
        zip(config.channels, config.strides, strict=True)
    ):
        side = side_after(side, stride)
        plain.append(9 * channels * width * side**2)
        channels = width
        if config.form == "state":
            setup.append(0)
            setup_below.append(0)
            iteration.append(9 * width * width * side**2)
            continue
        hidden, area = config.hidden[i], side_after(side, config.pools[i]) ** 2
        inject = 9 * width * hidden * area
        from_below = 9 * hidden_below * hidden * area
        read = hidden * width * area
        setup.append(inject + read + (from_below if i == 0 else 0))
        setup_below.append(inject + read + from_below)
        iteration.append(9 * hidden * hidden * area)
        hidden_below = hidden
    features = config.channels[-1] + (config.hidden[-1] if config.hidden else 0)
    return {
        "stem": stem,
        "plain": plain,
        "setup": setup,
        "setup_below": setup_below,
        "iteration": iteration,
        "head": config.num_classes * features,
    }


@every_config
def test_macs_equal_the_closed_form(name: str) -> None:
    config = CONFIGS[name]
    costs, hand = CostTable.of(random_model(config)), macs_by_hand(config)
    assert costs.stem == hand["stem"]
    assert costs.head == hand["head"]
    assert [layer.plain for layer in costs.layers] == hand["plain"]
    assert [layer.setup[0] for layer in costs.layers] == hand["setup"]
    assert [layer.setup[1] for layer in costs.layers] == hand["setup_below"]
    assert [layer.iteration for layer in costs.layers] == hand["iteration"]
    plain = hand["plain"]
    assert isinstance(plain, list)
    assert costs.plain_pass == costs.stem + sum(plain) + costs.head


def test_macs_of_one_network_in_numbers() -> None:
    config = MainNetworkConfig(
        in_shape=(1, 8, 8),
        num_classes=10,
        form="wide",
        stem=0,
        stem_stride=1,
        channels=(3, 4),
        strides=(1, 2),
        hidden=(8, 16),
        pools=(2, 1),
        unshuffle=2,
    )
    costs = CostTable.of(random_model(config))
    first, second = costs.layers
    assert (first.plain, second.plain) == (1728, 1728)
    assert first.setup == (3456 + 4608 + 384,) * 2
    assert second.setup == (9216 + 1024, 9216 + 1024 + 18432)
    assert (first.iteration, second.iteration) == (9216, 36864)
    assert costs.head == 200
    assert costs.plain_pass == 3656


def twice_each(images: Tensor) -> Tensor:
    """Every row beside a copy, so that no row is ever solved alone (and padded)."""
    return images.repeat_interleave(2, 0)


@every_config
def test_macs_equal_those_of_pytorchs_counter(name: str) -> None:
    config = CONFIGS[name]
    session = TorchSession(random_model(config), rtol=0.05)
    images = twice_each(random_images(config, 3))
    rows = torch.arange(len(images))
    with FlopCount() as counter:
        state = session.begin(images)
    assert counter.total() == 2 * len(images) * session.plain_macs
    choices = [1, 2, 3, 3, 1, 3, 2, 2, 1, 1]
    for layer in choices:
        with FlopCount() as counter:
            cost = session.apply(state, rows, torch.full_like(rows, layer))
        assert counter.total() == 2 * int(cost.macs.sum()), layer
    assert len(cost.solver_steps.unique()) == 1, "the last choice was a check"


@every_config
def test_macs_of_rows_that_choose_differently(name: str) -> None:
    config = CONFIGS[name]
    session = TorchSession(random_model(config))
    images = twice_each(random_images(config, 4))
    rows = torch.arange(len(images))
    state = session.begin(images)
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        layers = torch.randint(0, 4, (4,), generator=generator).repeat_interleave(2)
        with FlopCount() as counter:
            cost = session.apply(state, rows, layers)
        assert counter.total() == 2 * int(cost.macs.sum())


@every_config
def test_a_lone_row_costs_one_head_more_than_one_of_many(name: str) -> None:
    session = TorchSession(random_model(CONFIGS[name]))
    with FlopCount() as counter:
        session.begin(random_images(CONFIGS[name], 1))
    # A matrix product of one row is computed beside a copy.
    assert counter.total() == 2 * (session.plain_macs + session.costs.head)


def test_a_lone_row_without_the_named_library_is_padded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = TorchSession(random_model(CONFIGS["digits"]))
    images = random_images(CONFIGS["digits"], 1)
    expected = session.begin(images).logits
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with FlopCount() as counter:
        found = session.begin(images).logits
    assert torch.equal(found, expected)
    assert counter.total() == 2 * 2 * session.plain_macs


# --- states ---------------------------------------------------------------------------


@every_config
@every_session
def test_every_state_of_a_session_equals_one_pass(
    name: str, kind: Callable[..., TorchSession]
) -> None:
    config = CONFIGS[name]
    model = random_model(config)
    images = random_images(config, 5)
    with torch.no_grad():
        expected = [model.forward_path(images, path) for path in range(8)]
        assert torch.equal(model(images), expected[0])
    session = kind(model)
    rows = torch.arange(5)
    for path in range(8):
        state = session.begin(images)
        for layer in (1, 2, 3):
            if path >> (layer - 1) & 1:
                session.apply(state, rows, torch.full_like(rows, layer))
        torch.testing.assert_close(state.logits, expected[path])
        assert session.state_ids(state).tolist() == [path] * 5
    distinct = {tuple(logits.flatten().tolist()) for logits in expected}
    assert len(distinct) == 8, "eight states should give eight answers"


def test_no_iterations_in_the_paper_form_are_the_plain_application() -> None:
    model = random_model(tiny_config("state"))
    below = model.stem(random_images(model.config, 4))
    nothing = SolverConfig(max_steps=0)
    with torch.no_grad():
        for i, layer in enumerate(model.main_layers):
            plain = layer.plain(below, 2**i - 1)
            iterated, result = layer.iterate(below, plain, 2**i - 1, nothing)
            assert torch.equal(iterated.y, plain.y)
            assert result.num_steps.tolist() == [0] * 4
            below = iterated


def test_no_iterations_in_the_wide_form_are_one_application_from_zero() -> None:
    model = random_model(tiny_config("wide"))
    below = model.stem(random_images(model.config, 4))
    layer = model.main_layers[0]
    with torch.no_grad():
        plain = layer.plain(below, 0)
        state, _ = layer.iterate(below, plain, 0, SolverConfig(max_steps=0))
    assert torch.equal(state.h, torch.relu(state.x))
    assert plain.h is None and state.h.count_nonzero() > 0
    assert torch.equal(state.u, plain.u)


@pytest.mark.parametrize("form", ["state", "wide"])
@every_session
def test_without_recurrence_one_iteration_is_enough(
    form: str, kind: Callable[..., TorchSession]
) -> None:
    model = random_model(tiny_config(form))
    for layer in model.layers:
        nn.init.zeros_(layer.recurrence.free_weight)
    session = kind(model)
    state = session.begin(random_images(model.config, 3))
    for chosen in (1, 2, 3):
        cost = session.apply(state, torch.arange(3), torch.full((3,), chosen))
        assert cost.solver_steps.tolist() == [1, 1, 1]
        assert cost.status.tolist() == [0, 0, 0]
    assert state.residual.tolist() == [[0.0] * 3] * 3


@pytest.mark.parametrize("name", ["tiny-wide", "tiny-state", "small-28"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_pattern_of_the_batch_equals_one_pattern_per_row(
    name: str, channels_last: bool
) -> None:
    """To the bit, whichever rows stand beside each other."""
    model = random_model(CONFIGS[name]).freeze()
    images = random_images(model.config, 6)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    stem, layer = model.stem(images), model.main_layers[1]
    with torch.no_grad():
        plain = model.main_layers[0].plain(stem, 0)
        iterated, _ = model.main_layers[0].iterate(stem, plain, 0, model.solvers[0])
        pattern = torch.tensor([1, 0, 1, 1, 0, 1])
        rows = pattern.nonzero()[:, 0]
        below = iterated._replace(
            y=torch.where(pattern.view(-1, 1, 1, 1) > 0, iterated.y, plain.y)
        )
        mixed = layer.plain(below, pattern)
        solved, _ = layer.iterate(below, mixed, pattern, model.solvers[0])
        for one, part in ((1, rows), (0, (pattern == 0).nonzero()[:, 0])):
            apart = layer.plain(below.at(part), one)
            assert torch.equal(apart.y, mixed.y[part])
            again, _ = layer.iterate(below.at(part), apart, one, model.solvers[0])
            for new, expected in zip(again, solved, strict=True):
                same = new is None and expected is None
                assert same or torch.equal(new, expected[part])


def test_gradients_reach_exactly_what_a_path_uses() -> None:
    model = random_model(tiny_config("wide"))
    images = random_images(model.config, 6)
    for path in range(8):
        model.zero_grad()
        model.forward_path(images, path).square().sum().backward()
        for i, layer in enumerate(model.layers):
            used = layer.recurrence.free_weight.grad is not None
            assert used == bool(path >> i & 1)
            assert layer.weight_in.grad is not None


# --- normalisation --------------------------------------------------------------------


def reference_norm(norm: PatternNorm, pattern: int) -> nn.BatchNorm2d:
    reference = nn.BatchNorm2d(
        norm.weight.shape[1], eps=norm.eps, momentum=norm.momentum
    )
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(reference, name).copy_(getattr(norm, name)[pattern])
    return reference.train(norm.training)


def random_norm(num_patterns: int = 4) -> PatternNorm:
    torch.manual_seed(0)
    norm = PatternNorm(5, num_patterns)
    for part in (norm.running_mean, norm.bias):
        nn.init.normal_(part)
    for part in (norm.running_var, norm.weight):
        nn.init.uniform_(part, 0.5, 2.0)
    return norm


def test_pattern_norm_equals_batch_norm_of_that_pattern() -> None:
    norm, x = random_norm().eval(), torch.randn(6, 5, 3, 3)
    for pattern in range(4):
        expected = reference_norm(norm, pattern)(x)
        torch.testing.assert_close(norm(x, pattern), expected)


def test_pattern_norm_trains_one_pattern_and_leaves_the_others() -> None:
    norm, x = random_norm().train(), 2 * torch.randn(6, 5, 3, 3) + 1
    reference, before = reference_norm(norm, 2), norm.running_mean.clone()
    torch.testing.assert_close(norm(x, 2), reference(x))
    torch.testing.assert_close(norm.running_mean[2], reference.running_mean)
    torch.testing.assert_close(norm.running_var[2], reference.running_var)
    others = [0, 1, 3]
    assert torch.equal(norm.running_mean[others], before[others])


def test_rows_of_different_patterns_equal_one_at_a_time() -> None:
    norm, x = random_norm().eval(), torch.randn(6, 5, 3, 3)
    patterns = torch.tensor([3, 0, 2, 2, 1, 0])
    mixed = norm(x, patterns)
    for row, pattern in enumerate(patterns.tolist()):
        assert torch.equal(mixed[row], norm(x[row : row + 1], pattern)[0])


# --- bits -----------------------------------------------------------------------------

BATCHES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 70)
CONVOLUTIONS = [  # in, out, side of the map, kernel, stride
    (1, 3, 8, 3, 1),
    (3, 8, 4, 3, 1),
    (8, 8, 4, 3, 1),
    (24, 24, 4, 3, 1),
    (24, 6, 4, 1, 1),
    (4, 2, 4, 1, 1),
    (5, 3, 4, 1, 1),
    (96, 64, 4, 1, 1),
    (1, 4, 4, 1, 1),
    (3, 16, 32, 3, 2),
    (48, 48, 8, 3, 1),
    (96, 96, 4, 3, 1),
    (64, 64, 16, 3, 1),
    (256, 256, 4, 3, 1),
    (5, 7, 5, 3, 1),
    (2, 2, 1, 3, 1),
]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", CONVOLUTIONS, ids=str)
def test_rows_of_a_convolution_do_not_depend_on_the_batch(
    shape: tuple[int, ...], threads: int
) -> None:
    c_in, c_out, side, kernel, stride = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(70, c_in, side, side, generator=generator)
    weight = torch.randn(c_out, c_in, kernel, kernel, generator=generator)
    padding = kernel // 2
    whole = batch_invariant.conv2d(x, weight, stride=stride, padding=padding)
    large = c_in * c_out * side**2 > 200_000
    sizes = (1, 2, 17, 64) if large else BATCHES
    for n in sizes:
        rows = torch.randperm(70, generator=generator)[:n]
        part = batch_invariant.conv2d(x[rows], weight, stride=stride, padding=padding)
        assert torch.equal(part, whole[rows]), n
    assert torch.allclose(whole, F.conv2d(x, weight, None, stride, padding), atol=1e-3)


@pytest.mark.parametrize(("features", "classes"), [(30, 10), (160, 10), (256, 100)])
def test_rows_of_a_product_do_not_depend_on_the_batch(
    features: int, classes: int, threads: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(70, features, generator=generator)
    weight = torch.randn(classes, features, generator=generator)
    whole = batch_invariant.linear(x, weight)
    for n in BATCHES:
        rows = torch.randperm(70, generator=generator)[:n]
        assert torch.equal(batch_invariant.linear(x[rows], weight), whole[rows]), n
    torch.testing.assert_close(whole, x @ weight.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(8, 9, 9), (6, 3, 3), (48, 16, 17), (1, 1, 1)])
@pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"]
)
def test_rows_of_a_gelu_do_not_depend_on_the_batch(
    shape: tuple[int, int, int], layout: torch.memory_format, threads: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(70, *shape, generator=generator).contiguous(memory_format=layout)
    whole = batch_invariant.gelu(x)
    assert whole.stride() == x.stride()
    for n in BATCHES:
        rows = torch.randperm(70, generator=generator)[:n]
        part = x[rows].contiguous(memory_format=layout)
        assert torch.equal(batch_invariant.gelu(part), whole[rows]), n
    torch.testing.assert_close(whole, F.gelu(x))


def test_convolution_of_no_rows() -> None:
    out = batch_invariant.conv2d(
        torch.zeros(0, 2, 4, 4), torch.zeros(3, 2, 3, 3), padding=1
    )
    assert out.shape == (0, 3, 4, 4)
    assert batch_invariant.linear(torch.zeros(0, 5), torch.zeros(3, 5)).shape == (0, 3)


@pytest.mark.parametrize("name", ["digits", "small-28", "tiny-state"])
@every_session
def test_a_plain_pass_does_not_depend_on_the_batch(
    name: str, kind: Callable[..., TorchSession], threads: int
) -> None:
    config = CONFIGS[name]
    session = kind(random_model(config))
    images = random_images(config, 17)
    whole = session.begin(images)
    for rows in ([4], [7, 1], [0, 16, 5], list(range(16, -1, -1))):
        part = session.begin(images[rows])
        assert torch.equal(part.logits, whole.logits[rows])
        assert torch.equal(part.pooled, whole.pooled[rows])


# --- architectures --------------------------------------------------------------------


def test_presets_build_on_every_shape_they_are_meant_for() -> None:
    images = [name for name in PRESETS if PRESETS[name]["form"] in ("wide", "state")]
    meant = [*product(images, [(3, 32, 32), (1, 28, 28)]), ("maze", (3, 33, 33))]
    for preset, shape in meant:
        model = random_model(make_config(preset, shape, 10))
        everything = 2**model.num_layers - 1
        with torch.no_grad():
            logits = model.forward_path(random_images(model.config, 2), everything)
        assert logits.shape == (2, 10)
        assert logits.isfinite().all()


def test_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'huge'.*digits"):
        make_config("huge", (3, 32, 32), 10)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"form": "deep"}, "form"),
        ({"channels": (2, 3)}, "length"),
        ({"hidden": (2, 3)}, "length"),
        ({"channels": (), "strides": (), "hidden": (), "pools": ()}, "length"),
        ({"rtol": 0.0}, "rtol"),
        ({"max_steps": -1}, "max_steps"),
        ({"in_shape": (1, 8, 6)}, "square"),
        ({"num_classes": 1}, "num_classes"),
        ({"kappa": 1.0}, "kappa"),
        ({"unshuffle": 3}, "unshuffle"),
    ],
)
def test_impossible_architectures_are_refused(changes, names: str) -> None:
    config = tiny_config("wide").to_dict()
    with pytest.raises(ConfigError, match=names):
        MainNetworkConfig(**config | changes)


@pytest.mark.parametrize(
    "changes", [{"pools": (3, 1, 1)}, {"pools": (1, 1, 1), "unshuffle": 4}]
)
def test_hidden_streams_that_do_not_fit_are_refused(changes) -> None:
    with pytest.raises(ConfigError, match=r"hidden stream of side.*strides, pools"):
        random_model(tiny_config("wide", **changes))


def test_config_survives_json() -> None:
    config = tiny_config("wide")
    assert MainNetworkConfig(**json.loads(json.dumps(config.to_dict()))) == config
