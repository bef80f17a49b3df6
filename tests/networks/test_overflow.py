"""The place at which a network's numbers stop being finite is named."""

from typing import Any

import pytest
import torch
from helpers.networks import own_split, random_images, random_model, tiny_config

from dynalay_gym.errors import DivergedError
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.overflow import broken_place
from dynalay_gym.networks.training import MainTrainer, TrainingConfig

SAMPLES = torch.tensor([7, 8, 9, 10])


def case() -> tuple[MainNetwork, torch.Tensor]:
    return random_model(tiny_config()), random_images(tiny_config(), 4)


def test_a_sound_network_has_no_such_place() -> None:
    assert broken_place(*case(), SAMPLES) is None


def test_an_image_is_found_in_the_first_layer() -> None:
    network, images = case()
    images[2] *= 3e38
    assert broken_place(network, images, SAMPLES) == (
        "sample 9 in the plain pass of layer 1"
    )


def test_a_layer_that_overflows_is_found() -> None:
    network, images = case()
    layer: Any = network.main_layers[1]
    with torch.no_grad():
        layer.readout.fill_(3e38)
    found = broken_place(network, images, SAMPLES)
    assert found is not None and found.endswith("as it leaves layer 2")


def test_an_iteration_that_overflows_is_found() -> None:
    network, images = case()
    recurrence: Any = network.main_layers[2].recurrence
    recurrence.kappa = 1e30
    with torch.no_grad():
        recurrence.free_weight.copy_(recurrence.free_weight.abs() * 1e10)
    found = broken_place(network, images, SAMPLES)
    assert found is not None and "at iteration" in found
    assert found.endswith("of layer 3")


def test_a_training_says_where_its_loss_broke() -> None:
    network, images = case()
    with torch.no_grad():
        network.layers[1].norm.weight.fill_(3e38)  # type: ignore[union-attr]
    config = TrainingConfig(epochs=1, batch_size=4)
    trainer = MainTrainer(network, own_split(images), config)
    with pytest.raises(DivergedError, match=r"sample \d in the plain pass of layer 2"):
        trainer.train_epoch(lambda step, loss: None)
