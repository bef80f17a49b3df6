"""The LSTM form: what is read, costs, states, portions, padding, gradients."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.flops import FlopCount
from torch import Tensor, nn

from dynalay_gym.data.chains import VOCABULARY, make_chains_split
from dynalay_gym.data.splits import Split
from dynalay_gym.data.vocabulary import Vocabulary
from dynalay_gym.errors import ConfigError, DataError
from dynalay_gym.fixed_point.solve import GradientRule, SolverConfig
from dynalay_gym.networks.costs import CostTable
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.layers.reading import Rereading, TokenStem, summary
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.policy import PlanPolicy
from dynalay_gym.networks.presets import make_config
from dynalay_gym.networks.state_losses import loss_of_states
from dynalay_gym.networks.training import MainTrainer, TrainingConfig
from dynalay_gym.predictor.export import parts_of
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.torch_session import TorchSession

CONFIG = MainNetworkConfig(
    in_shape=(7,),
    num_classes=5,
    form="text",
    vocabulary=VOCABULARY,
    stem=5,
    channels=(4, 3),
    rtol=1e-4,
    max_steps=6,
)


def lively(config: MainNetworkConfig = CONFIG) -> MainNetwork:
    """Random network whose readings depend on the ones before."""
    torch.manual_seed(0)
    network = MainNetwork(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            nn.init.normal_(weight, std=0.7)
    return network


@pytest.fixture
def texts() -> Tensor:
    return make_chains_split(40, seed=99).inputs


# --- what a layer does ----------------------------------------------------------------


@torch.no_grad()
def test_a_reading_is_an_lstm_over_words_and_gated_words() -> None:
    reader, x = Rereading(3, 4), torch.rand(2, 4, 5, 1)
    x[:, -1] = 1
    z = reader.read(x, None)
    words = (2 * x[:, :3, :, 0] - 1).transpose(1, 2)
    first, _ = reader.lstm(torch.cat([words, torch.zeros_like(words)], 2))
    torch.testing.assert_close(2 * z[:, :4, :, 0] - 1, first.transpose(1, 2))
    gate = 4 * torch.tanh(reader.feedback(2 * summary(z) - 1))
    second, _ = reader.lstm(torch.cat([words, words * gate[:, None]], 2))
    again = reader.read(x, z)
    torch.testing.assert_close(2 * again[:, :4, :, 0] - 1, second.transpose(1, 2))


def test_the_summary_by_hand() -> None:
    states = torch.tensor([[0.1, 0.5, 0.0], [0.2, 0.4, 0.6]])[:, None]
    is_word = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])[:, None]
    found = summary(torch.cat([states, is_word], 1)[..., None])
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.3], [0.6, 0.4]]))
    assert summary(torch.zeros(1, 3, 4, 1)).tolist() == [[0.0] * 4]  # no word at all


@torch.no_grad()
def test_what_stands_behind_a_text_changes_nothing() -> None:
    network = lively(replace(CONFIG, in_shape=(9,)))
    short = make_chains_split(20, seed=99).inputs[:, 2:]
    padded = nn.functional.pad(short, (0, 4))
    longer = nn.functional.pad(short, (0, 7))
    for state_id in (0, 3):
        exact = lively(replace(CONFIG, in_shape=(5,))).forward_path(short, state_id)
        torch.testing.assert_close(network.forward_path(padded, state_id), exact)
        torch.testing.assert_close(network.forward_path(longer, state_id), exact)


def test_activations_stay_where_everything_above_expects_them(texts: Tensor) -> None:
    network = lively()
    below = network.stem(texts)
    for layer, solver in zip(network.main_layers, network.solvers, strict=True):
        state = layer.plain(below, 0)
        below, _ = layer.iterate(below, state, 0, solver)
        for maps in (state.y, below.y, layer.pool(below)):
            assert 0 <= float(maps.detach().min()) and float(maps.detach().max()) <= 1


# --- costs and sessions ---------------------------------------------------------------


@torch.no_grad()
def test_costs_are_what_runs(texts: Tensor) -> None:
    network, costs = lively(), CostTable.of(lively())
    reading = [7 * 4 * 4 * (2 * 5 + 4), 7 * 4 * 3 * (2 * 4 + 3)]
    assert costs.plain_pass == sum(reading) + 5 * 6
    assert [each.iteration for each in costs.layers] == [
        reading[0] + 5 * 8,
        reading[1] + 4 * 6,
    ]
    reader = network.main_layers[0].recurrence
    x = network.stem(texts[:1]).y
    z = network.main_layers[0].plain(network.stem(texts[:1]), 0).y
    with FlopCount() as ran:  # the feedback; the LSTM's products are in the library
        assert isinstance(reader, Rereading)
        reader.read(x, z)
    assert ran.total() >= 2 * 5 * 8


@pytest.mark.parametrize("portion", [None, 1])
@torch.no_grad()
def test_a_session_agrees_with_the_network(portion: int | None, texts: Tensor) -> None:
    network = lively()
    session = TorchSession(network, iterations_per_action=portion)
    state, rows = session.begin(texts), torch.arange(len(texts))
    torch.testing.assert_close(session.logits(state, rows), network(texts))
    steps = torch.zeros(len(texts), dtype=torch.int64)
    for _ in range(6 if portion else 1):
        steps += session.apply(state, rows, torch.full_like(rows, 1)).solver_steps
    expected = network.forward_path(texts, 1)
    torch.testing.assert_close(session.logits(state, rows), expected)
    assert 1 < int(steps.max()) <= 6
    longest = int(steps.argmax())
    curve = session.residual_curves(state, longest)["layer 1"]
    assert len(curve) == steps.max()
    assert curve[-1] == pytest.approx(float(state.residual[longest, 0]), rel=1e-3)


@torch.no_grad()
def test_a_row_does_not_depend_on_those_beside_it(texts: Tensor) -> None:
    session, found = TorchSession(lively()), []
    for chosen in (torch.arange(40), torch.tensor([7]), torch.tensor([3, 7, 21])):
        state, rows = session.begin(texts[chosen]), torch.arange(len(chosen))
        for action in (2, 1):
            cost = session.apply(state, rows, torch.full_like(rows, action))
        at = int((chosen == 7).nonzero())
        found.append((session.logits(state, rows)[at], cost.solver_steps[at]))
    for logits, steps in found[1:]:
        assert torch.equal(logits, found[0][0]) and torch.equal(steps, found[0][1])


@pytest.mark.parametrize("token", [-1, 73])
def test_tokens_outside_the_vocabulary_are_refused(token: int, texts: Tensor) -> None:
    session = TorchSession(lively())
    with pytest.raises(DataError, match=r"tokens must lie in 0\.\.72, not"):
        session.begin(texts.index_fill(1, torch.tensor([2]), token))
    assert len(session.logits(session.begin(texts[:0]), torch.arange(0))) == 0


def test_padding_before_a_word_is_refused(texts: Tensor) -> None:
    session = TorchSession(lively())
    session.begin(texts.index_fill(1, torch.tensor([5, 6]), 0))
    with pytest.raises(DataError, match="put it behind the text"):
        session.begin(texts.index_fill(1, torch.tensor([2]), 0))


def test_export_is_refused() -> None:
    predictor = DynaLayPredictor(TorchSession(lively()), PlanPolicy([1]), penalty=0.1)
    with pytest.raises(ConfigError, match="networks that read texts"):
        parts_of(predictor)


# --- gradients and training -----------------------------------------------------------


def test_unrolled_readings_have_the_gradient_of_their_formula() -> None:
    torch.manual_seed(0)
    reader, x = Rereading(2, 3).double(), torch.rand(2, 3, 4, 1, dtype=torch.double)
    x[:, -1] = 1
    solver = SolverConfig(rtol=1e-12, max_steps=3, rule=GradientRule.UNROLL)

    def solved(x: Tensor) -> Tensor:
        texts = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        return reader.solve(texts, None, solver).value

    assert torch.autograd.gradcheck(solved, x[:, :2].clone().requires_grad_())


def test_the_implicit_gradient_is_that_of_all_readings(texts: Tensor) -> None:
    torch.manual_seed(0)
    network = MainNetwork(replace(CONFIG, stem_std=0.3)).double()  # it converges
    labels = torch.arange(40) % 5
    found = []
    for rule in (GradientRule.IMPLICIT, GradientRule.UNROLL):
        solver = SolverConfig(rtol=1e-12, max_steps=60, rule=rule, adjoint_rtol=1e-10)
        network.zero_grad()
        loss_of_states(network, texts, labels, {0: 1.0, 3: 1.0}, solver).backward()
        found.append([weight.grad for weight in network.parameters()])
    torch.testing.assert_close(found[0], found[1], rtol=1e-7, atol=1e-10)
    assert all(bool(each.abs().sum() > 0) for each in found[0] if each is not None)


def test_iterating_is_learnt_where_one_reading_cannot_know() -> None:
    """Texts of one word and a question: is it the word that is asked for?"""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 5, (256, 2), generator=generator)
    words = torch.cat([tokens[:, :1], torch.full_like(tokens[:, :1], 5)], 1)
    texts = torch.cat([words, tokens[:, 1:]], 1)
    labels = (tokens[:, 0] == tokens[:, 1]).long()
    config = replace(
        CONFIG,
        in_shape=(3,),
        num_classes=2,
        vocabulary=Vocabulary(words=("", *"12345")),
        stem=12,
        channels=(12,),
    )
    torch.manual_seed(0)
    options = TrainingConfig(
        epochs=40, batch_size=32, learning_rate=3e-2, paths="portions"
    )
    trainer = MainTrainer(MainNetwork(config), Split(texts, labels), options)
    for _ in range(40):
        trainer.train_epoch(lambda step, loss: None)
    network = trainer.network.eval()
    right = network.forward_path(texts, 1).argmax(1) == labels
    assert float(right.float().mean()) > 0.95


@pytest.mark.parametrize("wrong", [{"stem": 0}, {"in_shape": (3, 9, 9)}])
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="a text network needs"):
        replace(CONFIG, **wrong)  # type: ignore[arg-type]


def test_an_image_network_refuses_texts() -> None:
    with pytest.raises(ConfigError, match="not for texts"):
        MainNetworkConfig(
            in_shape=(7,), num_classes=5, form="state", channels=(4,), strides=(1,)
        )


def test_the_stem_marks_words() -> None:
    maps = TokenStem(7, 3, stride=1)(torch.tensor([[4, 2, 0]]))
    assert maps.shape == (1, 4, 3, 1)
    assert maps[0, -1, :, 0].tolist() == [1, 1, 0]
    assert maps[0, :3, 2, 0].abs().sum() == 0


def test_a_network_without_words_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a vocabulary"):
        MainNetwork(replace(CONFIG, vocabulary=None))


@torch.no_grad()
def test_words_that_share_a_position_are_the_mean_of_their_vectors() -> None:
    stem = TokenStem(7, 3, stride=2)
    tokens = torch.tensor([[4, 2, 5, 0, 0], [1, 1, 1, 1, 6]])
    maps, of = stem(tokens)[..., 0], stem.embedding.weight
    assert maps.shape == (2, 4, 3)
    assert maps[:, -1].tolist() == [[1, 1, 0], [1, 1, 1]]
    found = torch.atanh(2 * maps[:, :-1] - 1)
    torch.testing.assert_close(found[0, :, 0], (of[4] + of[2]) / 2)
    torch.testing.assert_close(found[0, :, 1], of[5])  # padding is no word
    torch.testing.assert_close(found[1, :, 2], of[6])
    assert stem.padding(tokens).tolist() == [1, 0]


@torch.no_grad()
def test_a_text_takes_what_its_own_words_take() -> None:
    """MACs of plain pass and portions, alone and among longer ones, by hand."""
    network = lively(replace(CONFIG, in_shape=(9,), stem_stride=2))
    texts = make_chains_split(3, seed=99).inputs
    texts = nn.functional.pad(texts, (0, 2))  # 7 of 9 words: 4 of 5 positions
    texts[1, 3:] = 0  # 3 words: 2 positions
    texts[2, 7:] = 5  # all 5 positions
    first, second = 4 * 4 * (2 * 5 + 4), 4 * 3 * (2 * 4 + 3)
    positions = torch.tensor([4, 2, 5])
    session = TorchSession(network, iterations_per_action=1)
    expected = positions * (first + second) + 5 * 6
    assert torch.equal(session.begin_macs(texts), expected)
    assert session.plain_macs == expected[2]
    state, rows = session.begin(texts), torch.arange(3)
    cost = session.apply(state, rows, torch.full_like(rows, 1))
    extra = positions * (first + second) + 5 * 8 + 5 * 6  # feedback, head
    assert torch.equal(cost.macs, extra)
    alone = session.begin(texts[1:2])
    cost = session.apply(alone, rows[:1], torch.full_like(rows[:1], 1))
    assert cost.macs.tolist() == [int(extra[1])]
    assert torch.equal(
        session.logits(alone, rows[:1])[0], session.logits(state, rows)[1]
    )


@torch.no_grad()
def test_texts_themselves_are_answered_and_kept_with_their_words(
    tmp_path: Path,
) -> None:
    split = make_chains_split(20, seed=99)
    predictor = DynaLayPredictor(lively(), PlanPolicy([1, 2]), penalty=0.1)
    raw = VOCABULARY.decode(split.inputs)
    predictor.save(tmp_path / "saved")
    for each in (predictor, DynaLayPredictor.load(tmp_path / "saved")):
        of_tokens, of_texts = each.infer(split.inputs), each.infer(raw)
        assert torch.equal(of_tokens.labels, torch.from_numpy(of_texts.labels))
        assert torch.equal(of_tokens.macs, torch.from_numpy(of_texts.macs))
    for wrong, message in (
        ([""], "text 0 has no word"),
        (["a=b", "a=b z?"], "unknown word 'z\\?'"),
        (["a=b", None], "text 1 is no str"),
        ("a=b", "not one text"),
        ("a=b " * 8, "not one text"),
        (["a=b " * 100_000], "has 100000 words, more than 7"),
        ([b"a=b"], "text 0 is no str"),
    ):
        with pytest.raises(DataError, match=message):
            predictor.predict(wrong)
    assert torch.equal(
        torch.from_numpy(predictor.predict(np.array(raw))),
        predictor.predict(split.inputs),
    )
    with pytest.raises(ConfigError, match="shape"):
        predictor.predict(np.array(3))


@pytest.mark.parametrize(
    ("preset", "length", "num_classes"), [("reviews", 400, 2), ("language", 35, 300)]
)
@torch.no_grad()
def test_no_row_changes_another_at_the_sizes_in_use(
    preset: str, length: int, num_classes: int
) -> None:
    torch.manual_seed(0)
    words = Vocabulary(words=("", *map(str, range(1, 300))))
    config = make_config(preset, (length,), 33_279)
    cutoffs = (20, 100) if config.cutoffs else ()
    config = replace(config, cutoffs=cutoffs, num_classes=num_classes)
    network = MainNetwork(replace(config, vocabulary=words))
    texts = torch.randint(1, 300, (130, length))
    if preset == "reviews":
        ends = torch.randint(1, length + 1, (130, 1))
        texts *= torch.arange(length) < ends
    session, found = TorchSession(network), []
    for num in (130, 17, 3, 2, 1):
        state, rows = session.begin(texts[:num]), torch.arange(num)
        logits = [session.logits(state, rows)]
        for action in (3, 1, 2):
            cost = session.apply(state, rows, torch.full_like(rows, action))
            logits.append(session.logits(state, rows))
        found.append([*logits, cost.macs, cost.solver_steps])
    for smaller in found[1:]:
        for part, whole in zip(smaller, found[0], strict=True):
            assert torch.equal(part, whole[: len(part)])
