"""Bring your own network: token sequences through one dense fixed-point layer.

A session is all that an environment asks of a network: `begin` runs the plain pass,
`apply` carries an action out. This network has two actions, stop and "think on": two
more iterations of ``z = relu(x + W z)``, at most four times.
"""

import copy
from dataclasses import dataclass

import torch

from dynalay_gym.fixed_point.batch_invariant import linear
from dynalay_gym.fixed_point.layers import DenseFixedPointLayer
from dynalay_gym.sessions.features import SOFTMAX_LAYOUT, softmax_summary, squash
from dynalay_gym.sessions.protocol import StepCost
from dynalay_gym.sessions.states import layer_states, useful_actions
from dynalay_gym.storage.digest import tensors_digest

WIDTH, PORTIONS, STEPS, PADDING = 8, 4, 2, 0


class TokenNet(torch.nn.Module):
    """Mean embedding of a sequence -> fixed-point layer -> logits."""

    def __init__(self, vocabulary: int = 12, num_classes: int = 3) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(vocabulary, WIDTH, padding_idx=PADDING)
        self.layer = DenseFixedPointLayer(WIDTH, kappa=0.9)
        self.head = torch.nn.Linear(WIDTH, num_classes, bias=False)


@dataclass
class TokenState:
    """Rows in progress: injected input x, iterate z, and portions taken."""

    x: torch.Tensor
    z: torch.Tensor
    level: torch.Tensor

    def clone(self) -> "TokenState":
        """Return an independent copy."""
        return TokenState(self.x.clone(), self.z.clone(), self.level.clone())


class TokenSession:
    """Runs a `TokenNet`; see `dynalay_gym.sessions.protocol.NetworkSession`."""

    def __init__(self, net: TokenNet) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.weight = self.net.layer.weight()
        self.num_classes = net.head.out_features
        self.action_names, self.full_plan = ("stop", "think on"), (1,)
        self.feature_layout = {"activations/0": WIDTH, **SOFTMAX_LAYOUT, "level": 1}
        self.plain_macs = self.net.head.weight.numel()
        self.device = self.weight.device
        # FiniteStates: the portions taken are all that a row's state depends on.
        self.next_state = layer_states((PORTIONS,))

    def begin(self, inputs: torch.Tensor) -> TokenState:
        """Embed token ids, int64 [n, T], and apply the layer once, from zero."""
        words = (inputs != PADDING).sum(1, keepdim=True).clamp(min=1)
        x = self.net.embedding(inputs).sum(1) / words
        return TokenState(x, x.relu(), torch.zeros(len(x), dtype=torch.int64))

    def restart(self, state: TokenState, rows, inputs: torch.Tensor) -> None:
        """Begin with other inputs in some rows."""
        new = self.begin(inputs)
        state.x[rows], state.z[rows], state.level[rows] = new.x, new.z, new.level

    def apply(self, state: TokenState, rows, actions: torch.Tensor) -> StepCost:
        """Iterate a portion in the rows that chose to."""
        done = state.level[rows] == PORTIONS
        steps = torch.where((actions == 1) & ~done, STEPS, 0)
        some = rows[steps > 0]
        for _ in range(STEPS):
            z = state.z[some]
            state.z[some] = (state.x[some] + linear(z, self.weight)).relu()
        state.level[some] += 1
        macs = steps * self.weight.numel() + (steps > 0) * self.plain_macs
        return StepCost(macs, steps, torch.zeros_like(steps), done & (actions == 1))

    def reach(self, state: TokenState, rows, state_ids: torch.Tensor) -> StepCost:
        """Take as many portions as each row's state has."""
        parts = [
            self.apply(state, rows, (state_ids > taken).long())
            for taken in range(PORTIONS)
        ]
        macs, steps = (
            sum(getattr(p, n) for p in parts) for n in ("macs", "solver_steps")
        )
        return StepCost(macs, steps, torch.zeros_like(steps), parts[0].already_iterated)

    def state_ids(self, state: TokenState) -> torch.Tensor:
        """Return the state of every row: the portions taken."""
        return state.level.clone()

    def logits(self, state: TokenState, rows) -> torch.Tensor:
        """Return the current answers."""
        return linear(state.z[rows], self.net.head.weight)

    def features(self, state: TokenState, rows) -> torch.Tensor:
        """Return what an agent sees, in the order of `feature_layout`."""
        level = state.level[rows, None] / PORTIONS
        summary = softmax_summary(self.logits(state, rows))
        return torch.cat([squash(state.z[rows]), summary, level], 1)

    def useful_actions(self, state: TokenState, rows) -> torch.Tensor:
        """Return which actions can change something."""
        return torch.from_numpy(useful_actions(self.next_state))[state.level[rows]]

    def fingerprint(self) -> str:
        """Return a hash of the weights, by which transition tables are kept."""
        return tensors_digest(self.net.state_dict())

    def load_weights(self, weights) -> None:
        """Take other weights."""
        self.net.load_state_dict(weights)
        self.weight = self.net.layer.weight()

    def to_saved(self):
        """Return what a predictor's folder needs to make this session anew."""
        options = {"vocabulary": len(self.net.embedding.weight)}
        return "token-net", options, self.net.state_dict()


def restore(options, tensors) -> TokenSession:
    """Make a session from what `to_saved` returned."""
    net = TokenNet(num_classes=len(tensors["head.weight"]), **options)
    net.load_state_dict(tensors)
    return TokenSession(net)
