"""The predictor does what the environment does, without labels, and can be saved."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.flops import FlopCount
from helpers.networks import (
    live_state,
    make_single,
    make_vec,
    own_split,
    random_images,
    random_model,
    shared_model,
    shared_split,
    tiny_config,
)
from helpers.saved import edit_manifest
from sklearn import metrics
from sklearn.base import is_classifier
from torch import nn

from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DivergedError,
    InvalidActionError,
)
from dynalay_gym.networks.agent_net import AgentNet
from dynalay_gym.networks.checkpoint import save_network
from dynalay_gym.networks.main_network import MainNetwork
from dynalay_gym.networks.policy import PlanPolicy, Policy
from dynalay_gym.predictor.inference import Inference
from dynalay_gym.predictor.policies import MaxProbPolicy, NetworkPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor
from dynalay_gym.sessions import fastest
from dynalay_gym.sessions.torch_session import TorchSession

ROOT = Path(__file__).resolve().parents[2]
ALWAYS = (1, 2, 3)
KINDS = ("agent-net", "mlp-tanh", "mlp-relu", "plan", "max-prob")
NUM_ACTIONS = 4


def blank() -> DynaLayPredictor:
    return DynaLayPredictor(shared_model(), PlanPolicy(()), penalty=0.25)


def observation_size() -> int:
    return max(part.stop for part in blank().observation_layout.values())


def column() -> int:
    return blank().observation_layout["max_prob"].start


def restless(module: nn.Module) -> nn.Module:
    """Random weights so large that the choices differ between inputs."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(10 * torch.randn(weight.shape, generator=generator))
    return module


def perceptron(activation: type[nn.Module], *widths: int) -> nn.Sequential:
    first, *hidden, last = widths
    parts: list[nn.Module] = []
    for width in hidden:
        parts += [nn.Linear(first, width), activation()]
        first = width
    return nn.Sequential(*parts, nn.Linear(first, last))


def make_policy(kind: str) -> Policy:
    size = observation_size()
    if kind == "agent-net":
        return NetworkPolicy(restless(AgentNet(size, NUM_ACTIONS, (8, 6))))
    if kind.startswith("mlp"):
        activation = nn.Tanh if kind == "mlp-tanh" else nn.ReLU
        return NetworkPolicy(restless(perceptron(activation, size, 8, NUM_ACTIONS)))
    if kind == "plan":
        return PlanPolicy((2, 1, 1))
    # the network's max_prob lies between 0.41 and 0.45
    return MaxProbPolicy(column(), ALWAYS, [0.45, 0.42], [0.0, 0.5])


def make_predictor(kind: str, **options: Any) -> DynaLayPredictor:
    defaults: dict[str, Any] = {"penalty": 0.25}
    return DynaLayPredictor(shared_model(), make_policy(kind), **defaults | options)


def assert_same(mine: Inference, other: Inference) -> None:
    for key, value in mine._asdict().items():
        assert np.array_equal(np.asarray(value), np.asarray(getattr(other, key))), key


def run_env(policy: Policy, envs: DynaLayVectorEnv | None = None) -> dict[str, Any]:
    """Run every sample of an environment once: answers, actions and sums."""
    envs = envs or make_vec(24, output="torch")
    n = envs.num_envs
    observations, infos = envs.reset(options={"index": np.arange(n)})
    found = {name: torch.zeros(n, dtype=torch.int64) for name in ("macs", "prediction")}
    found |= {"solver_steps": torch.zeros(n, dtype=torch.int64)}
    actions, running = [], torch.ones(n, dtype=torch.bool)
    while running.any():
        chosen = policy.act(observations, infos)
        actions.append(torch.where(running, chosen, -1))
        observations, _, ended, _, infos = envs.step(chosen)
        step = infos["final_info"]
        for name in ("macs", "solver_steps"):
            found[name] += step[name] * running
        found["prediction"][running] = step["prediction"][running]
        running = running & ~ended
    return found | {"actions": torch.stack(actions, 1)}


