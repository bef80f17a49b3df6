"""The checker finds every fault that is put into an environment of this package."""

from typing import Any

import numpy as np
import pytest
from gymnasium import Env
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from helpers.networks import make_single, make_vec

from dynalay_gym.testing import check_vector_env

CONFIG: dict[str, Any] = {"penalty": "0.1:0.9", "transitions": "table"}
SAME, NEXT = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP


class Faulty(VectorWrapper):
    """An environment that does everything right, with places to change that."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self.mode = env.metadata["autoreset_mode"]
        self.ended = np.zeros(env.num_envs, dtype=bool)

    def step(self, actions: Any) -> Any:
        waiting = self.ended if self.mode is NEXT else np.zeros_like(self.ended)
        observations, rewards, ends, cuts, infos = self.env.step(self.given(actions))
        self.ended = ends.copy()
        rewards = self.rewards(rewards, waiting)
        infos = self.infos(infos, observations)
        return self.observations(observations), rewards, ends, cuts, infos

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        seed, options = self.asked(seed, options)
        observations, infos = self.env.reset(seed=seed, options=options)
        if options is None:
            self.ended[:] = False
        return self.observations(observations), infos

    def given(self, actions: Any) -> Any:
        return actions

    def asked(self, seed: Any, options: Any) -> Any:
        return seed, options

    def observations(self, observations: np.ndarray) -> np.ndarray:
        return observations

    def rewards(self, rewards: np.ndarray, waiting: np.ndarray) -> np.ndarray:
        return rewards

    def infos(self, infos: dict[str, Any], observations: Any) -> dict[str, Any]:
        return infos


class OneBufferOfObservations(Faulty):
    buffer: Any = None

    def observations(self, observations: np.ndarray) -> np.ndarray:
        if self.buffer is None:
            self.buffer = observations
        self.buffer[...] = observations
        return self.buffer


class OneBufferOfRewards(Faulty):
    def rewards(self, rewards: np.ndarray, waiting: np.ndarray) -> np.ndarray:
        if not hasattr(self, "buffer"):
            self.buffer = rewards.copy()
        self.buffer[...] = rewards
        return self.buffer


class OneBufferOfInfos(Faulty):
    def infos(self, infos: dict[str, Any], observations: Any) -> dict[str, Any]:
        if not hasattr(self, "buffer"):
            self.buffer = infos["macs"]
        self.buffer[...] = infos["macs"]
        return infos | {"macs": self.buffer}


class ChangesItsActions(Faulty):
    def given(self, actions: Any) -> Any:
        if isinstance(actions, np.ndarray) and actions.shape == self.ended.shape:
            mine = actions.copy()
            actions[:] = 0
            return mine
        return actions


class RewardsAReset(Faulty):
    def rewards(self, rewards: np.ndarray, waiting: np.ndarray) -> np.ndarray:
        return rewards - np.float32(0.25) * waiting


class LosesTheLastReward(Faulty):
    def rewards(self, rewards: np.ndarray, waiting: np.ndarray) -> np.ndarray:
        return np.where(self.ended, np.float32(0), rewards)


class WholeRewards(Faulty):
    def rewards(self, rewards: np.ndarray, waiting: np.ndarray) -> np.ndarray:
        return rewards.astype(np.int64)


class SwapsRewards(Faulty):
    def rewards(self, rewards: np.ndarray, waiting: np.ndarray) -> np.ndarray:
        return rewards[::-1].copy()


class SwapsObservations(Faulty):
    def observations(self, observations: np.ndarray) -> np.ndarray:
        return observations[::-1].copy()


class DoubleObservations(Faulty):
    def observations(self, observations: np.ndarray) -> np.ndarray:
        return observations.astype(np.float64)


class ObservationsOutOfBounds(Faulty):
    def observations(self, observations: np.ndarray) -> np.ndarray:
        return observations * np.float32(1.5)


class RoundsInABatch(Faulty):
    def observations(self, observations: np.ndarray) -> np.ndarray:
        if self.num_envs == 1:
            return observations
        return np.round(observations, 5)


class SeedsOffByOne(Faulty):
    def asked(self, seed: Any, options: Any) -> Any:
        return (seed + 1 if isinstance(seed, int) else seed), options


class SameSeedForAllRows(Faulty):
    def asked(self, seed: Any, options: Any) -> Any:
        return ([seed] * self.num_envs if isinstance(seed, int) else seed), options


class SortsSeeds(Faulty):
    def asked(self, seed: Any, options: Any) -> Any:
        return (sorted(seed) if isinstance(seed, list) else seed), options


class SeedsOnce(Faulty):
    seeded = False

    def asked(self, seed: Any, options: Any) -> Any:
        seed, self.seeded = None if self.seeded else seed, True
        return seed, options


class ResetsAllRows(Faulty):
    def asked(self, seed: Any, options: Any) -> Any:
        return seed, None


class ResetsNoRow(Faulty):
    def asked(self, seed: Any, options: Any) -> Any:
        if options:
            options = {"reset_mask": np.roll(options["reset_mask"], 1)}
        return seed, options


class TakesTheIgnoredAction(Faulty):
    """In NEXT_STEP the action of a step that resets a row is taken after all."""

    def step(self, actions: Any) -> Any:
        waiting = self.ended.copy()
        result = super().step(actions)
        if self.mode is NEXT and waiting.any() and not self.ended.any():
            return super().step(np.where(waiting, 1, actions))
        return result


class LosesFinalInfo(Faulty):
    def infos(self, infos: dict[str, Any], observations: Any) -> dict[str, Any]:
        return {k: v for k, v in infos.items() if "final_info" not in k}


class LosesFinalObservations(Faulty):
    def infos(self, infos: dict[str, Any], observations: Any) -> dict[str, Any]:
        return {k: v for k, v in infos.items() if "final_obs" not in k}


class FinalObservationsOfTheNextEpisode(Faulty):
    def infos(self, infos: dict[str, Any], observations: Any) -> dict[str, Any]:
        return infos | {"final_obs": observations}


class FinalInfoOfTheNextEpisode(Faulty):
    def infos(self, infos: dict[str, Any], observations: Any) -> dict[str, Any]:
        if self.mode is not SAME:
            return infos
        own = {k: v for k, v in infos.items() if "final" not in k}
        return infos | {"final_info": own}


class FinalInfoOfAnotherRow(Faulty):
    def infos(self, infos: dict[str, Any], observations: Any) -> dict[str, Any]:
        if self.mode is not SAME:
            return infos
        rolled = {k: np.roll(v, 1, 0) for k, v in infos["final_info"].items()}
        return infos | {"final_info": rolled}


class MarksEveryRowAsEnded(Faulty):
    def infos(self, infos: dict[str, Any], observations: Any) -> dict[str, Any]:
        if self.mode is not SAME:
            return infos
        return infos | {"_final_info": np.ones_like(self.ended)}


class LosesAMask(Faulty):
    def infos(self, infos: dict[str, Any], observations: Any) -> dict[str, Any]:
        return {k: v for k, v in infos.items() if k != "_macs"}


class MaskOfOneRow(Faulty):
    def infos(self, infos: dict[str, Any], observations: Any) -> dict[str, Any]:
        return infos | {"_macs": np.ones(1, dtype=bool)}


class InfoOfOneNumber(Faulty):
    def infos(self, infos: dict[str, Any], observations: Any) -> dict[str, Any]:
        return infos | {"macs": np.zeros(self.num_envs + 1)}


class CorrectsActions(Faulty):
    """What is out of range is clipped without a word."""

    def given(self, actions: Any) -> Any:
        return np.resize(np.clip(actions, 0, 3).astype(np.int64), self.num_envs)


class StepsBeforeItLooks(Faulty):
    def given(self, actions: Any) -> Any:
        if np.max(actions) > 3:
            self.env.step(np.ones(self.num_envs, dtype=np.int64))
        return actions


class StepsFinishedRows(Faulty):
    """In DISABLED a finished row is reset by whoever steps it."""

    def step(self, actions: Any) -> Any:
        if self.mode is AutoresetMode.DISABLED and self.ended.any():
            self.env.reset(options={"reset_mask": self.ended})
        return super().step(actions)


FAULTS = {
    OneBufferOfObservations: "changed what one returned",
    OneBufferOfRewards: "changed what one returned",
    OneBufferOfInfos: "changed what one returned",
    ChangesItsActions: "step changed the actions",
    RewardsAReset: "must earn 0",
    LosesTheLastReward: "the single form: reward",
    WholeRewards: "rewards: wrong dtype",
    SwapsRewards: "must earn 0|alone: reward",
    SwapsObservations: "alone: observation",
    DoubleObservations: "outside observation_space",
    ObservationsOutOfBounds: "outside observation_space",
    RoundsInABatch: "alone: observation",
    SeedsOffByOne: "another order|the single form",
    SameSeedForAllRows: "row 1 alone",
    SortsSeeds: "another order",
    SeedsOnce: "second rollout",
    ResetsAllRows: "was not to be reset",
    ResetsNoRow: "was not to be reset|finished",
    TakesTheIgnoredAction: "must earn 0|SAME_STEP|alone",
    LosesFinalInfo: "infos lack 'final_info'",
    LosesFinalObservations: "infos lack 'final_obs'",
    FinalObservationsOfTheNextEpisode: "SAME_STEP: observation",
    FinalInfoOfTheNextEpisode: "SAME_STEP: info",
    FinalInfoOfAnotherRow: "alone: info",
    MarksEveryRowAsEnded: "'_final_info' must mark the ended rows",
    LosesAMask: "'_macs' must be a mask",
    MaskOfOneRow: "'_macs' must be a mask",
    InfoOfOneNumber: "'macs' must be an array of 3 entries",
    CorrectsActions: "step accepted an action above the range",
    StepsBeforeItLooks: "must earn 0|refused actions",
    StepsFinishedRows: "step accepted a finished row",
}


def single() -> Env:
    return make_single(**CONFIG)


def check(kind: type[Faulty]) -> None:
    def make(num_envs: int, mode: str) -> VectorEnv:
        return kind(make_vec(num_envs, autoreset_mode=mode, **CONFIG))

    check_vector_env(make, single, num_steps=16)


def test_without_a_fault_it_passes() -> None:
    check(Faulty)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_caught(fault: type[Faulty]) -> None:
    with pytest.raises(AssertionError, match=FAULTS[fault]):
        check(fault)


def test_an_id_is_enough() -> None:
    check_vector_env("dynalay_gym:DynaLay/Digits-v0", num_envs=2, num_steps=20)
