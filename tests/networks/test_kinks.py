"""Where activations have a kink or nothing to scale, gradients are finite.

DynaLay, equation 10: gradients of functions that are not smooth.
"""

from typing import Any

import pytest
import torch
from helpers.networks import tiny_config

from dynalay_gym.data.vocabulary import PADDING, Vocabulary
from dynalay_gym.fixed_point.solve import GradientRule, SolverConfig, solve
from dynalay_gym.networks.layers.config import MainNetworkConfig
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.networks.state_losses import loss_of_states

WORDS = Vocabulary(words=("", "<unk>", "a", "b"))
CONFIGS = {
    "wide": tiny_config("wide"),
    "state": tiny_config("state"),
    "planner": make_config("maze", (4, 11, 11), 4),
    "text": MainNetworkConfig(
        in_shape=(6,),
        num_classes=3,
        form="text",
        vocabulary=WORDS,
        stem=4,
        channels=(4, 4),
    ),
}
RULES = [GradientRule.IMPLICIT, GradientRule.ONE_STEP, GradientRule.UNROLL]


def nothing(config: MainNetworkConfig) -> torch.Tensor:
    """Two samples of zeros, or texts without a word."""
    if config.form == "text":
        return torch.full((2, *config.in_shape), PADDING)
    return torch.zeros(2, *config.in_shape)


@pytest.mark.parametrize("weights", ["zero", "random"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("form", CONFIGS)
def test_gradients_at_zero_are_finite(form: str, rule: Any, weights: str) -> None:
    """With zeros everywhere ReLUs, maxima and norms of residuals are at their kinks."""
    torch.manual_seed(0)
    config = CONFIGS[form]
    network = MainNetwork(config).eval()
    if weights == "zero":
        for parameter in network.parameters():
            torch.nn.init.zeros_(parameter)
    states = dict.fromkeys(range(2**network.num_layers), 1.0)
    solver = SolverConfig(rtol=1e-3, max_steps=3, rule=rule)
    labels = torch.tensor([0, 1])
    loss = loss_of_states(network, nothing(config), labels, states, solver)
    loss.backward()
    assert loss.isfinite()
    gradients = [each.grad for each in network.parameters() if each.grad is not None]
    assert gradients and all(bool(each.isfinite().all()) for each in gradients)


@pytest.mark.parametrize("rule", RULES)
def test_the_gradient_at_a_kink_lies_between_those_on_its_sides(rule: Any) -> None:
    """Of z = relu(z / 2 + x): 0 below x = 0, and 1 / (1 - 1/2) above (Clarke)."""
    solver = SolverConfig(
        rtol=1e-7, max_steps=60, rule=rule, adjoint_rtol=1e-7, adjoint_max_steps=60
    )

    def slope(x: float) -> float:
        at = torch.tensor([[x]], dtype=torch.float64, requires_grad=True)
        start = torch.zeros(1, 1, dtype=torch.float64)
        found = solve(lambda z, x: torch.relu(z / 2 + x), start, at, solver)
        (gradient,) = torch.autograd.grad(found.value.sum(), at)
        return float(gradient)

    above = slope(1.0)
    exact = 1.0 if rule is GradientRule.ONE_STEP else 2.0  # one step: f'(x) alone
    assert above == pytest.approx(exact, abs=1e-4)
    assert slope(-1.0) == 0.0
    assert 0.0 <= slope(0.0) <= above