# --- the same as the environment ------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_costs_are_those_of_the_environment(kind: str) -> None:
    envs = make_vec(24, output="torch")
    predictor = DynaLayPredictor.from_env(envs, make_policy(kind))
    expected, split = run_env(predictor.policy, envs), shared_split()
    found = predictor.infer(split.inputs)
    assert torch.equal(found.labels, expected["prediction"])
    extra = found.macs - envs.plain_macs
    if kind in ("plan", "max-prob"):  # nothing is refreshed in between
        assert (extra <= expected["macs"]).all()
        assert (extra < expected["macs"]).any()
    else:
        assert torch.equal(extra, expected["macs"])
        assert torch.equal(found.solver_steps, expected["solver_steps"])
    taken = expected["actions"]
    assert torch.equal(found.actions[:, : taken.shape[1]], taken)
    assert (found.actions[:, taken.shape[1] :] == -1).all()
    assert torch.equal(found.decisions, (taken >= 0).sum(1))
    right = expected["prediction"] == split.labels
    assert predictor.score(split.inputs, split.labels) == right.float().mean()
    assert len(set(found.decisions.tolist())) > 1 or kind == "plan"


def test_steps_probabilities_and_evidence_follow_the_environment() -> None:
    policy = make_policy("agent-net")
    env, split = make_single(), shared_split()
    found = DynaLayPredictor.from_env(env, policy).infer(split.inputs)
    for i in range(len(split)):
        observation, info = env.reset(options={"index": i})
        steps, ended = 0, False
        while not ended:
            infos = {key: torch.as_tensor(info[key])[None] for key in ("penalty",)}
            infos["decisions"] = torch.tensor([info["decisions"]])
            infos["action_mask"] = torch.as_tensor(info["action_mask"])[None]
            action = policy.act(torch.as_tensor(observation)[None], infos)
            observation, _, ended, _, info = env.step(int(action))
            steps += info["solver_steps"]
        assert int(found.solver_steps[i]) == steps
        assert int(found.labels[i]) == info["prediction"]
        logits = live_state(env._row).logits
        assert torch.equal(found.probabilities[i], logits.softmax(1)[0])


def test_nop_runs_the_plain_pass_and_nothing_more() -> None:
    model = copy.deepcopy(shared_model())
    predictor = DynaLayPredictor(model, PlanPolicy(()), penalty=0.25)
    images = shared_split().inputs
    with torch.no_grad():
        expected = shared_model()(images).softmax(1)

    weights = {
        name: weight.fill_(1.0) if name.endswith("recurrence.free_weight") else weight
        for name, weight in copy.deepcopy(model.state_dict()).items()
    }
    predictor.session.load_weights(weights)
    found = predictor.infer(images)
    torch.testing.assert_close(found.probabilities, expected)
    assert set(found.macs.tolist()) == {predictor.session.plain_macs}
    assert set(found.solver_steps.tolist()) == {0}


def test_only_rows_that_chose_a_layer_are_run() -> None:
    predictor = make_predictor("max-prob")
    found = predictor.infer(shared_split().inputs)
    chose = (found.actions > 0).any(1)
    assert 0 < int(chose.sum()) < len(shared_split())
    assert torch.equal(found.macs > predictor.session.plain_macs, chose)
    assert torch.equal(found.solver_steps > 0, chose)


@pytest.mark.parametrize("plan", [(1, 2, 3), (3, 1), (2, 2), (1, 3, 2), ()])
def test_a_plan_runs_what_its_answer_needs_and_no_more(
    plan: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastest, "fastest_session", TorchSession)  # can be counted
    predictor = DynaLayPredictor(shared_model(), PlanPolicy(plan), penalty=0.0)
    images = shared_split().inputs
    images = torch.cat([images, images])  # no row is ever alone, and padded
    with FlopCount() as counter:
        found = predictor.infer(images)
    assert counter.total() == 2 * int(found.macs.sum())
    path = 0
    for layer in plan:  # its bit is set, those above it are cleared
        path = path & (2 ** (layer - 1) - 1) | 1 << (layer - 1)
    with torch.no_grad():
        expected = shared_model().forward_path(images, path).softmax(1)
    torch.testing.assert_close(found.probabilities, expected)
    assert found.actions[0].tolist() == [*plan, 0, -1, -1, -1][:4]
    assert found.decisions.tolist() == [min(len(plan) + 1, 4)] * len(images)


@pytest.mark.parametrize(
    "plans",
    [
        torch.ones(25, 2, dtype=torch.int64),
        torch.ones(23, 2, dtype=torch.int64),
        torch.ones(24, dtype=torch.int64),
        torch.ones(24, 2),
        torch.full((24, 2), 4),
        torch.full((24, 2), -1),
    ],
)
def test_plans_that_do_not_fit_are_refused(plans: torch.Tensor) -> None:
    class Planner:
        macs_per_decision = 0

        def act(self, observations: Any, infos: Any) -> Any:
            raise AssertionError("it has plans")

        def plans(self, observations: Any, infos: Any) -> torch.Tensor:
            return plans

    predictor = DynaLayPredictor(shared_model(), Planner(), penalty=0.0)
    with pytest.raises(InvalidActionError):
        predictor.infer(shared_split().inputs)


