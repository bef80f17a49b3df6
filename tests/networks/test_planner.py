"""The planner: what its layers see and read, costs, states, portions, sizes."""

from dataclasses import replace

import pytest
import torch
from helpers.flops import FlopCount
from helpers.networks import random_model
from torch import Tensor, nn

from dynalay_gym.data.maze import make_maze_split
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.envs.config import SHIPPED
from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.bellman import BellmanLayer
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.checkpoint import load_network
from dynalay_gym.networks.costs import CostTable
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.layers.planner import PlannerLayer, crop, paste
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.networks.state_losses import partial_logits
from dynalay_gym.networks.training import (
    MainTrainer,
    TrainingConfig,
)
from dynalay_gym.sessions.torch_session import TorchSession

CONFIG = MainNetworkConfig(
    in_shape=(3, 9, 9),
    num_classes=4,
    form="planner",
    stem=4,
    channels=(2, 2),
    views=(5, 0),
    head_width=6,
    kappa=0.97,
    rtol=1e-5,
    max_steps=(6, 24),
)


def mazes(num: int = 12, size: int = 9) -> Split:
    return make_maze_split(num, size, seed=99)


def lively_model(config: MainNetworkConfig = CONFIG) -> MainNetwork:
    """Random network whose maps differ from what it starts training with."""
    model = random_model(config)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for name, part in model.named_parameters():
            if "planner_stem" in name:
                nn.init.normal_(part, std=0.3)
    return model


def all_rows(images: Tensor, action: int) -> tuple[Tensor, Tensor]:
    rows = torch.arange(len(images))
    return rows, torch.full_like(rows, action)


# --- what a layer sees ----------------------------------------------------------------


def test_a_crop_is_centred_and_has_zeros_beyond_the_edge() -> None:
    maps = torch.arange(1.0, 26).view(1, 1, 5, 5).repeat(2, 1, 1, 1)
    cut = crop(maps, torch.tensor([0, 2]), torch.tensor([0, 3]), 3)
    assert cut[0, 0].tolist() == [[0, 0, 0], [0, 1, 2], [0, 6, 7]]
    assert cut[1, 0].tolist() == [[8, 9, 10], [13, 14, 15], [18, 19, 20]]


