"""The batched Gymnasium environment: a shell of ``LayerDynamics``.

Axes: N rows (sub-environments, one sample each), D features, A = L + 1 actions.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from dynalay_gym.envs.actions import check_actions
from dynalay_gym.envs.config import EnvConfig, make_problem
from dynalay_gym.envs.observation_space import make_space, observe
from dynalay_gym.envs.properties import EnvProperties
from dynalay_gym.envs.reset_options import ResetOptions
from dynalay_gym.envs.row_episodes import RowEpisodes, Seed, reset_mode, row_seeds
from dynalay_gym.envs.shared_rows import SharedRows
from dynalay_gym.envs.table_dynamics import make_dynamics
from dynalay_gym.envs.vector_output import OUTPUTS, VectorOutput
from dynalay_gym.envs.walk import row_tensors
from dynalay_gym.errors import ConfigError, ResetNeededError
from dynalay_gym.sessions.activations import ALL


class DynaLayVectorEnv(EnvProperties, SharedRows):
    """N samples decided on at once; see ``docs/environment.md``.

    Args:
        num_envs: Number of rows N.
        autoreset_mode: When a finished row starts its next episode; Gymnasium's enum or
            one of its value names (``SameStep``, ``NextStep``, ``Disabled``).
        output: ``numpy``, or ``torch`` to leave everything on the device.
        render_mode: None, ``rgb_array`` or ``ansi``.
        **config: Fields of ``EnvConfig``, shared with the single form.

    Raises:
        DynaLayError: for any bad argument, missing data or checkpoint.
    """

    metadata = {  # noqa: RUF012 - Gymnasium's own form
        "render_modes": ["rgb_array", "ansi"],
        "render_fps": 2,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        output: str = "numpy",
        render_mode: str | None = None,
        **config: Any,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1, not {num_envs}")
        if output not in OUTPUTS:
            raise ConfigError(f"unknown output {output!r}; choose one of {OUTPUTS}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigError(
                f"unknown render_mode {render_mode!r}; choose one of "
                f"{self.metadata['render_modes']}"
            )
        self.config = EnvConfig.from_kwargs(config)
        if self.config.transitions == "table" and render_mode is not None:
            raise ConfigError(
                'a table cannot be rendered; use render_mode=None or transitions="live"'
            )
        self.autoreset_mode = reset_mode(autoreset_mode)
        self.metadata = self.metadata | {"autoreset_mode": self.autoreset_mode}
        self.num_envs, self.output, self.render_mode = num_envs, output, render_mode
        self.problem = make_problem(self.config)
        self.dynamics = make_dynamics(self.problem, num_envs)
        self._out = VectorOutput(output, self.device)
        self.single_observation_space = make_space(self.dynamics, self.config)
        self.single_action_space = gym.spaces.Discrete(self.dynamics.num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._episodes = RowEpisodes(num_envs, self.num_samples, self.penalty_range)

    def reset(
        self, *, seed: Seed = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every row, or in those of ``reset_mask``.

        Args:
            seed: Row i gets ``seed + i``, or entry i of a sequence. Without one (or
                with None as its entry) a row goes on to its next episode.
            options: ``index`` (an int, or one per row) and ``penalty`` (a number, or
                one per row) replace what the row's stream would choose;
                ``reset_mask`` (bool [N]) chooses the rows.

        Returns:
            Observations of all rows, and infos.
        """
        asked = ResetOptions.read(options, self.num_envs, self.num_samples)
        if not self.dynamics.begun and len(asked.rows) < self.num_envs:
            raise ResetNeededError("the first reset starts all rows: no reset_mask yet")
        self._seed_rows(seed, asked.rows)
        self._begin(asked)
        return self._observations(), self._infos()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take one decision in every row.

        Args:
            actions: Integers [N] in 0..L (array, tensor or list); NOP stops.

        Returns:
            observations, rewards float32 [N], terminations bool [N], truncations
            (all False) and infos. After it, ``infos["final_obs"]`` [N, D] holds every
            row's observation before any autoreset.

        Raises:
            InvalidActionError: wrong shape, type or range, or a finished row in
                ``Disabled`` mode; nothing has changed then.
            ResetNeededError: before the first reset or after ``close``.
        """
        self._check_begun("step")
        chosen = check_actions(actions, self.num_envs, self.dynamics.num_actions)
        chosen = chosen.to(self.dynamics.device)
        if self.autoreset_mode is AutoresetMode.DISABLED:
            self._episodes.check_none_waits()
        waiting = self._episodes.waiting()
        rewards, terminations = self._act(chosen, waiting)
        if waiting.size:  # NextStep: the action of a finished row starts its next
            self._begin(ResetOptions(waiting))
        self._episodes.end(terminations.cpu().numpy())
        infos = self._after_step(terminations)
        outcome = rewards, terminations, torch.zeros_like(terminations)
        return self._observations(), *map(self._out, outcome), infos

    def _act(self, chosen: Tensor, waiting: np.ndarray) -> tuple[Tensor, Tensor]:
        """Let all but the waiting rows act: rewards and terminations [N]."""
        if not waiting.size:
            return self.dynamics.step(ALL, chosen)
        device = self.dynamics.device
        acting = np.flatnonzero(~self._episodes.finished)
        running = torch.as_tensor(acting, device=device)
        rewards = torch.zeros(self.num_envs, device=device)
        terminations = torch.zeros_like(rewards, dtype=torch.bool)
        rewards[running], terminations[running] = self.dynamics.step(
            running, chosen[running]
        )
        return rewards, terminations

    def _after_step(self, terminations: Tensor) -> dict[str, Any]:
        """Infos of a step; in SameStep also start the next episodes."""
        ended = self._out.copy(terminations)
        final = {"final_obs": self._observations(), "_final_obs": ended}
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            final |= {"final_info": self._infos(), "_final_info": ended}
            if self._episodes.finished.any():
                self._begin(ResetOptions(self._episodes.waiting()))
        return self._infos() | final

    def set_weights(self, weights: Mapping[str, Tensor]) -> tuple[Any, dict[str, Any]]:
        """Give the network other weights between two steps.

        Rows in mid-episode stand in the state of the same bits under the new weights;
        their counts, the cost unit and the penalties stay. A table is computed anew.

        Args:
            weights: ``state_dict`` of a network of the same architecture.

        Returns:
            Observations and infos as the next step has to see them.

        Raises:
            CheckpointError: the weights are of another architecture.
        """
        self.dynamics.set_weights(weights)
        self.problem = self.dynamics.problem
        if not self.dynamics.begun:
            return None, {}
        return self._observations(), self._infos()

    def get_state(self) -> dict[str, Tensor]:
        """Where every row stands and what its stream draws next, on the CPU.

        The network's weights are not part of it.
        """
        self._check_begun("get_state")
        parts = row_tensors(self.dynamics) | {"states": self.dynamics.states()}
        parts |= {k: torch.from_numpy(v) for k, v in self._episodes.state().items()}
        return {name: part.cpu().clone() for name, part in parts.items()}

    def set_state(self, state: Mapping[str, Tensor]) -> tuple[Any, dict[str, Any]]:
        """Go on from what ``get_state`` returned, in an equal environment.

        Returns:
            Observations and infos of all rows.

        Raises:
            ConfigError: for numbers that no row of this environment can have.
        """
        most = {"states": 2**self.num_layers - 1}
        most |= {"decisions": self.dynamics.observer.max_decisions}
        most |= {"last_action": self.num_layers, "index": self.num_samples - 1}
        for name, last in most.items():
            least = -1 if name == "last_action" else 0
            if not bool(((state[name] >= least) & (state[name] <= last)).all()):
                raise ConfigError(
                    f"{name} must lie in {least}..{last}; give a state of an equal "
                    "environment"
                )
        self._episodes.load({k: v.cpu().numpy() for k, v in state.items()})
        for name, part in row_tensors(self.dynamics).items():
            part.copy_(state[name])
        self.dynamics.stand_in(state["states"].to(self.dynamics.device))
        return self._observations(), self._infos()

    def action_masks(self) -> Any:
        """Actions that can change something, bool [N, A]."""
        self._check_begun("action_masks")
        return self._out(self.dynamics.action_mask())

    def render(self) -> tuple[Any, ...] | None:
        """One frame (or text) per row, by ``render_mode``; None without one."""
        if self.render_mode is None:
            return None
        self._check_begun("render")
        from dynalay_gym.envs.render import render_row

        rows = range(self.num_envs)
        return tuple(render_row(self.dynamics, i, self.render_mode) for i in rows)

    @property
    def is_seeded(self) -> bool:
        """Whether a reset has chosen the rows' episode streams."""
        return self._episodes.seeded

    def _check_begun(self, what: str) -> None:
        if not self.dynamics.begun or self.closed:
            raise ResetNeededError(
                f"call reset() before {what}(), and neither after close()"
            )

    def _seed_rows(self, seed: Seed, rows: np.ndarray) -> None:
        """Restart the episode streams of the rows that are given a seed."""
        seeds = row_seeds(seed, self.num_envs)
        if isinstance(seed, int | np.integer) or self._np_random is None:
            super().reset(seed=seeds[0])
        if not self._episodes.seeded:
            drawn = self.np_random.integers(2**62, size=self.num_envs)
            self._episodes.seed(np.arange(self.num_envs), drawn.tolist())
        self._episodes.seed(rows, seeds)

    def _begin(self, asked: ResetOptions) -> None:
        self.dynamics.begin(asked.rows, *self._episodes.begin(asked))

    def _observations(self) -> Any:
        return self._out.observations(observe(self.dynamics, self.config))

    def _infos(self) -> dict[str, Any]:
        return self._out.infos(self.dynamics.infos(), self.num_envs)
