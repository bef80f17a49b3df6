"""Where a plan leads a main network, as one part.

Which layers are iterated is known beforehand then. Under a `PlanPolicy` the part is the
whole predictor, under a `MaxProbPolicy` what answers the inputs that the plain pass is
not sure of. Its solves are static.

Axes: n images [n, C, H, W], K classes.
"""

import copy

from torch import Tensor, nn

from dynalay_gym.fixed_point.layers import FixedPointLayer
from dynalay_gym.networks.policy import NOP, PlanPolicy, Policy
from dynalay_gym.predictor.parts.part import Part, example
from dynalay_gym.predictor.parts.solves import StaticSolve
from dynalay_gym.sessions.torch_session import TorchSession


class Answer(nn.Module):
    """A network in one of its states: images [n, C, H, W] to logits [n, K].

    Args:
        session: The network and the options of its solves.
        state_id: The state.
    """

    def __init__(self, session: TorchSession, state_id: int) -> None:
        super().__init__()
        self.network, self.state_id = copy.deepcopy(session.network), state_id
        self.solver, steps = session.solver, session.options["max_steps"]
        layers = self.network.main_layers
        each = (steps,) * len(layers) if isinstance(steps, int) else steps
        for layer, most in zip(layers, each, strict=True):
            recurrence = layer.recurrence
            assert isinstance(recurrence, FixedPointLayer)
            layer.recurrence = StaticSolve(recurrence, most)  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images."""
        return self.network.forward_path(images, self.state_id, self.solver)


def plan_parts(session: TorchSession, policy: Policy, max_decisions: int) -> list[Part]:
    """Return the part that answers at the end of a policy's plan; none if it cannot be.

    Args:
        session: The network, on the CPU. Its layers have to convolve, and its solves to
            be whole ones.
        policy: Has to have one plan for all inputs.
        max_decisions: Decisions after which the predictor answers.
    """
    convolves = all(
        isinstance(layer.recurrence, FixedPointLayer)
        for layer in session.network.main_layers
    )
    is_plan = isinstance(policy, PlanPolicy) and not policy.per_sample
    if not is_plan or not convolves or session.options["iterations_per_action"]:
        return []
    state_id, plan = 0, policy.actions[0].tolist()  # type: ignore[attr-defined]
    for action in plan[: plan.index(NOP)][:max_decisions]:
        state_id = int(session.next_state[state_id, action])
    inputs = {"images": example(*session.network.config.in_shape)}
    return [Part("answer", Answer(session, state_id), inputs, ("logits",))]
