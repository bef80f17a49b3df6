"""Networks that predict words: the head, costs, losses, what a loss may see."""

from dataclasses import replace
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynalay_gym.data.splits import Split
from dynalay_gym.data.vocabulary import Vocabulary
from dynalay_gym.errors import ConfigError, DataError
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.costs import CostTable
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.layers.reading import summaries, summary
from dynalay_gym.networks.layers.word_head import WordHead
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.state_losses import loss_of_words
from dynalay_gym.networks.training import MainTrainer, TrainingConfig
from dynalay_gym.sessions.torch_session import TorchSession

WORDS = Vocabulary(words=("", "<unk>", *map(str, range(18))))
CONFIG = MainNetworkConfig(
    in_shape=(6,),
    num_classes=20,
    form="text",
    vocabulary=WORDS,
    stem=8,
    channels=(8, 8),
    cutoffs=(5, 12),
    rtol=1e-3,
    max_steps=3,
)
HERE = SolverConfig(rtol=1e-3, max_steps=3)


@torch.no_grad()
def test_log_probabilities_are_those_of_pytorch_alone_and_in_any_batch() -> None:
    torch.manual_seed(0)
    head, vectors = WordHead(16, 20, 16, (5, 12)), torch.randn(20, 16)
    features, words = torch.randn(30, 16), torch.arange(30) % 20
    for projection in head.projections.parameters():
        projection.copy_(torch.eye(16))
    found = head.log_prob(features, vectors)
    # PyTorch's module has the same clusters, and weights of its own.
    other = nn.AdaptiveLogSoftmaxWithLoss(16, 20, [5, 12], div_value=1, head_bias=True)
    other.head.weight.copy_(torch.cat([vectors[:5], head.clusters.weight]))
    other.head.bias.copy_(torch.cat([torch.zeros(5), head.clusters.bias]))
    for tail, part in zip(other.tail, (vectors[5:12], vectors[12:]), strict=True):
        tail[0].weight.copy_(torch.eye(16))  # type: ignore[index]
        tail[1].weight.copy_(part)  # type: ignore[index]
    torch.testing.assert_close(found, other.log_prob(features))
    torch.testing.assert_close(found.exp().sum(1), torch.ones(30))
    for chosen in ([7], [3, 7, 21]):
        assert torch.equal(head.log_prob(features[chosen], vectors), found[chosen])
    asked = found.gather(1, words[:, None])[:, 0]
    torch.testing.assert_close(head(features, words, vectors), asked)


@torch.no_grad()
def test_bias_and_projection_are_of_words_and_clusters() -> None:
    head, vectors = WordHead(3, 6, 2, (2, 4)), torch.zeros(6, 2)
    vectors[4:] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    head.clusters.weight.zero_()
    head.clusters.bias.copy_(torch.tensor([0.0, 1.0]))
    head.bias.copy_(torch.tensor([2.0, 0, 0, 3, 0, 0]))
    head.projections[2].get_parameter("weight").copy_(
        torch.tensor([[1.0, 2, 3], [0, 0, 0]])
    )
    found = head.log_prob(torch.tensor([[1.0, 1.0, 1.0]]), vectors)[0]
    first = torch.tensor([2.0, 0, 0, 1]).log_softmax(0)  # two words, two clusters
    middle = first[2] + torch.tensor([0.0, 3]).log_softmax(0)
    last = first[3] + torch.tensor([6.0, 0]).log_softmax(0)
    torch.testing.assert_close(found, torch.cat([first[:2], middle, last]))


@torch.no_grad()
def test_words_are_scored_by_the_vectors_that_they_are_read_by() -> None:
    torch.manual_seed(0)
    network, text = MainNetwork(CONFIG).eval(), torch.tensor([[2, 3, 4, 5, 6, 7]])
    before, stem = network(text), network.token_stem
    stem.vectors[9] += 1  # is not in the text
    after = network(text)
    assert after[0, 9] != before[0, 9]
    read = torch.tanh(8**0.5 * stem.vectors[text[0]])
    torch.testing.assert_close(2 * stem(text)[0, :-1, :, 0].T - 1, read)


def test_costs_by_hand() -> None:
    projections, clusters = 3 * 16 * 8, 2 * 16
    head = projections + clusters + 20 * 8  # and all words' vectors
    assert CostTable.of(MainNetwork(CONFIG)).head == head


@torch.no_grad()
def test_what_is_known_after_every_word() -> None:
    z = torch.rand(3, 5, 6, 1)
    z[:, -1] = 1
    found = summaries(z)
    assert found.shape == (3, 6, 8)
    for word in range(6):
        torch.testing.assert_close(found[:, word], summary(z[:, :, : word + 1]))


