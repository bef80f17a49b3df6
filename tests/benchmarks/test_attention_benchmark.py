"""What the measurement of attention counts, where it can be said in advance."""

from dataclasses import replace

import torch

from benchmarks.attention import ARMS, measure, on_chain
from dynalay_gym.data.chains import VOCABULARY, encode, make_chains_split
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config


def test_statements_that_lead_to_the_answer() -> None:
    tokens = encode(["c=4 a=f f=c b=1 d=b e=2 a?", "c=4 a=f f=c b=1 d=b e=2 b?"])
    assert on_chain(tokens).long().tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]]


def test_a_network_is_measured() -> None:
    torch.manual_seed(0)
    config = make_config("text-transformer", (7,), 5)
    changes, _ = ARMS["iterated, certified"]
    network = MainNetwork(replace(config, vocabulary=VOCABULARY, **changes))
    found = measure(network, make_chains_split(60, seed=99))
    assert found["have a solution"] == found["converged"] == 100
    assert found["cosine"] > 0.999 and found["modulus, random"] <= 0.9 < found["bound"]
    assert 1 <= found["question"] <= found["steps"]
