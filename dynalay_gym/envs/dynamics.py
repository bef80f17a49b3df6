"""The decision process itself, for n rows at once; both env forms are shells of it.

Axes: n rows, m of them acted on, L layers, A = L + 1 actions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dynalay_gym.envs.observation import ActivationObserver, EpisodeState
from dynalay_gym.envs.reward import Decision, LayerReward
from dynalay_gym.envs.session import LayerSession, SessionState

NOP = 0


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Everything that defines the decision process except the number of rows.

    Attributes:
        session: The network.
        images: Samples [N, C, H, W] on the session's device.
        labels: Their classes, int64 [N].
        reward: Pays for each decision.
        max_decisions: After so many decisions the answer is given anyway.
        penalty_range: Lowest and highest penalty of an episode.
        cost_unit: MACs that count as cost 1: mean extra MACs of *always*.
        alpha: Weight of a right answer.
        split: Name of the split.
    """

    session: LayerSession
    images: Tensor
    labels: Tensor
    reward: LayerReward
    max_decisions: int
    penalty_range: tuple[float, float]
    cost_unit: float
    alpha: float
    split: str


class LayerDynamics:
    """n rows of the process, as tensors on the session's device.

    Args:
        problem: What is decided on.
        num_rows: Number of rows n.
    """

    def __init__(self, problem: Problem, num_rows: int) -> None:
        self.problem, self.num_rows = problem, num_rows
        session = problem.session
        self.num_actions = session.num_layers + 1
        self.observer = ActivationObserver(session.feature_sizes, problem.max_decisions)
        self.state: SessionState | None = None
        zeros = torch.zeros(num_rows, dtype=torch.int64, device=session.device)
        self.episode = EpisodeState(
            index=zeros.clone(),
            penalty=zeros.float(),
            last_action=zeros - 1,
            consecutive=zeros.clone(),
            decisions=zeros.clone(),
            history=zeros.new_full((num_rows, problem.max_decisions), -1),
        )
        self.macs, self.solver_steps = zeros.clone(), zeros.clone()
        self.status = zeros.clone()

    def begin(self, rows: Tensor, index: Tensor, penalty: Tensor) -> None:
        """Start episodes: plain pass over the given samples.

        Args:
            rows: Rows to start, int64 [m]; all of them the first time.
            index: Their samples, int64 [m].
            penalty: Their penalties, float [m].
        """
        begun = self.problem.session.begin(self.problem.images[index])
        if self.state is None:
            self.state = begun
        else:
            self.state.put(rows, begun)
        episode = self.episode
        episode.index[rows], episode.penalty[rows] = index, penalty.float()
        episode.last_action[rows] = episode.history[rows] = -1
        episode.consecutive[rows] = episode.decisions[rows] = 0
        self.macs[rows] = self.problem.session.costs.plain_pass
        self.solver_steps[rows] = self.status[rows] = 0

    def step(self, rows: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Take one decision in each of the given rows.

        Args:
            rows: Distinct rows, int64 [m].
            actions: Their actions, int64 [m], in 0..L.

        Returns:
            Rewards, float32 [m], and whether the episode ended, bool [m].
        """
        assert self.state is not None, "begin comes before step"
        episode, state = self.episode, self.state
        before = self._log_score(rows)
        again = self._sits(rows, actions)
        self.macs[rows] = self.solver_steps[rows] = self.status[rows] = 0
        iterating = (actions != NOP).nonzero().flatten()
        if iterating.numel() > 0:
            some = rows[iterating]
            cost = self.problem.session.apply(state, some, actions[iterating])
            self.macs[some], self.status[some] = cost.macs, cost.status
            self.solver_steps[some] = cost.solver_steps
        same = episode.last_action[rows] == actions
        episode.consecutive[rows] = episode.consecutive[rows] * same + 1
        episode.last_action[rows] = actions
        episode.history[rows, episode.decisions[rows]] = actions
        episode.decisions[rows] += 1
        spent = episode.decisions[rows] >= self.problem.max_decisions
        stop = (actions == NOP) | spent
        decision = Decision(
            stop=stop,
            correct=self.correct()[rows],
            cost=self.macs[rows] / self.problem.cost_unit,
            consecutive=episode.consecutive[rows],
            again=again,
            iterated=state.iterated[rows].float().mean(1),
            log_score_gain=self._log_score(rows) - before,
            penalty=episode.penalty[rows],
        )
        return self.problem.reward(decision).float(), stop

    def observe(self) -> Tensor:
        """Observations of all rows, float32 [n, D]."""
        assert self.state is not None, "begin comes before observe"
        return self.observer(self.state, self.episode)

    def prediction(self) -> Tensor:
        """Current answer of all rows, int64 [n]."""
        assert self.state is not None, "begin comes before prediction"
        return self.state.logits.argmax(1)

    def correct(self) -> Tensor:
        """Whether the current answer is right, bool [n]."""
        return self.prediction() == self.problem.labels[self.episode.index]

    def action_mask(self) -> Tensor:
        """Actions that can change something, bool [n, A].

        A layer that sits on its fixed point with nothing above it iterated is masked:
        choosing it can only cost. NOP never is.
        """
        assert self.state is not None, "begin comes before action_mask"
        iterated = self.state.iterated
        above = iterated.flip(1).cumsum(1).flip(1) - iterated.long()
        pointless = iterated & (above == 0)
        nop = torch.ones_like(pointless[:, :1])
        return torch.cat([nop, ~pointless], 1)

    def infos(self) -> dict[str, Tensor]:
        """Facts of all rows about their last step, [n] each (the mask [n, A])."""
        return {
            "index": self.episode.index.clone(),
            "penalty": self.episode.penalty.clone(),
            "macs": self.macs.clone(),
            "solver_steps": self.solver_steps.clone(),
            "solver_status": self.status.clone(),
            "correct": self.correct().to(torch.int8),
            "prediction": self.prediction(),
            "decisions": self.episode.decisions.clone(),
            "action_mask": self.action_mask().to(torch.int8),
        }

    def _log_score(self, rows: Tensor) -> Tensor:
        assert self.state is not None, "begin comes before step"
        labels = self.problem.labels[self.episode.index[rows]]
        log_probs = self.state.logits[rows].log_softmax(1)
        return log_probs.gather(1, labels[:, None])[:, 0]

    def _sits(self, rows: Tensor, actions: Tensor) -> Tensor:
        """Whether the chosen layer already sits on its fixed point, bool [m]."""
        assert self.state is not None, "begin comes before step"
        layer = (actions - 1).clamp(min=0)
        sits = self.state.iterated[rows].gather(1, layer[:, None])[:, 0]
        return sits & (actions != NOP)