@torch.no_grad()
def test_the_loss_is_that_of_every_prefix_and_of_the_last_word_when_iterated() -> None:
    torch.manual_seed(0)
    network = MainNetwork(CONFIG).eval()
    texts, labels = torch.randint(1, 20, (4, 6)), torch.randint(1, 20, (4,))
    whole = torch.cat([texts, labels[:, None]], 1)
    losses = []
    for length in range(1, 7):
        prefix = replace(CONFIG, in_shape=(length,))
        shorter = MainNetwork(prefix).eval()
        shorter.load_state_dict(network.state_dict())
        answer = shorter(whole[:, :length])
        losses.append(nn.functional.nll_loss(answer, whole[:, length]))
    words = whole[:, 1:]
    plain = loss_of_words(network, texts, words, {0: 1.0}, HERE)
    torch.testing.assert_close(plain, torch.stack(losses).mean())
    last = nn.functional.nll_loss(network.forward_path(texts, 3, HERE), labels)
    both = loss_of_words(network, texts, words, {0: 1.0, 3: 2.0}, HERE)
    torch.testing.assert_close(both, (plain + 2 * last) / 3)


def test_the_plain_pass_cannot_see_what_comes_later() -> None:
    """Its loss is asked after every word: a look ahead would make it meaningless."""
    torch.manual_seed(0)
    network = MainNetwork(CONFIG)
    x = network.stem(torch.randint(1, 20, (1, 6))).y.detach().requires_grad_()
    z = network.main_layers[0].recurrence.read(x, None)  # type: ignore[attr-defined]
    summaries(z)[0, 2].sum().backward()
    assert x.grad is not None
    seen = x.grad[0, :-1, :, 0].abs().sum(0) > 0
    assert seen.tolist() == [True, True, True, False, False, False]


def test_counting_is_learnt_and_answered_by_a_session() -> None:
    """After k comes k + 1: perplexity 1 is possible, 18 is a guess."""
    first = torch.arange(400) % 18
    texts = 2 + (first[:, None] + torch.arange(7)) % 18
    data = Split(texts[:, :6].contiguous(), texts[:, 6].contiguous())
    torch.manual_seed(0)
    options = TrainingConfig(
        epochs=12, batch_size=20, learning_rate=2e-2, paths="mixed", weight_decay=0
    )
    trainer = MainTrainer(MainNetwork(CONFIG), data, options)
    for _ in range(12):
        trainer.train_epoch(lambda step, loss: None)
    session = TorchSession(trainer.network.eval())
    state, rows = session.begin(data.inputs[:18]), torch.arange(18)
    for action in (0, 1, 2):
        session.apply(state, rows, torch.full_like(rows, action))
        answers = session.logits(state, rows)
        right = answers.argmax(1) == data.labels[:18]
        assert float(right.float().mean()) > 0.75  # a guess: 1 of 18
        assert float(nn.functional.nll_loss(answers, data.labels[:18])) < log(2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_dropped_words_are_still_asked_for(
    precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Split(torch.randint(2, 20, (8, 6)), torch.randint(2, 20, (8,)))
    asked = []
    forward = WordHead.forward

    def follow(head: WordHead, *given: Tensor) -> Any:
        asked.append(given[1])
        return forward(head, *given)

    monkeypatch.setattr(WordHead, "forward", follow)
    options = TrainingConfig(
        epochs=1,
        batch_size=8,
        augment=True,
        dropped_words=1.0,
        precision=precision,
        paths="all",
    )
    trainer = MainTrainer(MainNetwork(CONFIG), data, options)
    trainer.train_epoch(lambda step, loss: None)
    assert len(asked) == 4
    whole = torch.cat([data.inputs[:, 1:], data.labels[:, None]], 1)
    assert torch.equal(asked[0].sort().values, whole.flatten().sort().values)
    assert torch.equal(asked[3].sort().values, data.labels.sort().values)


def test_windows_with_padding_are_refused() -> None:
    data = Split(torch.tensor([[3, 4, 5, 6, 7, 0]] * 4), torch.full((4,), 3))
    options = TrainingConfig(epochs=1, batch_size=4, paths="mixed")
    with pytest.raises(DataError, match="padding"):
        MainTrainer(MainNetwork(CONFIG), data, options)


@pytest.mark.parametrize(
    "wrong",
    [{"stem_stride": 2}, {"head_width": 4}, {"num_classes": 21}],
)
def test_options_that_do_not_go_with_words_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cutoffs"):
        replace(CONFIG, **wrong)


@pytest.mark.parametrize("wrong", [(5, 5), (12, 5), (5, 20), (0,), (-1, 5)])
def test_clusters_must_be_in_order(wrong: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="cutoffs"):
        replace(CONFIG, cutoffs=wrong)


def test_only_texts_have_next_words() -> None:
    with pytest.raises(ConfigError, match="only text networks take cutoffs"):
        MainNetworkConfig(
            in_shape=(1, 8, 8),
            num_classes=20,
            form="state",
            channels=(4,),
            strides=(1,),
            cutoffs=(5,),
        )