class WithoutPlans:
    """The same choices, asked for one by one."""

    macs_per_decision, name = 0, "step by step"

    def __init__(self, policy: Policy) -> None:
        self.act = policy.act


@pytest.mark.parametrize("max_decisions", [1, 2, 4, 9])
@pytest.mark.parametrize(
    "policy",
    [
        PlanPolicy((2, 1, 1)),
        PlanPolicy((3, 2, 1, 3, 3)),
        PlanPolicy(()),
        PlanPolicy(np.arange(24 * 3).reshape(24, 3) % 7 % 4),
    ],
)
def test_one_sweep_answers_as_step_by_step(
    policy: PlanPolicy, max_decisions: int
) -> None:
    sweep, steps = (
        DynaLayPredictor(
            shared_model(), each, penalty=0.1, max_decisions=max_decisions
        ).infer(shared_split().inputs)
        for each in (policy, WithoutPlans(policy))
    )
    for name in ("probabilities", "labels", "decisions", "actions"):
        assert torch.equal(getattr(sweep, name), getattr(steps, name)), name
    assert (sweep.macs <= steps.macs).all()


@pytest.mark.parametrize("reads", [True, False])
def test_nothing_is_observed_for_a_plan_that_reads_nothing(reads: bool) -> None:
    seen: list[torch.Size] = []

    assert not PlanPolicy.reads_observations

    class Blind(PlanPolicy):
        reads_observations = reads

        def plans(self, observations: Any, infos: Any) -> Any:
            seen.append(observations.shape)
            return super().plans(observations, infos)

    predictor = DynaLayPredictor(shared_model(), Blind((1, 2)), penalty=0.1)
    found = predictor.infer(shared_split().inputs)
    assert seen == [(24, observation_size() if reads else 0)]
    assert set(found.decisions.tolist()) == {3}


def test_inference_mode_spoils_nothing() -> None:
    predictor, images = make_predictor("agent-net"), shared_split().inputs
    expected = predictor.infer(images)
    with torch.inference_mode():
        assert_same(predictor.infer(images), expected)
    assert_same(predictor.infer(images), expected)


def test_the_next_call_leaves_what_was_returned() -> None:
    predictor, images = make_predictor("agent-net"), shared_split().inputs
    first = predictor.infer(images)
    kept = copy.deepcopy(first)
    predictor.infer(images.flip(0))
    assert_same(first, kept)
    assert_same(pickle.loads(pickle.dumps(predictor)).infer(images), kept)


def test_a_predictor_follows_its_environments_network() -> None:
    envs = make_vec(2, checkpoint=random_model(tiny_config()))
    images = shared_split().inputs
    predictor = DynaLayPredictor.from_env(envs, PlanPolicy(ALWAYS))
    weights = random_model(tiny_config(), seed=3).state_dict()
    envs.load_weights(weights)
    other = DynaLayPredictor(
        random_model(tiny_config(), seed=3), PlanPolicy(ALWAYS), penalty=0.0
    )
    expected = other.infer(images).probabilities
    assert torch.equal(predictor.infer(images).probabilities, expected)


def test_unconverged_solves_are_reported() -> None:
    strict = make_predictor("plan", rtol=1e-9, max_steps=2)
    found = strict.infer(shared_split().inputs)
    assert not found.converged.any()
    assert make_predictor("plan").infer(shared_split().inputs).converged.all()


# --- batches --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_no_bit_depends_on_the_batch(kind: str) -> None:
    images = random_images(tiny_config(), 33, seed=7)
    whole = make_predictor(kind).infer(images)
    for size in (1, 2, 5, 16):
        assert_same(make_predictor(kind, batch_size=size).infer(images), whole)
    order = torch.randperm(33, generator=torch.Generator().manual_seed(0))
    turned = make_predictor(kind).infer(images[order])
    assert torch.equal(turned.probabilities, whole.probabilities[order])
    assert torch.equal(turned.macs, whole.macs[order])


