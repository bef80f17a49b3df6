"""The attention form: words and patches as tokens, costs, portions, training."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynalay_gym.data.chains import VOCABULARY, make_chains_split
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.solve import GradientRule, SolverConfig
from dynalay_gym.networks.costs import CostTable
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.layers.encoder import EncoderLayer, EncoderStem
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.networks.presets import make_config
from dynalay_gym.networks.state_losses import loss_of_states, partial_logits
from dynalay_gym.networks.training import MainTrainer, TrainingConfig
from dynalay_gym.predictor.export import parts_of
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.torch_session import TorchSession

IMAGES = MainNetworkConfig(
    in_shape=(2, 8, 8),
    num_classes=5,
    form="attention",
    stem=8,
    stem_stride=2,
    channels=(8, 8),
    hidden=(12, 6),
    heads=2,
    rtol=0.05,
    max_steps=6,
)
TEXTS = replace(IMAGES, in_shape=(9,), stem_stride=1, vocabulary=VOCABULARY, rtol=0.02)


def lively(config: MainNetworkConfig) -> MainNetwork:
    """Random network whose tokens take some steps to settle."""
    torch.manual_seed(0)
    network = MainNetwork(config).eval()
    with torch.no_grad():
        for layer in network.main_layers:
            assert isinstance(layer, EncoderLayer)
            layer.recurrence.layer.out.mul_(1.5)
    return network


def inputs_for(config: MainNetworkConfig, num: int = 40) -> Tensor:
    """Images, or texts of 1 to 9 words."""
    torch.manual_seed(1)
    if not config.reads_texts:
        return torch.randn(num, *config.in_shape)
    words = nn.functional.pad(make_chains_split(num, seed=99).inputs, (0, 2), value=5)
    return words * (torch.arange(9) < torch.randint(1, 10, (num, 1)))


both = pytest.mark.parametrize("config", [IMAGES, TEXTS], ids=["images", "texts"])


# --- stems ----------------------------------------------------------------------------


@torch.no_grad()
def test_a_patch_is_a_token() -> None:
    stem = EncoderStem((2, 4, 4), 3, 2)
    images = torch.randn(5, 2, 4, 4)
    state = stem(images)
    patch = images[:, :, 2:, :2].flatten(1)  # the third of four, row by row
    token = patch @ stem.patches.flatten(1).T + stem.position[:, 2, 0]
    torch.testing.assert_close(state.u[:, :3, 2, 0], token)
    torch.testing.assert_close(state.y[:, 3:6, 2, 0], torch.relu(-token))
    assert (state.y[:, -1] == 1).all() and not stem.padding(images).any()
    assert stem.macs == 4 * 8 * 3


@torch.no_grad()
def test_a_word_is_a_token_and_padding_is_none() -> None:
    network = lively(TEXTS)
    texts = torch.tensor([[4, 7, 4, 0, 0, 0, 0, 0, 0]])
    stem = network.encoder_stem
    state, position = stem(texts), stem.position[:, :, 0]
    assert stem.words is not None
    vectors = torch.tanh(stem.words.vectors[texts[0, :3]])
    torch.testing.assert_close(state.u[0, :8, :3, 0], vectors.T + position[:, :3])
    assert state.y[0, -1, :, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert not state.y[0, :, 3:].any()
    assert network.padding(texts).tolist() == [6]


# --- layers ---------------------------------------------------------------------------


@torch.no_grad()
def test_a_plain_layer_is_one_step_from_its_input() -> None:
    network, images = lively(IMAGES), inputs_for(IMAGES)
    stem, layer = network.stem(images), network.main_layers[0]
    assert isinstance(layer, EncoderLayer)
    x = (stem.y[:, :8] - stem.y[:, 8:16])[..., 0].transpose(1, 2)
    z = layer.recurrence.layer.apply_once(x, x)
    plain = layer.plain(stem, 0)
    torch.testing.assert_close(plain.u[:, :8, :, 0].transpose(1, 2), z)
    solver = SolverConfig(rtol=1e-30, max_steps=2)
    iterated, result = layer.iterate(stem, plain, 0, solver)
    for _ in range(2):
        z = layer.recurrence.layer.apply_once(z, x)
    torch.testing.assert_close(iterated.h[:, :8, :, 0].transpose(1, 2), z)
    torch.testing.assert_close(iterated.y[:, 8:16, :, 0], torch.relu(-z).mT)
    pooled = torch.cat([torch.relu(z).mean(1), torch.relu(-z).mean(1)], 1)
    torch.testing.assert_close(layer.pool(iterated), pooled)
    assert (result.num_steps == 2).all()
    assert layer.picture(iterated).shape == (40, 16, 4, 4)


@torch.no_grad()
def test_what_stands_behind_a_text_changes_nothing() -> None:
    network = lively(TEXTS)
    short = lively(replace(TEXTS, in_shape=(7,)))
    saved = network.state_dict()
    saved["encoder_stem.position"] = saved["encoder_stem.position"][:, :7]
    short.load_state_dict(saved)
    texts = make_chains_split(20, seed=99).inputs
    padded = nn.functional.pad(texts, (0, 2))
    for state_id in (0, 3):
        exact = short.forward_path(texts, state_id)
        torch.testing.assert_close(network.forward_path(padded, state_id), exact)


# --- costs and sessions ---------------------------------------------------------------


def test_costs_by_hand() -> None:
    costs = CostTable.of(lively(IMAGES))
    token = 4 * 8 * 8 + 2 * 16 * 8
    first, second = 16 * (token + 2 * 8 * 12), 16 * (token + 2 * 8 * 6)
    assert costs.stem == 16 * 8 * 8
    assert [each.plain for each in costs.layers] == [first, second]
    assert [each.iteration for each in costs.layers] == [first, second]
    assert costs.plain_pass == 16 * 64 + first + second + 5 * 16


@both
@pytest.mark.parametrize("portion", [None, 1])
@torch.no_grad()
def test_a_session_agrees_with_the_network(
    config: MainNetworkConfig, portion: int | None
) -> None:
    network, inputs = lively(config), inputs_for(config)
    session = TorchSession(network, iterations_per_action=portion)
    state, rows = session.begin(inputs), torch.arange(40)
    torch.testing.assert_close(session.logits(state, rows), network(inputs))
    steps = torch.zeros(40, dtype=torch.int64)
    for _ in range(6 if portion else 1):
        useful = session.useful_actions(state, rows)[:, 1].nonzero()[:, 0]
        cost = session.apply(state, useful, torch.full_like(useful, 1))
        steps[useful] += cost.solver_steps
    expected = network.forward_path(inputs, 1)
    torch.testing.assert_close(session.logits(state, rows), expected)
    assert 1 < int(steps.max()) <= 6 and len(steps.unique()) > 1
    longest = int(steps.argmax())
    curve = session.residual_curves(state, longest)["layer 1"]
    assert len(curve) == int(steps.max())
    assert curve[-1] == pytest.approx(float(state.residual[longest, 0]), rel=1e-3)


@both
@torch.no_grad()
def test_a_network_that_is_never_iterated_is_not_in_training_either(
    config: MainNetworkConfig,
) -> None:
    network, inputs = lively(replace(config, max_steps=0)), inputs_for(config)
    [found] = partial_logits(network, inputs, [1], torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, network.forward_path(inputs, 1))


@both
@torch.no_grad()
def test_a_solve_costs_what_its_tokens_take(config: MainNetworkConfig) -> None:
    network, inputs = lively(config), inputs_for(config)
    layer = network.main_layers[0]
    assert isinstance(layer, EncoderLayer)
    stem = network.stem(inputs)
    _, result = layer.iterate(stem, layer.plain(stem, 0), 0, network.solvers[0])
    assert len(result.token_steps.unique()) > 2  # type: ignore[attr-defined]
    taken = result.token_steps.sum(1)  # type: ignore[attr-defined]
    tokens = network.padding(inputs).neg() + layer.sides[0] * layer.sides[1]
    costs = CostTable.of(network)
    above = costs.layers[1].padding * tokens + costs.head
    session = TorchSession(network)
    state, rows = session.begin(inputs), torch.arange(40)
    cost = session.apply(state, rows, torch.full_like(rows, 1))
    assert torch.equal(cost.macs, taken * costs.layers[0].padding + above)
    assert torch.equal(cost.solver_steps, result.num_steps)
    assert torch.equal(cost.status, result.status)


@both
@pytest.mark.parametrize("portion", [None, 1])
@torch.no_grad()
def test_a_row_does_not_depend_on_those_beside_it(
    config: MainNetworkConfig, portion: int | None
) -> None:
    inputs, found = inputs_for(config), []
    session = TorchSession(lively(config), iterations_per_action=portion)
    for chosen in (torch.arange(40), torch.tensor([7]), torch.tensor([3, 7, 21])):
        state, rows = session.begin(inputs[chosen]), torch.arange(len(chosen))
        at = int((chosen == 7).nonzero())
        macs = []
        for action in (2, 1, 1, 2):
            cost = session.apply(state, rows, torch.full_like(rows, action))
            macs.append(int(cost.macs[at]))
        found.append((session.logits(state, rows)[at], macs))
    for logits, macs in found[1:]:
        assert torch.equal(logits, found[0][0]) and macs == found[0][1]


@pytest.mark.parametrize("preset", ["transformer", "text-transformer"])
@torch.no_grad()
def test_no_row_changes_another_at_the_sizes_in_use(preset: str) -> None:
    torch.manual_seed(0)
    shape = (3, 32, 32) if preset == "transformer" else (7,)
    config = make_config(preset, shape, 10)
    inputs = torch.randn(70, *shape)
    if config.reads_texts:
        config = replace(config, vocabulary=VOCABULARY)
        inputs = make_chains_split(70, seed=99).inputs
    session, found = TorchSession(MainNetwork(config)), []
    for num in (70, 17, 3, 2, 1):
        state, rows = session.begin(inputs[:num]), torch.arange(num)
        logits = [session.logits(state, rows)]
        for action in range(session.num_layers, 0, -1):
            cost = session.apply(state, rows, torch.full_like(rows, action))
            logits.append(session.logits(state, rows))
        found.append([*logits, session.features(state, rows), cost.macs])
    for smaller in found[1:]:
        for part, whole in zip(smaller, found[0], strict=True):
            assert torch.equal(part, whole[: len(part)])


@both
def test_export_is_refused(config: MainNetworkConfig) -> None:
    predictor = DynaLayPredictor(lively(config), PlanPolicy([1]), penalty=0.1)
    with pytest.raises(ConfigError, match="or that attend"):
        parts_of(predictor)


# --- gradients and training -----------------------------------------------------------


@both
def test_the_implicit_gradient_is_the_unrolled_one(config: MainNetworkConfig) -> None:
    network, inputs = MainNetwork(config).double(), inputs_for(config, 6)
    for layer in network.main_layers:
        assert isinstance(layer, EncoderLayer)
        layer.recurrence.layer.out.data.mul_(0.3)  # it converges soon
    inputs = inputs if config.reads_texts else inputs.double()
    labels, found = torch.arange(6) % 5, []
    for rule in (GradientRule.IMPLICIT, GradientRule.UNROLL):
        solver = SolverConfig(rtol=1e-11, max_steps=60, rule=rule, adjoint_rtol=1e-9)
        network.zero_grad()
        loss_of_states(network, inputs, labels, {0: 1.0, 3: 1.0}, solver).backward()
        grads = [w.grad for w in network.parameters() if w.grad is not None]
        found.append(torch.cat([grad.flatten() for grad in grads]))
    assert float(torch.cosine_similarity(*found, dim=0)) >= 0.999
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-8)


def test_it_learns_whether_two_patches_are_alike() -> None:
    torch.manual_seed(0)
    signs = torch.randint(0, 2, (128, 2)) * 2.0 - 1  # of the two upper patches
    labels = (signs[:, 0] == signs[:, 1]).long()
    images = torch.zeros(128, 1, 4, 4)
    images[:, 0, :2] = signs.repeat_interleave(2, 1)[:, None]
    config = replace(
        IMAGES,
        in_shape=(1, 4, 4),
        num_classes=2,
        channels=(8,),
        hidden=(16,),
        max_steps=2,
    )
    options = TrainingConfig(
        epochs=12, batch_size=32, learning_rate=3e-2, paths="portions"
    )
    trainer = MainTrainer(MainNetwork(config), Split(images, labels), options)
    for _ in range(12):
        trainer.train_epoch(lambda step, loss: None)
    network = trainer.network.eval()
    with torch.no_grad():
        right = network.forward_path(images, 1).argmax(1) == labels
    assert float(right.float().mean()) > 0.95


def test_a_certified_network_converges_whatever_its_weights() -> None:
    network = lively(replace(IMAGES, certified=True, kappa=0.8, max_steps=60))
    layer = network.main_layers[0]
    assert isinstance(layer, EncoderLayer)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.mul_(5)
        stem = network.stem(inputs_for(IMAGES))
        state = layer.plain(stem, 0)
        result = layer.iterate(stem, state, 0, SolverConfig(rtol=1e-4))[1]
    assert not result.status.any()


# --- errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 3}, "which the heads divide"),
        ({"stem": 16}, "channels of the stem"),
        ({"hidden": (12,)}, "differ in length"),
        ({"stem_stride": 3}, "do not divide images of side 8"),
        ({"in_shape": (9,), "cutoffs": (2,)}, "leave them out"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(IMAGES, **wrong)


def test_a_network_without_words_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a vocabulary"):
        MainNetwork(replace(TEXTS, vocabulary=None))
