"""The compiled session does what PyTorch's does; only roundings differ."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.networks import random_images, random_model, tiny_config
from torch import nn

from dynalay_gym.envs.observation import EpisodeState, observer_of
from dynalay_gym.networks.agent_net import AgentNet
from dynalay_gym.networks.main_layers import WideStreamLayer
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.presets import make_config
from dynalay_gym.predictor.net_policies import AgentNetPolicy
from dynalay_gym.sessions.accel.session import CompiledSession, fastest_session
from dynalay_gym.sessions.activations import ALL
from dynalay_gym.sessions.protocol import SessionState
from dynalay_gym.sessions.torch_session import TorchSession

CONFIGS = {
    "tiny-wide": tiny_config("wide"),
    "tiny-state": tiny_config("state"),
    "with-stem": tiny_config("wide", stem=5, stem_stride=2, pools=(1, 1, 1)),
    "state-with-stem": tiny_config("state", stem=3, stem_stride=2),
    "odd-size": tiny_config("wide", in_shape=(2, 14, 14)),
    "one-layer": tiny_config(
        "wide", channels=(3,), strides=(2,), hidden=(20,), pools=(1,)
    ),
    "digits": make_config("digits", (1, 8, 8), 10),
    "small-32": make_config("small", (3, 32, 32), 10),
    "small-28": make_config("small", (1, 28, 28), 10),
    "paper": make_config("paper", (1, 28, 28), 10),
}


def assert_close(mine: SessionState, other: SessionState) -> None:
    """Same answers and maps, but for roundings."""
    for field in ("features", "logits", "residual"):
        found, expected = getattr(mine, field), getattr(other, field)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    assert torch.equal(mine.path, other.path)
    for i, (here, there) in enumerate(zip(mine.layers, other.layers, strict=True)):
        if i == 0:
            continue
        found, expected = here.at(ALL), there.at(ALL)
        torch.testing.assert_close(found.u, expected.u, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(here.y, there.y, rtol=1e-4, atol=2e-5)
        rows = (mine.path >> (i - 1) & 1).nonzero().flatten()
        if len(rows) > 0 and expected.h is not None:
            assert found.h is not None
            torch.testing.assert_close(
                found.h[rows], expected.h[rows], rtol=1e-4, atol=2e-5
            )


@pytest.mark.parametrize("name", CONFIGS)
def test_every_choice_does_and_costs_what_pytorchs_does(name: str) -> None:
    model = random_model(CONFIGS[name])
    images = random_images(model.config, 9)
    mine, other = CompiledSession(model, rtol=0.03), TorchSession(model, rtol=0.03)
    here, there = mine.begin(images), other.begin(images)
    assert_close(here, there)
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        layers = torch.randint(0, mine.num_layers + 1, (9,), generator=generator)
        rows = layers.nonzero().flatten()
        found = mine.apply(here, rows, layers[rows])
        expected = other.apply(there, rows, layers[rows])
        for cost in ("macs", "solver_steps", "status"):
            assert torch.equal(getattr(found, cost), getattr(expected, cost)), cost
        assert_close(here, there)
    again = images.flip(0)[:4]
    rows = torch.tensor([7, 2, 0, 5])
    mine.restart(here, rows, again)
    other.restart(there, rows, again)
    assert_close(here, there)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("final", [False, True])
def test_every_state_is_reached_at_the_same_cost(name: str, final: bool) -> None:
    model = random_model(CONFIGS[name])
    num_states = 2 ** len(model.config.channels)
    images = random_images(model.config, num_states)
    mine, other = CompiledSession(model), TorchSession(model)
    here, there = mine.begin(images), other.begin(images)
    paths = torch.arange(num_states).flip(0)
    found = mine.reach(here, ALL, paths, final=final)
    expected = other.reach(there, ALL, paths, final=final)
    for cost in ("macs", "solver_steps", "status"):
        assert torch.equal(getattr(found, cost), getattr(expected, cost)), cost
    torch.testing.assert_close(here.logits, there.logits, rtol=1e-4, atol=2e-5)
    assert here.path.tolist() == paths.tolist()


def spoilt(model: MainNetwork, layers: list[int]) -> MainNetwork:
    """Copy in which all that only an iteration of these layers reads is NaN."""
    model = copy.deepcopy(model)
    for i in layers:
        layer: Any = model.layers[i - 1]
        parts = [layer.recurrence.free_weight]
        parts += [layer.visible_to_hidden, layer.hidden_to_hidden, layer.readout]
        for part in parts:
            nn.init.constant_(part, torch.nan)
    return model


@pytest.mark.parametrize("path", range(8))
def test_nothing_is_run_that_was_not_chosen(path: int) -> None:
    model = random_model(CONFIGS["digits"])
    images = random_images(model.config, 3)
    unchosen = [layer for layer in (1, 2, 3) if not path >> (layer - 1) & 1]
    states = []
    for network in (model, spoilt(model, unchosen)):
        session = CompiledSession(network)
        states.append(session.begin(images))
        session.reach(states[-1], ALL, torch.full((3,), path))
    assert torch.equal(states[0].logits, states[1].logits)
    assert states[1].logits.isfinite().all()


def test_threads_share_the_rows_and_change_no_bit() -> None:
    model = random_model(CONFIGS["small-32"])
    images = random_images(model.config, 41)
    session, found = CompiledSession(model), []
    paths = torch.arange(41) % 8
    before = torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        state = session.begin(images)
        cost = session.reach(state, ALL, paths)
        found.append((state.logits, state.features, cost.macs, cost.solver_steps))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_an_error_in_a_thread_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    from dynalay_gym.sessions.accel import session as compiled_session

    def fail(*args: Any) -> None:
        raise MemoryError

    session = CompiledSession(random_model(CONFIGS["small-32"]))
    monkeypatch.setattr(compiled_session.network, "begin", fail)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(MemoryError):
        session.begin(random_images(session.model.config, 32))


def test_a_copy_of_a_state_is_independent() -> None:
    session = CompiledSession(random_model(CONFIGS["digits"]))
    state = session.begin(random_images(session.model.config, 4))
    copied, rows = state.clone(), torch.arange(4)
    session.apply(state, rows, torch.full((4,), 1))
    assert copied.path.tolist() == [0] * 4
    session.apply(copied, rows, torch.full((4,), 1))
    for mine, other in zip(state.layers, copied.layers, strict=True):
        assert torch.equal(mine.at(ALL).u, other.at(ALL).u)
    session.apply(copied, rows, torch.full((4,), 2))
    assert not torch.equal(state.layers[2].at(ALL).u, copied.layers[2].at(ALL).u)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_deep_copy_shares_no_memory_and_works(copied: Callable[[Any], Any]) -> None:
    session = CompiledSession(random_model(CONFIGS["digits"]))
    state = session.begin(random_images(session.model.config, 4))
    before, rows = state.logits.clone(), torch.arange(4)
    other = copied(state)
    session.apply(other, rows, torch.full((4,), 2))
    assert torch.equal(state.logits, before)
    assert not torch.equal(other.logits, before)
    assert not torch.equal(other.layers[2].at(ALL).u, state.layers[2].at(ALL).u)


def test_other_weights_are_taken() -> None:
    config = CONFIGS["digits"]
    first, second = random_model(config), random_model(config, seed=1)
    images, session = random_images(config, 3), CompiledSession(first)
    session.set_weights(second.state_dict())
    expected = CompiledSession(second).begin(images).logits
    assert torch.equal(session.begin(images).logits, expected)


def test_an_images_memory_does_not_matter() -> None:
    session = CompiledSession(random_model(CONFIGS["small-32"]))
    images = random_images(session.model.config, 5)
    last = images.contiguous(memory_format=torch.channels_last)
    found = [session.begin(each).logits for each in (images, last, images.flip(0))]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2].flip(0))
    assert session.begin(images[:0]).logits.shape == (0, 10)


def test_an_image_without_a_number_spoils_no_other_row() -> None:
    session = CompiledSession(random_model(CONFIGS["digits"]))
    images = random_images(session.model.config, 3)
    expected = session.begin(images).logits
    images[1] = torch.nan
    state = session.begin(images)
    assert torch.equal(state.logits[[0, 2]], expected[[0, 2]])
    cost = session.apply(state, torch.arange(3), torch.full((3,), 1))
    assert cost.status.tolist() == [0, 2, 0]


def test_a_network_on_the_processor_is_compiled() -> None:
    assert type(fastest_session(random_model(CONFIGS["tiny-wide"]))) is CompiledSession


def test_what_is_not_known_runs_in_pytorch() -> None:
    class OtherLayer(WideStreamLayer):
        pass

    model = random_model(CONFIGS["tiny-wide"])
    model.layers[1].__class__ = OtherLayer
    assert type(fastest_session(model)) is TorchSession
    repeated = random_model(tiny_config("wide", unshuffle=8))  # a map of one pixel
    assert type(fastest_session(repeated)) is TorchSession


def test_indices_and_shapes_are_looked_at() -> None:
    session = CompiledSession(random_model(CONFIGS["digits"]))
    images = random_images(session.model.config, 4)
    state, rows = session.begin(images), torch.arange(4)
    for layer in (4, -1):
        with pytest.raises(ValueError, match=r"0\.\.3"):
            session.apply(state, rows, torch.full((4,), layer))
    for path in (8, -1, 1 << 40):
        with pytest.raises(ValueError, match=r"0\.\.7"):
            session.reach(state, rows, torch.full((4,), path))
    for bad in (images[:2], images[..., :4], images.double()):
        with pytest.raises(ValueError, match="images must be"):
            session.restart(state, rows, bad)
    policy = AgentNetPolicy(AgentNet(30, 4))
    with pytest.raises(ValueError, match="30 numbers"):
        policy.act(torch.rand(2, 3), {"action_mask": torch.ones(2, 4)})


# --- what is seen ---------------------------------------------------------------------


def random_state(n: int) -> tuple[SessionState, EpisodeState]:
    generator = torch.Generator().manual_seed(0)
    state = SessionState(
        layers=[],
        features=torch.rand(n, 9, generator=generator).exp(),
        logits=4 * torch.randn(n, 5, generator=generator),
        path=torch.randint(0, 4, (n,), generator=generator),
        residual=torch.rand(n, 2, generator=generator),
    )
    counts = [torch.randint(0, 3, (n,), generator=generator) for _ in range(4)]
    index, last_action, consecutive, decisions = counts
    penalty = torch.rand(n, generator=generator)
    return state, EpisodeState(index, penalty, last_action - 1, consecutive, decisions)


def test_an_observation_in_one_pass_is_that_of_pytorch() -> None:
    state, episode = random_state(8)
    state.logits[1] = torch.nan
    state.logits[2] = 1e30 * torch.arange(5)
    state.features[3, 0], state.features[4, 1] = torch.inf, torch.nan
    state.residual[5] = torch.tensor([torch.nan, torch.inf])
    observer = observer_of((4, 5), 3)
    parts = [*observer.network_parts(state), *observer.episode_parts(episode)]
    expected = torch.cat(parts, 1)
    torch.testing.assert_close(observer(state, episode), expected, rtol=0, atol=2e-6)
    rows = torch.tensor([6, 1, 3])
    found = observer(state, episode, rows)
    assert torch.equal(found, observer(state, episode)[rows])
    width = observer.layout["penalty"].start
    assert torch.equal(observer.network(state), observer(state, episode)[:, :width])
    # Rows begin with these, and tables hold them: to the bit.
    assert torch.equal(found[:, width:], expected[rows][:, width:])


def test_an_agents_policy_chooses_as_its_network() -> None:
    torch.manual_seed(0)
    net = AgentNet(30, 5, hidden=(24, 40)).requires_grad_(False)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    observations = torch.rand(200, 30)
    mask = torch.randint(0, 2, (200, 5), dtype=torch.int8)
    mask[:, 0] = 1
    policy = AgentNetPolicy(net)
    found = policy.act(observations, {"action_mask": mask})
    scores = net(observations).masked_fill(mask == 0, -torch.inf)
    assert torch.equal(found, scores.argmax(1))
    assert len(found.unique()) == 5
    alone = [
        policy.act(observations[i : i + 1], {"action_mask": mask[i : i + 1]})
        for i in range(200)
    ]
    assert torch.equal(found, torch.cat(alone))