@pytest.mark.parametrize("kind", ["agent-net", "mlp-tanh", "mlp-relu"])
def test_no_choice_depends_on_the_rows_beside_it(kind: str) -> None:
    policy, n = make_policy(kind), 1000
    seen = torch.rand(n, observation_size(), generator=torch.Generator().manual_seed(2))
    mask = torch.ones(n, NUM_ACTIONS, dtype=torch.int8)
    whole = policy.act(seen, {"action_mask": mask})
    assert len(whole.unique()) > 1
    for size in (1, 2, 3, 16, 33, 100):
        parts = zip(seen.split(size), mask.split(size), strict=True)
        found = [policy.act(rows, {"action_mask": own}) for rows, own in parts]
        assert torch.equal(torch.cat(found), whole)


def test_an_empty_batch_has_no_answers() -> None:
    found = make_predictor("mlp-tanh").infer(np.zeros((0, 1, 8, 8), np.float32))
    assert found.labels.shape == (0,)
    assert found.probabilities.shape == (0, 3)


def test_a_policy_sees_the_number_of_each_image() -> None:
    seen: list[int] = []

    class Stop:
        macs_per_decision = 5

        def act(self, observations: Any, infos: dict[str, Any]) -> Any:
            seen.extend(infos["index"].tolist())
            return torch.zeros(len(observations), dtype=torch.int64)

    predictor = DynaLayPredictor(shared_model(), Stop(), penalty=0.1, batch_size=10)
    found = predictor.infer(shared_split().inputs)
    assert seen == list(range(24))
    assert set(found.policy_macs.tolist()) == {5}
    with pytest.raises(ConfigError, match="Stop cannot be saved"):
        predictor.save("nowhere")
    assert not Path("nowhere").exists()


# --- penalty --------------------------------------------------------------------------


def test_a_higher_penalty_never_costs_more() -> None:
    images = random_images(tiny_config(), 64)
    predictor = make_predictor("max-prob")
    penalties = (0.0, 0.1, 0.2, 0.3, 0.45, 0.5, 2.0)
    macs = [predictor.infer(images, penalty=x).macs for x in penalties]
    for cheaper, dearer in zip(macs[1:], macs[:-1], strict=True):
        assert (cheaper <= dearer).all()
    assert macs[-1].sum() < macs[3].sum() < macs[1].sum()
    each = torch.tensor(penalties).repeat(10)[:64]
    mixed = predictor.infer(images, penalty=each).macs
    position = torch.arange(64) % len(penalties)
    assert torch.equal(mixed, torch.stack(macs)[position, torch.arange(64)])


def test_the_stored_penalty_is_the_default() -> None:
    predictor, images = make_predictor("max-prob", penalty=0.4), shared_split().inputs
    assert_same(predictor.infer(images), predictor.infer(images, penalty=0.4))
    assert DynaLayPredictor.from_env(make_vec(1), PlanPolicy(())).penalty == 0.25


# --- scikit-learn ---------------------------------------------------------------------


def test_the_penalty_is_shown_as_the_environment_shows_it(tmp_path: Path) -> None:
    """A network that iterates layer 1 if it is shown more than 1/2."""
    layout = make_vec(1).observation_layout
    net = torch.nn.Sequential(torch.nn.Linear(layout["remaining"].stop, 4))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.copy_(torch.tensor([0.5, 0.0, -9.0, -9.0]))
        net[0].weight[1, layout["penalty"]] = 1.0
    envs = make_vec(1, penalty_unit=0.1)
    predictor = DynaLayPredictor.from_env(envs, NetworkPolicy(net))
    predictor.save(tmp_path / "p")
    for each in (predictor, DynaLayPredictor.load(tmp_path / "p")):
        for penalty, first in ((0.09, 0), (0.11, 1)):
            found = each.infer(shared_split().inputs, penalty=penalty)
            assert (found.actions[:, 0] == first).all()
    with pytest.raises(ConfigError, match="penalty_unit"):
        DynaLayPredictor.from_env(envs, NetworkPolicy(net), penalty_unit=0.0)


