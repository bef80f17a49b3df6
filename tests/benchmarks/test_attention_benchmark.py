"""What the measurement of attention counts, where it can be said in advance."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.attention import patches
from benchmarks.attention.chains import ARMS, measure, on_chain
from benchmarks.attention.measures import is_right
from dynalay_gym.data.chains import VOCABULARY, encode, make_chains_split
from dynalay_gym.data.splits import Split
from dynalay_gym.errors import ConfigError
from dynalay_gym.networks.checkpoint import save_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config


def test_statements_that_lead_to_the_answer() -> None:
    tokens = encode(["c=4 a=f f=c b=1 d=b e=2 a?", "c=4 a=f f=c b=1 d=b e=2 b?"])
    assert on_chain(tokens).long().tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]]


def test_flat_patches_come_before_those_of_contrast() -> None:
    ramp = torch.arange(16.0).view(4, 4)
    image = torch.cat(
        [torch.cat([0 * ramp, 3 * ramp], 1), torch.cat([2 * ramp, ramp], 1)]
    )
    assert patches.by_contrast(image[None, None], 4).tolist() == [[0, 3, 2, 1]]


def test_a_network_over_patches_is_measured() -> None:
    torch.manual_seed(0)
    config = make_config("transformer", (1, 8, 8), 3)
    network = MainNetwork(replace(config, certified=True, kappa=0.5)).eval()
    images, labels = torch.randn(30, 1, 8, 8), torch.randint(3, (30,))
    found = patches.measure(network, Split(images, labels), 20, 10)
    assert found["have a solution"] == 100 and found["cosine"] > 0.999
    assert found["interval"][0] <= found["solved"] <= found["interval"][1]
    for layer in found["layers"]:
        assert layer["converged"] == 100 and layer["modulus, random"] <= 0.5
        positions = torch.tensor(layer["by position"])
        assert positions.shape == (2, 2)
        assert float(positions.mean()) == pytest.approx(layer["steps of a patch"])
        assert sum(layer["by contrast"]) / 4 == pytest.approx(float(positions.mean()))


def test_a_network_is_measured() -> None:
    torch.manual_seed(0)
    config = make_config("text-transformer", (7,), 5)
    changes, _ = ARMS["iterated, certified"]
    network = MainNetwork(replace(config, vocabulary=VOCABULARY, **changes))
    found = measure(network, make_chains_split(60, seed=99))
    assert found["have a solution"] == found["converged"] == 100
    assert found["cosine"] > 0.999 and found["modulus, random"] <= 0.9 < found["bound"]
    assert 1 <= found["question"] <= found["steps"]


def test_no_iteration_is_the_plain_pass_with_its_own_normalisation() -> None:
    torch.manual_seed(0)
    network = MainNetwork(make_config("transformer", (1, 8, 8), 3)).eval()
    network.head_norm.bias.data[-1] = torch.randn(128) * 10  # of the iterated state
    images = torch.randn(30, 1, 8, 8)
    split = Split(images, network(images).argmax(1))
    assert is_right(network, split, 0).all()
    assert not is_right(network, split, 1).all()


def test_a_network_of_another_form_is_refused(tmp_path: Path) -> None:
    save_network(tmp_path, MainNetwork(make_config("small", (3, 32, 32), 10)), {})
    with pytest.raises(ConfigError, match="no network of the preset transformer"):
        patches.main(patches.Args(checkpoints=(tmp_path,), dataset="digits"))
