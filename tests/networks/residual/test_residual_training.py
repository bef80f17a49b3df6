"""Training of residual networks: learns, resumes bit for bit, shows what it should."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from helpers.striped import striped_split

from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError, DivergedError
from dynalay_gym.networks.residual.config import ResidualConfig
from dynalay_gym.networks.residual.network import ResidualNetwork
from dynalay_gym.networks.residual.training import (
    ResidualTrainer,
    ResidualTrainingConfig,
    divergence,
    draw_iterated,
    open_copy,
)
from dynalay_gym.sessions.measure import accuracy

TRAINING = ResidualTrainingConfig(epochs=6, batch_size=24, augment=False)


@pytest.fixture
def data() -> Split:
    return striped_split()


def trainer(
    data: Split,
    config: ResidualTrainingConfig = TRAINING,
    form: Literal["classic", "fast"] = "fast",
    iterated: tuple[int, ...] = (),
) -> ResidualTrainer:
    torch.manual_seed(0)
    architecture = ResidualConfig(
        in_shape=(1, 8, 8),
        num_classes=3,
        form=form,
        widths=(6, 8),
        depths=(1, 1),
        iterated=iterated,
    )
    return ResidualTrainer(ResidualNetwork(architecture), data, config)


def weights(one: ResidualTrainer) -> torch.Tensor:
    return torch.cat([value.flatten() for value in one.network.state_dict().values()])


@pytest.mark.parametrize("form", ["classic", "fast"])
def test_it_learns_what_can_be_learned(
    data: Split, form: Literal["classic", "fast"]
) -> None:
    one = trainer(data, form=form)
    for _ in range(6):
        one.train_epoch(lambda step, loss: None)
    assert accuracy(one.network, data) > 0.95


def test_it_learns_to_answer_iterated_or_not(data: Split) -> None:
    one = trainer(data, iterated=(1, 2))
    for _ in range(6):
        one.train_epoch(lambda step, loss: None)
    for iterated in ((), (1,), (2,), (1, 2)):
        assert accuracy(one.network, data, iterated) > 0.95
    for block in one.network.blocks:
        assert block.recurrence is not None
        assert block.recurrence.free_weight.abs().max() > 1e-3


def test_every_other_step_iterates_a_block(data: Split) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [tuple(draw_iterated((2, 5), generator)) for _ in range(400)]
    for kind in ((), (2,), (5,), (2, 5)):
        assert 70 < drawn.count(kind) < 130
    before = generator.get_state()
    assert draw_iterated((), generator) == []
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("iterated", [(), (2,)])
@pytest.mark.parametrize("skip_rate", [0.0, 0.8])
def test_resume_continues_to_the_bit(
    data: Split, tmp_path: Path, skip_rate: float, iterated: tuple[int, ...]
) -> None:
    how = {"skip_rate": skip_rate, "distillation": skip_rate / 2}
    config = replace(TRAINING, epochs=3, augment=True, **how)
    whole, first, second = (trainer(data, config, "fast", iterated) for _ in range(3))
    losses: list[float] = []
    for _ in range(3):
        whole.train_epoch(lambda step, loss: losses.append(loss))
    first.train_epoch(lambda step, loss: None)
    first.save(tmp_path)
    second.load(tmp_path)
    rest: list[float] = []
    for _ in range(2):
        second.train_epoch(lambda step, loss: rest.append(loss))
    assert rest == losses[-len(rest) :]
    assert torch.equal(weights(whole), weights(second))


def test_every_other_epoch_shows_the_mirror_image(data: Split) -> None:
    one, rows = trainer(data), torch.arange(len(data))
    marked = torch.zeros(len(data), 1, 8, 24)
    marked[:, :, :, 4:7] = 1.0

    def on_the_left() -> torch.Tensor:
        columns = one.augment(marked, rows).sum((1, 2))  # shifted by up to 4 pixels
        return columns[:, :12].sum(1) > columns[:, 12:].sum(1)

    first = on_the_left()
    one.steps += one.steps_per_epoch
    assert torch.equal(on_the_left(), ~first)
    assert 20 < int(first.sum()) < 76


def test_skipping_leaves_branches_out_in_the_share_that_was_drawn(data: Split) -> None:
    """Branches that add nothing may be skipped; others change the loss."""
    rows, losses = torch.arange(96), {}
    for rate in (0.0, 1.0):
        one = trainer(data, replace(TRAINING, skip_rate=rate))
        with torch.no_grad():
            whole = float(one.loss(data.inputs, data.labels, rows))
            for block in one.network.blocks:  # gelu(0) is 0
                block.norm2.weight.zero_()
            empty = float(one.loss(data.inputs, data.labels, rows))
        losses[rate] = whole, empty
    assert losses[0.0][1] == losses[1.0][1]
    assert losses[0.0][0] != losses[1.0][0]


def test_divergence_by_hand() -> None:
    taught = torch.tensor([[0.0, 0.0], [0.0, torch.tensor(3.0).log()]])
    expected = (0.25 * torch.tensor(0.5).log() + 0.75 * torch.tensor(1.5).log()) / 2
    torch.testing.assert_close(divergence(torch.zeros(2, 2), taught), expected)


def test_distillation_teaches_what_the_network_said_at_the_start(data: Split) -> None:
    """With all of the loss, labels do not count, and blocks are missed less."""
    config = replace(TRAINING, skip_rate=1.0, distillation=1.0)
    start = trainer(data)
    start.train_epoch(lambda step, loss: None)
    one, other = (copy.deepcopy(start.network) for _ in range(2))
    with torch.no_grad():
        taught = one.eval()(data.inputs)
    before = divergence(without_branches(one)(data.inputs), taught)
    wrong = replace(data, labels=(data.labels + 1) % 3)
    for network, split in ((one, data), (other, wrong)):
        training = ResidualTrainer(network, split, config)
        for _ in range(6):
            training.train_epoch(lambda step, loss: None)
    assert weights_equal(one, other)
    after = divergence(without_branches(one)(data.inputs), taught)
    assert float(after) < 0.5 * float(before)


@torch.no_grad()
def without_branches(network: ResidualNetwork) -> ResidualNetwork:
    copied = open_copy(network)
    for block in copied.blocks:  # gelu(0) is 0
        block.norm2.weight.zero_()
        block.norm2.bias.zero_()
    return copied


def weights_equal(one: ResidualNetwork, other: ResidualNetwork) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_learning_rate_is_a_triangle(data: Split) -> None:
    one = trainer(data)
    rates = [one.rate(share) for share in (0.0, 0.125, 0.25, 0.625, 1.0)]
    assert rates == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])


def test_a_batch_that_is_larger_than_the_split_is_refused(data: Split) -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        trainer(data, replace(TRAINING, batch_size=97))


def test_a_divergence_names_the_step_and_takes_none(data: Split) -> None:
    one = trainer(data)
    one.train_epoch(lambda step, loss: None)
    with torch.no_grad():
        one.network.head.weight[0, 0] = torch.nan
    before = weights(one).nan_to_num(7.0)
    with pytest.raises(DivergedError, match="after 4 steps"):
        one.train_epoch(lambda step, loss: None)
    assert one.steps == 4
    assert torch.equal(weights(one).nan_to_num(7.0), before)