def test_it_serves_as_a_fitted_classifier() -> None:
    predictor, split = make_predictor("agent-net"), shared_split()
    images, labels = split.inputs.numpy(), split.labels.numpy()
    flat = images.reshape(len(images), -1)
    found, probabilities = predictor.predict(images), predictor.predict_proba(images)
    assert is_classifier(predictor)
    assert predictor.classes_.tolist() == [0, 1, 2]
    assert found.dtype == np.int64
    assert np.array_equal(predictor.classes_[probabilities.argmax(1)], found)
    accuracy = metrics.accuracy_score(labels, found)
    assert predictor.score(images, labels) == accuracy
    assert predictor.score(split.inputs, split.labels) == accuracy
    assert metrics.get_scorer("accuracy")(predictor, flat, labels) == accuracy
    loss = metrics.log_loss(labels, probabilities)
    score = metrics.get_scorer("neg_log_loss")(predictor, flat, labels)
    assert score == pytest.approx(-loss)
    with pytest.raises(ConfigError, match=r"train_main\.py"):
        predictor.fit(images, labels)


def test_the_kind_of_the_images_comes_back() -> None:
    predictor, images = make_predictor("plan"), shared_split().inputs
    tensors, arrays = predictor.infer(images), predictor.infer(images.numpy())
    assert all(isinstance(value, torch.Tensor) for value in tensors)
    assert all(isinstance(value, np.ndarray) for value in arrays)
    assert_same(tensors, arrays)
    double = predictor.infer(images.double().requires_grad_())
    assert_same(double, tensors)
    locked = images.numpy().copy()
    locked.flags.writeable = False
    assert_same(predictor.infer(locked), arrays)
    assert_same(predictor.infer(np.asfortranarray(locked)), arrays)
    assert_same(predictor.infer(locked[::-1][::-1]), arrays)
    assert_same(predictor.infer(locked.tolist()), arrays)
    turned = predictor.infer(locked[::-1])
    assert np.array_equal(turned.labels[::-1], arrays.labels)


# --- one folder -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_with_the_same_answers(kind: str, tmp_path: Path) -> None:
    options = {"rtol": 0.05, "max_steps": 7, "max_decisions": 3, "penalty": 0.125}
    predictor = make_predictor(kind, **options)
    predictor.save(tmp_path / "new" / "predictor")
    loaded = DynaLayPredictor.load(tmp_path / "new" / "predictor", batch_size=5)
    assert loaded.penalty == 0.125
    assert loaded.policy.macs_per_decision == predictor.policy.macs_per_decision
    images = random_images(tiny_config(), 12)
    assert_same(loaded.infer(images), predictor.infer(images))


def test_any_penalty_that_it_takes_comes_back(tmp_path: Path) -> None:
    DynaLayPredictor(shared_model(), PlanPolicy(()), penalty=3e9).save(tmp_path)
    assert DynaLayPredictor.load(tmp_path).penalty == 3e9


def test_it_is_loaded_where_there_are_no_learners(tmp_path: Path) -> None:
    predictor = make_predictor("agent-net")
    predictor.save(tmp_path)
    images = random_images(tiny_config(), 6)
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import sys, json, torch\n"
        "blocked = ('agents', 'stable_baselines3', 'sb3_contrib', 'tyro')\n"
        "for name in blocked: sys.modules[name] = None\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from dynalay_gym.predictor.predictor import DynaLayPredictor\n"
        f"predictor = DynaLayPredictor.load({str(tmp_path)!r})\n"
        f"images = torch.load({str(tmp_path / 'images.pt')!r}, weights_only=True)\n"
        "print(json.dumps(predictor.infer(images).macs.tolist()))"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == predictor.infer(images).macs.tolist()


def test_what_it_carries_is_a_snapshot() -> None:
    net = restless(AgentNet(observation_size(), NUM_ACTIONS))
    predictor = DynaLayPredictor(shared_model(), NetworkPolicy(net), penalty=0.1)
    images = shared_split().inputs
    before = predictor.infer(images)
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
    assert_same(predictor.infer(images), before)
    assert all(weight.requires_grad for weight in net.parameters())


