"""Anybody's network as a session: what runs and costs, and all that is above it."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from helpers.wrapped import OTHERS, Other, other
from stable_baselines3 import PPO
from torch import Tensor, nn

from dynalay_gym import wrap
from dynalay_gym.data.splits import Split
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.errors import CheckpointError, ConfigError
from dynalay_gym.fixed_point.layers import DenseFixedPointLayer
from dynalay_gym.integrations.sb3 import SB3VecEnv
from dynalay_gym.networks.wrapped.config import WrapConfig
from dynalay_gym.networks.wrapped.network import WrappedNetwork
from dynalay_gym.predictor.policies import PlanPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions.fastest import as_session
from dynalay_gym.sessions.protocol import FiniteStates
from dynalay_gym.sessions.skip.decisions import ITERATE, RUN, SKIP, STOP
from dynalay_gym.sessions.skip.wrapped import WrappedSession, wrapped_loader
from dynalay_gym.testing import check_vector_env

ALL = ("run", "skip", "iterate")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(params=OTHERS)
def found(request: pytest.FixtureRequest) -> Other:
    return other(request.param)


def own_session(found: Other, **options: Any) -> WrappedSession:
    shortcuts = found.shortcuts
    return wrap(
        found.module, found.layers, found.inputs, shortcuts=shortcuts, **options
    )


def play(session: WrappedSession, inputs: Tensor, plan: Any) -> tuple[Any, Tensor]:
    """Take one action after the other in all rows; return the state and the MACs."""
    state, rows = session.begin(inputs), torch.arange(len(inputs))
    macs = torch.zeros_like(rows)
    for action in plan:
        actions = torch.full_like(rows, action)
        macs += session.apply(state, rows, actions).macs
    return state, macs


def count_calls(session: WrappedSession) -> Counter[str]:
    """Return a count of the samples that each block has run on, kept up to date."""
    calls = Counter[str]()
    for name in session.network.names:

        def note(
            module: nn.Module, given: tuple[Tensor, ...], name: str = name
        ) -> None:
            axis = session.network.cuts[session.network.names.index(name)].axes[0]
            calls[name] += given[0].shape[axis or 0]

        session.network.network.get_submodule(name).register_forward_pre_hook(note)
    return calls


# --- what runs ------------------------------------------------------------------------


def test_running_every_block_is_the_network_to_the_bit(found: Other) -> None:
    session = own_session(found)
    state, _ = play(session, found.inputs, [RUN] * len(found.layers))
    with torch.no_grad():
        expected = found.module(found.inputs)
    assert torch.equal(session.logits(state, torch.arange(len(expected))), expected)


def test_where_blocks_can_be_iterated_alone_the_plain_pass_is_the_network() -> None:
    found = other("vit")
    session = own_session(found, modes=("run", "iterate"))
    state = session.begin(found.inputs)
    with torch.no_grad():
        expected = found.module(found.inputs)
    assert torch.equal(state.logits, expected)
    assert session.plain_macs == sum(
        session.network.block_macs + session.network.piece_macs
    )
    assert session.full_plan == (ITERATE,)
    rows = torch.arange(len(expected))
    kept = session.apply(state, rows, torch.full_like(rows, RUN))
    assert not bool(kept.macs.any()) and torch.equal(state.logits, expected)
    session.apply(state, rows, torch.full_like(rows, ITERATE))
    assert not torch.equal(state.logits, expected)


def test_a_skipped_block_does_not_run(found: Other) -> None:
    session = own_session(found)
    calls = count_calls(session)
    session.begin(found.inputs)
    assert not calls
    plan = [RUN, SKIP, *[RUN] * (len(found.layers) - 2)]
    play(session, found.inputs, plan)
    ran = [
        name for name, action in zip(found.layers, plan, strict=True) if action == RUN
    ]
    assert calls == dict.fromkeys(ran, len(found.inputs))


@pytest.mark.parametrize("channels", [None, "first", "last"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4), (3,)])
def test_channels_are_seen_by_their_means(shape: Any, channels: Any) -> None:
    last = nn.Linear(torch.Size(shape).numel(), 2)
    module, inputs = (
        nn.Sequential(nn.Identity(), nn.Flatten(), last),
        torch.randn(6, *shape),
    )
    session = wrap(module, ["0"], inputs, channels=channels)
    is_first = channels == "first" or (channels is None and len(shape) != 2)
    axis = 1 if is_first else len(shape)
    expected = inputs.movedim(axis, 1).flatten(2).mean(2) if len(shape) > 1 else inputs
    torch.testing.assert_close(session.begin(inputs).pooled[:, 0], expected)


def test_rows_of_a_batch_run_their_own_blocks(found: Other) -> None:
    session, num = own_session(found), len(found.inputs)
    calls, rows = count_calls(session), torch.arange(num)
    state = session.begin(found.inputs)
    session.apply(state, rows, torch.tensor([RUN, SKIP, STOP] * (num // 3)))
    assert calls == {found.layers[0]: num // 3}
    assert state.position.tolist() == [1, 1, 0] * (num // 3)


def test_costs_are_those_of_what_runs() -> None:
    """By hand: the blocks, what lies between them, and the head."""
    found = other("resnet")
    session = own_session(found)
    network = session.network
    block, left, piece = network.block_macs, network.shortcut_macs, network.piece_macs
    assert session.plain_macs == sum(piece) + sum(left)
    state, macs = play(session, found.inputs, [RUN])
    assert set(macs.tolist()) == {block[0] + sum(left[1:]) + sum(piece[1:])}
    rows = torch.arange(len(found.inputs))
    skipped = session.apply(state, rows, torch.full_like(rows, SKIP))
    assert not bool(skipped.macs.any()) and not bool(skipped.already_iterated.any())
    last = session.apply(state, rows, torch.full_like(rows, RUN))
    expected = block[2] + sum(left[3:]) + sum(piece[3:])
    assert set(last.macs.tolist()) == {expected}


def test_an_iterated_block_counts_its_steps() -> None:
    found = other("lstm")
    session = own_session(found, modes=ALL, max_steps=4, rtol=1e-9)
    state, rows = session.begin(found.inputs), torch.arange(len(found.inputs))
    cost = session.apply(state, rows, torch.full_like(rows, ITERATE))
    network = session.network
    assert set(cost.solver_steps.tolist()) == {4} and bool((cost.status == 1).all())
    expected = 4 * network.block_macs[0] + sum(network.piece_macs[1:])
    assert set(cost.macs.tolist()) == {expected}


def test_a_block_of_ours_counts_the_steps_of_its_solve() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(DenseFixedPointLayer(4), nn.Linear(4, 3)).eval()
    session = wrap(module, ["0"], torch.rand(5, 4))
    _, macs = play(session, torch.rand(5, 4), [RUN])
    assert set((macs % 16).tolist()) == {4 * 3} and bool((macs > 3 * 16).all())


# --- states ---------------------------------------------------------------------------


@pytest.mark.parametrize("modes", [("run", "skip"), ("run", "iterate"), ALL])
def test_a_state_is_reached_at_once_as_step_by_step(modes: tuple[str, ...]) -> None:
    found = other("encoder")
    session = own_session(found, modes=modes, max_steps=3, batch_invariant=True)
    assert isinstance(session, FiniteStates)
    own = [{"run": RUN, "skip": SKIP, "iterate": ITERATE}[mode] for mode in modes]
    rows = torch.arange(len(found.inputs))
    for plan in itertools.product(own, repeat=2):
        expected, macs = play(session, found.inputs, plan)
        state_ids = session.state_ids(expected)
        state = session.begin(found.inputs)
        cost = session.reach(state, rows, state_ids)
        assert torch.equal(session.state_ids(state), state_ids)
        assert torch.equal(state.logits, expected.logits)
        assert bool((cost.macs <= macs).all())
        seen = session.features(state, rows)
        assert torch.equal(seen, session.features(expected, rows))
        assert seen.shape[1] == sum(session.feature_layout.values())


def test_a_copy_goes_its_own_way(found: Other) -> None:
    session = own_session(found)
    state = session.begin(found.inputs)
    before, copied = state.logits.clone(), state.clone()
    rows = torch.arange(len(found.inputs))
    session.apply(copied, rows, torch.full_like(rows, RUN))
    assert torch.equal(state.logits, before)
    session.restart(copied, rows[:2], found.inputs[:2])
    torch.testing.assert_close(copied.logits[:2], before[:2])
    assert copied.position.tolist() == [0, 0, *[1] * (len(rows) - 2)]


# --- what is above it -----------------------------------------------------------------


def own_split(found: Other) -> Split:
    num = len(found.inputs)
    labels = torch.arange(num) % 3
    return Split(found.inputs, labels, groups=torch.arange(num), name="own")


def options(name: str, **own: Any) -> dict[str, Any]:
    found = other(name, num=60)
    return {"checkpoint": own_session(found, **own), "split": own_split(found)}


@pytest.mark.parametrize("name", OTHERS)
def test_environments_agents_and_the_predictor_take_it(name: str) -> None:
    """Gymnasium's checker, 2,000 steps of PPO, and answers without an environment."""
    given = options(name)
    check_env(gym.make("dynalay_gym:DynaLay/Digits-v0", **given).unwrapped)
    envs = SB3VecEnv(DynaLayVectorEnv(16, **given))
    ppo = PPO("MlpPolicy", envs, n_steps=25, batch_size=100, n_epochs=2, device="cpu")
    ppo.learn(2000)
    assert ppo.num_timesteps == 2000
    session, inputs = given["checkpoint"], given["split"].inputs
    predictor = DynaLayPredictor(session, PlanPolicy([RUN, SKIP]), penalty=0.1)
    calls = count_calls(session)
    answers = predictor.predict_proba(inputs)
    assert calls == {session.network.names[0]: len(inputs)}
    expected, _ = play(session, inputs, [RUN, SKIP])
    torch.testing.assert_close(torch.as_tensor(answers), expected.logits.softmax(1))