def test_paste_puts_back_what_crop_took() -> None:
    maps = torch.rand(6, 2, 5, 5)
    where = torch.arange(6) % 5, torch.arange(6) * 2 % 5
    back = paste(crop(maps, *where, 3), *where, 5)
    for n, (row, column) in enumerate(zip(*where, strict=True)):
        seen = torch.zeros(5, 5, dtype=torch.bool)
        seen[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = True
        assert torch.equal(back[n], maps[n] * seen)


def walk_kernels(layer: BellmanLayer) -> None:
    """Let action a of each channel look at one of the four neighbours alone."""
    with torch.no_grad():
        layer.free_weight.fill_(-1e4)
        rows = layer.free_weight.view(4, layer.channels, layer.channels, 9)
        for action, pixel in enumerate((1, 5, 7, 3)):
            rows[action].diagonal()[pixel] = 1e4


def test_before_training_a_maze_is_a_map_of_discounted_distances() -> None:
    split = mazes(30, 19)
    model = MainNetwork(make_config("maze", (3, 19, 19), 4)).eval()
    layers = [layer for layer in model.main_layers if isinstance(layer, PlannerLayer)]
    for layer in layers:
        walk_kernels(layer.recurrence)
    stem = model.stem(split.inputs)
    solver = SolverConfig(rtol=1e-7, max_steps=400)
    with torch.no_grad():
        near = layers[0].plain(stem, 0)
        below = layers[0].iterate(stem, near, 0, solver)[0]
        full = layers[1].iterate(below, layers[1].plain(below, 1), 1, solver)[0]
    at_start = (full.y[:, -1] * split.inputs[:, 2]).flatten(1).amax(1)
    assert split.difficulty is not None
    # A wall is as hard to pass as 80 free pixels: farther than any of these goals.
    assert int(split.difficulty.max()) < 70
    at_goal, step = torch.tensor(3.0).sigmoid(), 0.97 * torch.tensor(4.0).sigmoid()
    torch.testing.assert_close(at_start, at_goal * step**split.difficulty)


def test_features_by_hand() -> None:
    model = lively_model()
    split, layer = mazes(), model.main_layers[1]
    h = model.stem(split.inputs)
    plain = layer.plain(model.main_layers[0].plain(h, 0), 0)
    features = layer.pool(plain).detach()
    assert features.shape == (12, layer.num_features)
    assert float(features.min()) >= 0
    assert torch.equal(features[:, :38], torch.zeros(12, 38))  # of two layers' values
    goal, start = (split.inputs[:, i].flatten(1).argmax(1) for i in (1, 2))
    way = torch.stack([goal // 9 - start // 9, goal % 9 - start % 9], 1)
    torch.testing.assert_close(features[:, -2:], 0.5 + way / 18)
    torch.testing.assert_close(features[:, -6:-2], h.y[:, :4].amax((2, 3)))
    there = h.y[torch.arange(12), :4, start // 9, start % 9]
    torch.testing.assert_close(features[:, 38:42], there)


# --- cost -----------------------------------------------------------------------------


def test_macs_in_numbers_and_by_pytorchs_counter() -> None:
    session = TorchSession(lively_model(), iterations_per_action=4)
    costs = CostTable.of(session.network)
    assert costs.stem == (3 * 4 * 9 + 4 * 4 * 9 + 4 * 4) * 81
    assert [layer.plain for layer in costs.layers] == [0, 0]
    assert [layer.iteration for layer in costs.layers] == [8 * 18 * 25, 8 * 18 * 81]
    features = session.network.main_layers[-1].num_features
    assert costs.head == 6 * features + 4 * 6
    images = mazes().inputs
    with FlopCount() as counter:
        state = session.begin(images)
    assert counter.total() == 2 * len(images) * session.plain_macs
    for action in (1, 2, 2, 1, 2):
        with FlopCount() as counter:
            cost = session.apply(state, *all_rows(images, action))
        assert counter.total() == 2 * int(cost.macs.sum())


# --- states ---------------------------------------------------------------------------


def test_every_state_of_a_session_equals_one_pass() -> None:
    model, images = lively_model(), mazes().inputs
    session = TorchSession(model)
    seen = set()
    for number in range(4):
        state = session.begin(images)
        for action in (1, 2):
            if number >> (action - 1) & 1:
                session.apply(state, *all_rows(images, action))
        with torch.no_grad():
            expected = model.forward_path(images, number)
        torch.testing.assert_close(state.logits, expected)
        seen.add(tuple(state.logits.flatten().tolist()))
    assert len(seen) == 4


def test_portions_end_where_one_long_solve_does_to_the_bit() -> None:
    model, images = lively_model(), mazes().inputs
    whole, parts = TorchSession(model, 1e-30), TorchSession(model, 1e-30, None, 4)
    at_once, in_parts = whole.begin(images), parts.begin(images)
    for action, portions in ((1, 2), (2, 6)):
        whole.apply(at_once, *all_rows(images, action))
        for _ in range(portions):
            parts.apply(in_parts, *all_rows(images, action))
    assert torch.equal(at_once.pooled, in_parts.pooled)
    assert torch.equal(at_once.logits, in_parts.logits)


def test_rows_do_not_depend_on_the_batch() -> None:
    session = TorchSession(lively_model(), iterations_per_action=4)
    images = mazes(20).inputs
    together = session.begin(images)
    alone = [session.begin(images[i : i + 1]) for i in range(20)]
    for action in (1, 2, 2):
        session.apply(together, *all_rows(images, action))
        for one in alone:
            session.apply(one, *all_rows(images[:1], action))
    for name in ("pooled", "logits", "residual"):
        expected = torch.cat([getattr(one, name) for one in alone])
        assert torch.equal(getattr(together, name), expected)


def test_the_near_plan_is_a_head_start_and_not_another_answer() -> None:
    model, images = lively_model(), mazes().inputs
    exact = SolverConfig(rtol=1e-7, max_steps=500)
    near, full = model.main_layers
    stem = model.stem(images)
    values = []
    with torch.no_grad():
        below = near.plain(stem, 0)
        for pattern in (0, 1):
            if pattern:
                below = near.iterate(stem, below, 0, exact)[0]
            state = full.plain(below, pattern)
            values.append(full.iterate(below, state, pattern, exact)[0].z)
    torch.testing.assert_close(values[0], values[1], rtol=1e-3, atol=1e-7)


def test_weights_of_one_size_run_at_another() -> None:
    small, config = lively_model(), replace(CONFIG, in_shape=(3, 15, 15))
    large = MainNetwork(config)
    large.load_state_dict(small.state_dict())
    state = TorchSession(large).begin(mazes(4, 15).inputs)
    assert state.logits.shape == (4, 4)


# --- training -------------------------------------------------------------------------


def test_one_iteration_at_most_leaves_nothing_to_draw() -> None:
    model = lively_model(replace(CONFIG, max_steps=1)).train()
    images, generator = mazes().inputs, torch.Generator().manual_seed(0)
    expected = model.forward_paths(images, range(4))
    found = partial_logits(model, images, range(4), generator)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    found[3].square().sum().backward()
    assert all(
        float(layer.recurrence.free_weight.grad.abs().max()) > 0
        for layer in model.layers
    )


def test_an_answer_in_training_does_not_depend_on_the_batch() -> None:
    model = lively_model().train()
    images, before = mazes().inputs, model.head_norm.running_mean.clone()
    torch.testing.assert_close(model(images)[:3], model(images[:3]))
    assert torch.equal(model.head_norm.running_mean, before)


def test_solves_are_stopped_at_random() -> None:
    model = lively_model()
    images, generator = mazes().inputs, torch.Generator().manual_seed(0)
    with torch.no_grad():
        drawn = [partial_logits(model, images, [2], generator)[0] for _ in range(20)]
    assert len({float(logits.sum()) for logits in drawn}) > 5


def test_training_in_portions_lowers_the_loss() -> None:
    torch.manual_seed(0)
    options = TrainingConfig(
        epochs=20, batch_size=64, paths="portions", learning_rate=2e-2
    )
    trainer = MainTrainer(MainNetwork(CONFIG), mazes(256), options)
    losses: list[float] = []
    for _ in range(20):
        trainer.train_epoch(lambda step, loss: losses.append(loss))
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])


# --- errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"views": (5,)}, "channels and views differ"),
        ({"views": (4, 0)}, "views must be odd"),
        ({"channels": (2, 3)}, "equal channels"),
        ({"stem": 0}, "a stem"),
        ({"in_shape": (1, 9, 9)}, "three planes"),
    ],
)
def test_impossible_planners_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(CONFIG, **changes)