# --- errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 1, 8, 9), np.float32), r"\[n, 1, 8, 8\].*\[2, 1, 8, 9\]"),
        (np.zeros((1, 8, 8), np.float32), "shape"),
        (np.zeros((2, 65), np.float32), "shape"),
        (np.float32(1.0), "shape"),
        (np.zeros((2, 1, 8, 8), np.uint8), "floats, normalised"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int64), "floats, normalised"),
        ("a picture", "array of numbers"),
        ([[None]], "array of numbers"),
    ],
)
def test_wrong_images_are_refused(images: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        blank().predict(images)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_unsound_pixels_are_refused(bad: float) -> None:
    images = shared_split().inputs.clone()
    images[3, 0, 2, 1] = bad
    with pytest.raises(DataError, match="NaN or infinite"):
        blank().predict(images)


def test_numbers_too_large_for_the_network_are_refused() -> None:
    images = shared_split().inputs.clone()
    images[3] = 3e38
    with pytest.raises(DataError, match=r"not finite.*too large"):
        blank().predict_proba(images)
    with pytest.raises(DataError, match="NaN or infinite"):
        blank().predict(images.double() * 1e9)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f8", "f2"])
def test_any_byte_order_will_do(dtype: str) -> None:
    predictor, images = make_predictor("plan"), shared_split().inputs.numpy()
    images = images.astype("f2").astype("f4")
    penalty = np.linspace(0, 1, 24)
    expected = predictor.infer(images, penalty=penalty)
    given = images.astype(dtype), penalty.astype(dtype)
    assert_same(predictor.infer(given[0], penalty=given[1]), expected)


@pytest.mark.parametrize(
    "penalty",
    [np.zeros(25), np.zeros((24, 1)), np.full(24, -1.0), np.full(24, "much"), 1e300],
)
def test_a_wrong_penalty_is_not_printed_whole(penalty: Any) -> None:
    with pytest.raises(ConfigError, match="penalty must be") as caught:
        blank().predict(shared_split().inputs, penalty=penalty)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("penalty", [-0.1, float("nan"), "much", [0.1, 0.2], None])
def test_wrong_penalties_are_refused(penalty: Any) -> None:
    if penalty is not None:
        with pytest.raises(ConfigError, match="penalty"):
            blank().predict(shared_split().inputs, penalty=penalty)
    with pytest.raises(ConfigError, match="penalty"):
        DynaLayPredictor(shared_model(), PlanPolicy(()), penalty=penalty)


def test_wrong_labels_are_refused() -> None:
    with pytest.raises(ConfigError, match="one per input"):
        blank().score(shared_split().inputs, [0, 1])
    with pytest.raises(ConfigError, match="one per input"):
        blank().score(shared_split().inputs, np.zeros((24, 2)))


def test_labels_may_be_a_column() -> None:
    predictor, split = make_predictor("plan"), shared_split()
    expected = predictor.score(split.inputs, split.labels)
    assert predictor.score(split.inputs, split.labels[:, None]) == expected
    assert 0 < expected < 1


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"max_decisions": 0}, {"rtol": 0.0}]
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make_predictor("plan", **options)


def test_policies_that_do_not_fit_are_refused() -> None:
    size = observation_size()
    for policy in (
        NetworkPolicy(AgentNet(size + 1, NUM_ACTIONS)),
        NetworkPolicy(perceptron(nn.Tanh, size, 4, NUM_ACTIONS + 1)),
        PlanPolicy((1, 4)),
        PlanPolicy((-1,)),
        MaxProbPolicy(size, ALWAYS, [0.5]),
        MaxProbPolicy(0, (9,), [0.5]),
    ):
        with pytest.raises(ConfigError):
            DynaLayPredictor(shared_model(), policy, penalty=0.1)


@pytest.mark.parametrize("actions", [[4] * 24, [-1] * 24, [0.5] * 24, [0] * 23])
def test_impossible_actions_are_refused(actions: list[float]) -> None:
    class Wrong:
        macs_per_decision = 0

        def act(self, observations: Any, infos: dict[str, Any]) -> Any:
            return torch.tensor(actions)

    with pytest.raises(InvalidActionError):
        DynaLayPredictor(shared_model(), Wrong(), penalty=0.1).predict(
            shared_split().inputs
        )


@pytest.mark.parametrize(("threshold", "num_decisions"), [(np.inf, 4), (-np.inf, 1)])
def test_a_threshold_without_bound_is_kept(
    threshold: float, num_decisions: int, tmp_path: Path
) -> None:
    rule = MaxProbPolicy(column(), ALWAYS, [threshold])
    DynaLayPredictor(shared_model(), rule, penalty=0.1).save(tmp_path)
    found = DynaLayPredictor.load(tmp_path).infer(shared_split().inputs)
    assert set(found.decisions.tolist()) == {num_decisions}