@pytest.mark.parametrize("name", ["lstm", "encoder"])
def test_rows_by_themselves_pass_the_batched_checker(name: str) -> None:
    given = options(name, batch_invariant=True, modes=ALL, max_steps=2)

    def make(num_envs: int, mode: str) -> gym.vector.VectorEnv:
        return DynaLayVectorEnv(num_envs, autoreset_mode=mode, **given)

    check_vector_env(make, num_envs=3, num_steps=20)


def test_a_wrapped_network_is_taken_as_it_is() -> None:
    found = other("vit")
    session = as_session(found.wrap())
    assert isinstance(session, WrappedSession)
    with pytest.raises(ConfigError, match="takes no rtol"):
        as_session(found.wrap(), rtol=0.1)
    with pytest.raises(ConfigError, match=r"by dynalay_gym\.wrap"):
        as_session(found.module)  # type: ignore[arg-type]


def test_a_fingerprint_knows_what_weights_do_not_say() -> None:
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), torch.randn(5, 4)
    same, too, other_way = (
        wrap(module, ["0"], x, shortcuts={"0": shortcut}).fingerprint()
        for shortcut in (lambda b, x: x, lambda b, x: x, lambda b, x: -x)
    )
    assert same == too != other_way


def test_a_mask_of_minus_infinity_is_no_diverged_weight() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    module.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))
    inputs = torch.randn(5, 4)
    session = wrap(module, ["0"], inputs)
    session.load_weights(session.to_saved()[2])
    split = Split(inputs, torch.arange(5) % 3)
    network = WrappedNetwork(module, WrapConfig(layers=("0",)), inputs)
    DynaLayVectorEnv(2, checkpoint=network, split=split, penalty=0.1).reset(seed=0)
    nn.init.constant_(module[1].bias, torch.inf)
    with pytest.raises(ConfigError, match="not finite; give a real sample"):
        WrappedNetwork(module, WrapConfig(layers=("0",)), inputs)