# --- the network that ships -----------------------------------------------------------


def test_the_shipped_network_needs_its_iterations() -> None:
    folder = SHIPPED / "maze"
    network, facts = load_network(folder)
    network.freeze()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 500_000
    assert {each["iterations_per_action"] for each in facts.calibrations} == {None, 4}
    split = load_split("maze", "test")
    images, labels = split.inputs[:800], split.labels[:800]
    once = SolverConfig(rtol=network.config.rtol, max_steps=1)
    with torch.no_grad():
        answers = {
            "plain": network(images),
            "once": network.forward_path(images, 2, once),
            "converged": network.forward_path(images, 2),
        }
    share = {
        k: float((v.argmax(1) == labels).float().mean()) for k, v in answers.items()
    }
    assert 0.6 < share["plain"] < 0.8
    assert share["converged"] > 0.965
    assert share["converged"] - share["once"] > 0.18


def test_the_shipped_network_is_a_contraction_that_converges() -> None:
    network, _ = load_network(SHIPPED / "maze")
    network.freeze()
    images, full = mazes(60, 19).inputs, network.main_layers[1]
    below = network.main_layers[0].plain(network.stem(images), 0)
    solver = SolverConfig(rtol=1e-30, max_steps=3 * 60)
    state, _ = full.iterate(below, full.plain(below, 0), 0, solver)
    assert float(full.check(state, solver).residual.max()) < 1e-4
    assert state.x is not None
    assert isinstance(full.recurrence, BellmanLayer)
    assert float(full.recurrence.modulus(state.x).max()) <= 0.97