def test_impossible_policies_are_refused() -> None:
    with pytest.raises(ConfigError, match="one threshold per penalty"):
        MaxProbPolicy(0, ALWAYS, [0.5, 0.4])
    with pytest.raises(ConfigError, match="rising"):
        MaxProbPolicy(0, ALWAYS, [0.4, 0.5], [0.1, 0.2])
    with pytest.raises(ConfigError, match="rising"):
        MaxProbPolicy(0, ALWAYS, [0.5, 0.4], [0.2, 0.1])
    for points in ([np.nan], [0.0]), ([0.5], [np.inf]):
        with pytest.raises(ConfigError, match="finite"):
            MaxProbPolicy(0, ALWAYS, *points)
    linear = nn.Linear(3, 2)
    for net in (
        nn.Sequential(linear, nn.GELU(), nn.Linear(2, 2)),
        nn.Sequential(linear, nn.Tanh(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)),
        nn.Sequential(linear, nn.Tanh()),
        nn.Sequential(),
        linear,
    ):
        with pytest.raises(ConfigError, match="tanh or ReLU"):
            NetworkPolicy(net)


def network_options(**changes: Any) -> dict[str, Any]:
    options = {"config": tiny_config().to_dict(), "rtol": 0.1, "max_steps": 20}
    return {"kind": "main-network", "options": options | changes}


SIZES = {"observation_size": 3, "num_actions": 4, "hidden": [8, 6]}


@pytest.mark.parametrize(
    "changes",
    [
        {"network": network_options(config=tiny_config(channels=(2, 3, 5)).to_dict())},
        {"network": network_options(config={})},
        {"network": network_options(rtol="tight")},
        {"network": network_options(rtol=0.0)},
        {"network": {"kind": "other", "options": {}}},
        {"network": None},
        {"policy": {"kind": "oracle", "options": {}}},
        {"policy": {"kind": "plan", "options": {"plan": [7]}}},
        {"policy": {"kind": "plan", "options": {"colour": "red"}}},
        {"policy": {"kind": "agent-net", "options": SIZES}},
        {"policy": None},
        {"penalty": -1.0},
        {"max_decisions": 0},
        {"penalty_unit": -1.0},
        {"colour": "red"},
        {"policy": {"kind": "agent-net", "options": SIZES | {"hidden": [10**9]}}},
        {"policy": {"kind": "agent-net", "options": SIZES | {"hidden": ["8"]}}},
        {"policy": {"kind": "plan", "options": {"plan": [1.0]}}},
        {"policy": {"kind": "plan", "options": {"plan": ["1"]}}},
        {"policy": {"kind": "plan", "options": {"plan": [1] * 10_001}}},
        {"policy": {"kind": "plan", "options": {"plan": [[1] * 10_001]}}},
        {"network": network_options(max_steps=10**18)},
        {"network": network_options(max_steps=True)},
        {"network": network_options(max_steps=[20])},
        {"network": network_options(max_steps=[0] * 100_000)},
        {"max_decisions": 10**18},
        {"penalty": 1e300},
    ],
)
def test_a_folder_that_does_not_fit_is_refused(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    make_predictor("agent-net").save(tmp_path)
    edit_manifest(tmp_path, changes)
    with pytest.raises(CheckpointError) as caught:
        DynaLayPredictor.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        DynaLayPredictor.load(tmp_path)
    save_network(tmp_path, shared_model(), {})
    with pytest.raises(CheckpointError, match=r"main-network.*not 'predictor'"):
        DynaLayPredictor.load(tmp_path)


def test_diverged_weights_are_not_saved(tmp_path: Path) -> None:
    model: MainNetwork = random_model(tiny_config())
    with torch.no_grad():
        model.head_bias[0] = torch.nan
    predictor = DynaLayPredictor(model, PlanPolicy(()), penalty=0.1)
    with pytest.raises(DivergedError, match="not finite"):
        predictor.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_environment_over_a_table_gives_the_same_predictor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path))
    live, table = (
        DynaLayPredictor.from_env(
            make_vec(2, transitions=kind), make_policy("mlp-relu")
        )
        for kind in ("live", "table")
    )
    images = shared_split().inputs
    assert_same(table.infer(images), live.infer(images))


def test_an_environment_of_ones_own_images_gives_its_predictor() -> None:
    images = random_images(tiny_config("state"), 9)
    envs = make_vec(3, "state", split=own_split(images), penalty="0.1:0.3")
    predictor = DynaLayPredictor.from_env(envs, PlanPolicy(ALWAYS), batch_size=4)
    with torch.no_grad():
        expected = shared_model("state").forward_path(images, 7)
    assert torch.equal(predictor.predict(images), expected.argmax(1))
    assert predictor.penalty == pytest.approx(0.1)