@pytest.mark.parametrize("name", ["lstm", "resnet"])
def test_a_table_plays_as_the_network(name: str) -> None:
    given = options(name, batch_invariant=True)
    live, table = (
        DynaLayVectorEnv(4, transitions=kind, **given) for kind in ("live", "table")
    )
    first, second = live.reset(seed=0), table.reset(seed=0)
    assert np.array_equal(first[0], second[0])
    for action in (RUN, SKIP, RUN, STOP):
        mine, theirs = (envs.step(np.full(4, action)) for envs in (live, table))
        for a, b in zip(mine[:4], theirs[:4], strict=True):
            assert np.array_equal(a, b)


def test_names_come_in_a_list() -> None:
    found = other("lstm")
    with pytest.raises(ConfigError, match=r"layers must be a list of names; give \['l"):
        wrap(found.module, "layers.0", found.inputs)


def test_it_is_saved_and_loaded_with_its_module(tmp_path: Path) -> None:
    found = other("lstm")
    session = own_session(found)
    predictor = DynaLayPredictor(session, PlanPolicy([RUN, SKIP]), penalty=0.1)
    predictor.save(tmp_path / "saved")

    def make(**changes: Any) -> WrappedSession:
        fresh = type(found.module)()
        return wrap(fresh.eval(), found.layers, found.inputs, **changes)

    loaded = DynaLayPredictor.load(
        tmp_path / "saved", sessions={"wrapped": wrapped_loader(make)}
    )
    answers, expected = (p.predict_proba(found.inputs) for p in (loaded, predictor))
    assert np.array_equal(answers, expected)
    with pytest.raises(CheckpointError, match="other options of wrap"):
        DynaLayPredictor.load(
            tmp_path / "saved",
            sessions={"wrapped": wrapped_loader(lambda: make(modes=ALL))},
        )


def test_a_model_of_timm_is_wrapped_where_it_is_installed() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    module = timm.create_model("resnet10t", num_classes=4).eval()
    x, halved = torch.randn(2, 3, 32, 32), {"layer2.0": "layer2.0.downsample"}
    session = wrap(module, ["layer1.0", "layer2.0"], x, shortcuts=halved)
    state, _ = play(session, x, [RUN, RUN])
    with torch.no_grad():
        assert torch.equal(state.logits, module(x))
