"""What a solve came to reaches the infos, in every form of the environment.

The networks' recurrences expand (norms up to 3, set by hand) and the images are of all
sizes, so that solves end in every way. What the infos call converged is put into the
map once more, in double precision.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import own_split, random_images, random_model, tiny_config
from numpy.typing import NDArray
from torch import Tensor

from dynalay_gym.data.splits import Split
from dynalay_gym.envs.process import LiveProcess
from dynalay_gym.envs.single_env import DynaLayEnv
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.fixed_point.progress import SolverStatus
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.sessions.torch_session import TorchSession

RTOL, ROWS = 0.01, 12
CONFIG: dict[str, Any] = {"rtol": RTOL, "max_steps": 25}
SIZES = (1.0, 1e-3, 1e3, 1e10, 1e19, 1e30, 1e37, 1e-20, 1e-42, 0.0, 1.0, 30.0)
PLANS = np.array([[1, 2, 3], [3, 2, 1], [2, 2, 3], [1, 3, 1]])


def expanding(form: str, norm: float, seed: int = 0) -> MainNetwork:
    """A network whose recurrences have norms up to `norm`."""
    model = random_model(tiny_config(form, **CONFIG), seed)
    for layer in model.main_layers:
        recurrence: Any = layer.recurrence
        recurrence.kappa = norm
        with torch.no_grad():
            recurrence.free_weight.mul_(100)
    return model


def hostile_split() -> Split:
    images = random_images(tiny_config(), ROWS)
    return own_split(images * torch.tensor(SIZES).view(-1, 1, 1, 1))


def make(network: Any, num_envs: int = ROWS, **options: Any) -> DynaLayVectorEnv:
    own: dict[str, Any] = {"split": hostile_split(), "penalty": 0.25, "device": "cpu"}
    own |= {"autoreset_mode": "Disabled", "max_decisions": 5}
    return DynaLayVectorEnv(num_envs, checkpoint=network, **own | options)


def solutions(envs: DynaLayVectorEnv, norm: float, lowest: NDArray[Any]) -> Tensor:
    """Whether all solves of the last step, from layer `lowest` up, found something.

    Their last step was shorter than the tolerance, and the next is at most `norm` times
    as long.
    """
    process: Any = envs.process
    assert isinstance(process, LiveProcess)
    state, session = process.state, process.session
    assert isinstance(session, TorchSession)
    everything, rows = torch.ones(ROWS, dtype=torch.bool), torch.arange(ROWS)
    for level, layer in enumerate(session.network.main_layers):
        held = state.layers[level + 1].read(rows)
        concerned = torch.from_numpy(process.state_ids() >> level & 1 == 1)
        concerned &= torch.from_numpy(lowest <= level + 1)
        if not concerned.any():
            continue
        z, x = held.z.double()[concerned], held.x.double()[concerned]
        recurrence: Any = layer.recurrence
        image = torch.relu(x + recurrence.recur(z, recurrence.weight().double()))
        change = (image - z).flatten(1).norm(dim=1)
        limit = 1.01 * norm * RTOL / (1 - norm * RTOL)
        good = change <= limit * image.flatten(1).norm(dim=1) + 1e-42
        everything[concerned] &= good
    return everything


@pytest.mark.parametrize("norm", [0.9, 1.5, 3.0])
@pytest.mark.parametrize("form", ["state", "wide"])
@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_no_solution_is_flagged(form: str, norm: float, compiled: bool) -> None:
    model = expanding(form, norm)
    envs = make(model if compiled else TorchSession(model))
    for plan in PLANS:
        envs.reset(seed=0, options={"index": np.arange(ROWS)})
        for action in plan:
            actions = np.full(ROWS, action)
            *_, infos = envs.step(actions)
            status = torch.as_tensor(infos["solver_status"])
            good = solutions(envs, norm, actions)
            assert not ((status == SolverStatus.CONVERGED) & ~good).any()
            assert set(status.tolist()) <= set(SolverStatus)


@pytest.mark.parametrize("form", ["state", "wide"])
@pytest.mark.parametrize("compiled", [False, True])
def test_all_forms_tell_the_same(
    form: str, compiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path))
    model = expanding(form, 3.0)
    network = model if compiled else TorchSession(model)
    vectors = [make(network, transitions=kind) for kind in ("live", "table")]
    row = DynaLayEnv(
        checkpoint=network,
        split=hostile_split(),
        penalty=0.25,
        device="cpu",
        max_decisions=5,
    )
    seen = set()
    for plan in PLANS:
        found = []
        for envs in vectors:
            envs.reset(seed=0, options={"index": np.arange(ROWS)})
            steps = [envs.step(np.full(ROWS, action))[-1] for action in plan]
            found.append(np.stack([infos["solver_status"] for infos in steps]))
        alone = np.zeros_like(found[0])
        for index in range(ROWS):
            row.reset(seed=0, options={"index": index})
            alone[:, index] = [row.step(a)[-1]["solver_status"] for a in plan]
        assert np.array_equal(found[0], found[1])
        assert np.array_equal(found[0], alone)
        seen |= set(found[0].flatten().tolist())
    assert seen == set(SolverStatus), "solves should end in every way"


def test_portions_tell_it_too() -> None:
    envs = make(TorchSession(expanding("wide", 3.0), iterations_per_action=10))
    envs.reset(seed=0, options={"index": np.arange(ROWS)})
    *_, infos = envs.step(np.full(ROWS, 1))
    assert SolverStatus.MAX_STEPS in infos["solver_status"]
    assert infos["solver_status"].max() >= SolverStatus.MAX_STEPS


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("form", ["state", "wide"])
def test_an_image_that_is_not_finite_is_a_status(form: str, value: float) -> None:
    # An environment refuses it; a session that is used by itself says it in the status.
    session = TorchSession(expanding(form, 0.9))
    images = random_images(tiny_config(), 3)
    images[1, 0, 4] = value
    state, rows = session.begin(images), torch.arange(3)
    cost = session.apply(state, rows, torch.ones(3, dtype=torch.int64))
    assert cost.status[1] == SolverStatus.NONFINITE
    assert (cost.status[[0, 2]] != SolverStatus.NONFINITE).all()
