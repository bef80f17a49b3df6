"""Gates against their formulas."""

import pytest
import torch

from dynalay_gym.networks.lcnet.gates import (
    BinaryGate,
    GateScores,
    ScaleGate,
    slice_gates,
)


def test_relu_1_and_its_leaks() -> None:
    gate, scores = ScaleGate(), torch.tensor([-1.0, 0.0, 0.25, 1.0, 3.0])
    expected = torch.tensor([0.0, 0.0, 0.25, 1.0, 1.0])
    assert torch.equal(gate.eval()(scores), expected)
    scores.requires_grad_()
    trained = gate.train()(scores)
    assert torch.equal(trained, expected)
    trained.sum().backward()
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad[[0, 2, 4]], torch.tensor([0.1, 1, 0.1]))


def test_binary_gates_open_as_often_as_a_sigmoid_says() -> None:
    torch.manual_seed(0)
    gate, scores = BinaryGate(), torch.tensor([-1.0, 0.0, 2.0]).repeat(20_000, 1)
    gates = gate.train()(scores)
    assert set(gates.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(
        gates.mean(0), torch.sigmoid(scores[0]), atol=0.015, rtol=0
    )


def test_binary_gates_without_noise_are_those_of_evaluation() -> None:
    gate, scores = BinaryGate(), torch.linspace(-2, 2, 9, requires_grad=True)
    gate.noise = 0.0
    gates = gate.train()(scores)
    assert torch.equal(gates, gate.eval()(scores))
    gates.sum().backward()
    slope = torch.sigmoid(scores) * torch.sigmoid(-scores)
    torch.testing.assert_close(scores.grad, slope)


def test_slices_by_hand() -> None:
    scores = torch.tensor([[1.0], [0.25], [-1.5], [-3.0]])
    of_four = [[1, 1, 1, 1], [1, 1, 1, 0.25], [1, 0.5, 0, 0], [0, 0, 0, 0]]
    gates = slice_gates(scores, ScaleGate().eval(), 4)
    assert torch.equal(gates, torch.tensor(of_four))
    many = slice_gates(torch.tensor([[-5.0]]), ScaleGate().eval(), 20)
    assert many.tolist() == [[1.0] * 5 + [0.0] * 15]  # two of eight slices


def test_slices_shut_in_order_with_noise_and_all_teach_the_score() -> None:
    torch.manual_seed(0)
    scores = torch.full((500, 1), -3.0, requires_grad=True)
    gates = slice_gates(scores, BinaryGate().train(), 8)
    assert (gates.diff(dim=1) <= 0).all()
    assert len(gates.unique(dim=0)) > 5
    leads = torch.arange(8.0).flip(0)
    expected = torch.sigmoid(-3 + leads)
    torch.testing.assert_close(gates.mean(0), expected, atol=0.06, rtol=0)
    gates[:, 7].sum().backward()
    assert scores.grad is not None and (scores.grad > 0).all()


def test_scores_begin_at_the_bias_and_are_standardised() -> None:
    scores = GateScores(3, 2, 1.0)
    x = 5 + 100 * torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(scores(x), torch.ones(64, 2))
    with torch.no_grad():
        scores.weight[0, 1] = 1.0
    first, second = scores(x).unbind(1)
    assert abs(first.mean() - 1) < 1e-4 and abs(first.std() - 1) < 0.02
    assert torch.equal(second, torch.ones(64))
    assert scores.macs == 6


@pytest.mark.parametrize("num_gates", [1, 7, 64])
@torch.no_grad()
def test_scores_do_not_depend_on_the_batch(num_gates: int) -> None:
    torch.manual_seed(0)
    scores = GateScores(13, num_gates, 1.0).eval()
    torch.nn.init.normal_(scores.weight)
    x = torch.randn(40, 13, 9, 9)
    whole = scores(x)
    for n in (1, 2, 17):
        assert torch.equal(scores(x[3 : 3 + n]), whole[3 : 3 + n])
