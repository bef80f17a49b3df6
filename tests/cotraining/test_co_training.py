"""The main network's turns: who learns, from what, and that equal seeds are equal."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import random_model, random_split, tiny_config, tiny_kwargs
from torch import Tensor, nn

from agents.exact.agent import ExactAgent
from agents.exact.config import ExactConfig
from agents.policy_gradient.agent import PolicyGradientAgent
from agents.policy_gradient.config import PolicyGradientConfig
from dynalay_gym.cotraining.collect import collect_states
from dynalay_gym.cotraining.config import CoTrainingConfig
from dynalay_gym.cotraining.env_wrapper import CoTrainingEnv
from dynalay_gym.cotraining.trainer import CoTrainer
from dynalay_gym.envs.oracle import DecisionTree
from dynalay_gym.envs.vector_env import DynaLayVectorEnv
from dynalay_gym.errors import CheckpointError, ConfigError, DivergedError

CONFIG = CoTrainingConfig(
    update_ratio=1.0, batch_size=8, replay_share=0.25, replay_size=16
)
AGENT = PolicyGradientConfig(num_steps=4, hidden=(8,))
EXACT = ExactConfig(batch_size=12, hidden=(8,), learning_rate=1e-2)
PASS = 24 * 15  # samples, and nodes of three layers and four decisions


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are kept in a folder of the test's own."""
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path))


class Plan:
    """Chooses the layers of one plan, then NOP; all rows alike."""

    def __init__(self, *layers: int) -> None:
        self.layers = layers

    def act(self, observations: Tensor, infos: Any) -> Tensor:
        plan = torch.tensor([*self.layers, *[0] * 10])
        return plan[infos["decisions"]]


def make_envs(**options: Any) -> DynaLayVectorEnv:
    model = random_model(tiny_config(), seed=1)
    return DynaLayVectorEnv(
        8, **tiny_kwargs(checkpoint=model, output="torch", **options)
    )


def make_trainer(
    envs: DynaLayVectorEnv, config: CoTrainingConfig = CONFIG, seed: int = 0
) -> CoTrainer:
    split = random_split(tiny_config(), 40, seed=2)
    return CoTrainer(envs.problem, split, config, seed=seed)


def flat(module: nn.Module) -> Tensor:
    return torch.cat([value.flatten() for value in module.state_dict().values()])


def joint(
    config: CoTrainingConfig | None = CONFIG, seed: int = 0, steps: int = 256
) -> tuple[CoTrainingEnv, PolicyGradientAgent]:
    envs = make_envs()
    trainer = None if config is None else make_trainer(envs, config, seed)
    co_envs = CoTrainingEnv(envs, trainer, every=4, start=64, total=steps)
    agent = PolicyGradientAgent(co_envs, AGENT, seed=seed)
    co_envs.policy = agent.policy
    agent.learn(steps)
    return co_envs, agent


def collect(
    trainer: CoTrainer, policy: Any, index: Tensor, epsilon: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """States, returns and multiply-adds of a policy on samples of the main split."""
    generator = torch.Generator().manual_seed(0)
    states, *rest = collect_states(trainer.problem, policy, index, epsilon, generator)
    returns, macs = map(torch.from_numpy, rest)
    return states, returns, macs


def test_samples_end_where_the_policy_leaves_them() -> None:
    envs = make_envs()
    trainer = make_trainer(envs)
    states, _, found = collect(trainer, Plan(1, 3), torch.arange(6))
    assert states.tolist() == [0b101] * 6
    # The same decisions through the environment's own door cost the same.
    other = DynaLayVectorEnv(
        6,
        **tiny_kwargs(
            checkpoint=envs.problem.session.network,
            split=random_split(tiny_config(), 40, seed=2),
            autoreset_mode="Disabled",
        ),
    )
    _, infos = other.reset(seed=0, options={"index": np.arange(6)})
    macs = infos["macs"].copy()
    for action in (1, 3, 0):
        infos = other.step([action] * 6)[4]
        macs += infos["macs"]
    assert found.tolist() == macs.tolist()


def test_samples_are_paid_by_the_cost_unit_of_the_agents_problem() -> None:
    envs = make_envs()
    trainer = make_trainer(envs)
    index = torch.arange(6)
    _, returns, macs = collect(trainer, Plan(2), index)
    extra = (macs - envs.plain_macs).double() / envs.always_extra_macs
    problem, session = trainer.problem, trainer.problem.session
    state = session.begin(problem.inputs[index])
    session.apply(state, index, torch.full_like(index, 2))
    right = session.logits(state, index).argmax(1) == problem.labels[index]
    expected = envs.alpha * right.double() - 0.25 * extra
    torch.testing.assert_close(returns.double(), expected, rtol=1e-5, atol=1e-6)


def test_exploration_takes_useful_actions_only() -> None:
    trainer = make_trainer(make_envs())
    index = torch.arange(40)
    states, *_ = collect(trainer, Plan(), index)
    assert states.tolist() == [0] * 40
    states, *_ = collect(trainer, Plan(), index, epsilon=1.0)
    assert len(set(states.tolist())) > 4


def test_updates_are_due_by_the_ratio() -> None:
    config = replace(CONFIG, update_ratio=0.5)  # a batch of 8 per 16 decisions
    trainer = make_trainer(make_envs(), config)
    taken: list[int] = []
    for decisions in (8, 16, 24, 64):
        before = trainer.steps
        metrics = trainer.turn(Plan(1), decisions)
        taken.append(trainer.steps - before)
        assert (metrics is None) == (taken[-1] == 0)
    assert taken == [0, 1, 0, 3]


def test_layers_that_nobody_chose_do_not_move() -> None:
    config = replace(CONFIG, keep_share=0.0, epsilon_start=0.0, weight_decay=0.1)
    trainer = make_trainer(make_envs(), config)
    trainer.turn(Plan(1, 2, 3), 8)  # gives every layer momentum
    before = copy.deepcopy(trainer.network.state_dict())
    # What was visited before must not come back by replay.
    trainer.config = replace(config, replay_share=0.0)
    trainer.turn(Plan(2), 16)
    moved = {
        name.split(".")[1] if name.startswith("layers") else name
        for name, value in trainer.network.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved == {"1", "head", "head_bias", "head_norm.weight", "head_norm.bias"}
    rows = (trainer.network.head_norm.weight != before["head_norm.weight"]).any(1)
    assert rows.nonzero().flatten().tolist() == [0b010]


def test_kept_states_move_the_statistics_and_every_layer() -> None:
    trainer = make_trainer(make_envs(), replace(CONFIG, epsilon_start=0.0))
    before = copy.deepcopy(trainer.network.state_dict())
    trainer.turn(Plan(), 8)
    after = trainer.network.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert {"layers.0.weight_in", "layers.2.recurrence.free_weight"} <= moved
    assert {"layers.0.norm.running_mean", "head_norm.running_var"} <= moved


def test_neither_side_gets_a_gradient_from_the_other() -> None:
    envs = make_envs()
    trainer = make_trainer(envs)
    co_envs = CoTrainingEnv(envs, trainer, every=4, total=64)
    agent = PolicyGradientAgent(co_envs, AGENT)
    co_envs.policy = agent.policy
    trainer.turn(agent.policy, 8)
    assert all(one.grad is None for one in agent.net.parameters())
    for one in trainer.network.parameters():
        one.grad = None
    co_envs.trainer = None  # leave the agent alone with its update
    agent.learn(32)
    assert any(one.grad is not None for one in agent.net.parameters())
    assert all(one.grad is None for one in trainer.network.parameters())
    seen = envs.problem.session.network
    assert not any(one.requires_grad for one in seen.parameters())
    assert all(one.grad is None for one in seen.parameters())


def test_the_loss_depends_on_no_weight_of_the_agent_and_the_reverse() -> None:
    """Not only unused: autograd finds no way from one to the other."""
    envs = make_envs()
    trainer = make_trainer(envs)
    agent = PolicyGradientAgent(envs, AGENT)
    index = torch.arange(8)
    states, *_ = collect(trainer, agent.policy, index)
    loss = trainer._chosen_loss(index, states)
    theirs = list(agent.net.parameters())
    grads = torch.autograd.grad(loss, theirs, allow_unused=True, retain_graph=True)
    assert all(grad is None for grad in grads)
    assert any(
        grad is not None
        for grad in torch.autograd.grad(
            loss, list(trainer.network.parameters()), allow_unused=True
        )
    )
    observations, _ = envs.reset(seed=0)
    score = agent.net(observations).sum()
    main = list(trainer.network.parameters())
    assert not observations.requires_grad
    assert all(g is None for g in torch.autograd.grad(score, main, allow_unused=True))


def test_equal_seeds_are_bit_equal_and_others_are_not() -> None:
    (one, agent), (two, twin), (other, _) = joint(), joint(), joint(seed=1)
    assert one.trainer and two.trainer and other.trainer
    assert one.trainer.steps == two.trainer.steps > 10
    assert torch.equal(flat(one.trainer.network), flat(two.trainer.network))
    assert torch.equal(flat(agent.net), flat(twin.net))
    assert not torch.equal(flat(one.trainer.network), flat(other.trainer.network))


def test_a_frozen_run_is_the_plain_environments_run() -> None:
    _, agent = joint(config=None)
    plain = PolicyGradientAgent(make_envs(), AGENT, seed=0)
    plain.learn(256)
    assert torch.equal(flat(agent.net), flat(plain.net))
    _, learned = joint()
    assert not torch.equal(flat(learned.net), flat(plain.net))


def test_the_warm_up_is_the_plain_environments_run() -> None:
    """Until the first turn nothing differs; then the weights do."""
    _, agent = joint(steps=64)
    plain = PolicyGradientAgent(make_envs(), AGENT, seed=0)
    plain.learn(64)
    assert torch.equal(flat(agent.net), flat(plain.net))


def test_the_agent_sees_the_new_weights_at_once() -> None:
    envs = make_envs()
    co_envs = CoTrainingEnv(envs, make_trainer(envs), every=2, total=64)
    co_envs.policy = Plan(1)
    co_envs.reset(seed=0)
    turns: list[int] = []
    co_envs.on_turn = lambda metrics, decisions: turns.append(decisions)
    assert co_envs.trainer is not None
    for _ in range(4):
        seen, *_, infos = co_envs.step(torch.full((8,), 1))
        assert torch.equal(seen, envs._observations())
        learned = flat(co_envs.trainer.network)
        acting = flat(envs.problem.session.network)
        assert torch.equal(acting, learned)
        assert "final_obs" in infos
    assert turns == [16, 32]


def test_followers_get_the_weights_too() -> None:
    envs, follower = make_envs(), make_envs(autoreset_mode="Disabled")
    trainer = make_trainer(envs)
    co_envs = CoTrainingEnv(envs, trainer, every=1, followers=[follower])
    co_envs.policy = Plan(1)
    co_envs.reset(seed=0)
    co_envs.step(torch.full((8,), 0))
    assert torch.equal(
        flat(follower.problem.session.network),
        flat(trainer.network),
    )


def test_phases_compute_the_next_table(cache: None) -> None:
    envs = make_envs(transitions="table")
    co_envs = CoTrainingEnv(envs, make_trainer(envs), every=1)
    co_envs.policy = Plan(1)
    first = envs.problem.table
    assert not co_envs.advance(4)  # half a batch: nothing is due
    assert envs.problem.table is first
    assert co_envs.advance(4)
    assert first is not None and envs.problem.table is not None
    assert not torch.equal(first.features, envs.problem.table.features)


def test_a_long_phase_has_turns_as_long_as_a_rollouts() -> None:
    envs = make_envs()
    co_envs = CoTrainingEnv(envs, make_trainer(envs), every=2, start=24)
    co_envs.policy = Plan(1)
    turns: list[tuple[float, int]] = []
    co_envs.on_turn = lambda metrics, now: turns.append((metrics["main/steps"], now))
    assert not co_envs.advance(20)  # still the agent's warm-up
    assert co_envs.advance(40)
    # Two steps of eight rows at a time, one optimiser step per eight decisions.
    assert turns == [(1, 36), (3, 52), (4, 60)]
    assert co_envs.decisions == 60


def exact_pair(trained: bool = True) -> tuple[CoTrainingEnv, ExactAgent]:
    """An exact learner whose first pass is its warm-up, and about 4 steps a pass."""
    envs = make_envs(transitions="table")
    trainer = make_trainer(envs, replace(CONFIG, update_ratio=0.1)) if trained else None
    co_envs = CoTrainingEnv(envs, trainer, every=5, start=PASS, total=4 * PASS)
    agent = ExactAgent(co_envs, EXACT, seed=3)
    co_envs.policy = agent.policy
    return co_envs, agent


def plain_exact(passes: int) -> Tensor:
    """Weights of exact learning on the environment alone, after some of 4 passes."""
    agent = ExactAgent(make_envs(transitions="table"), EXACT, seed=3)
    found: list[Tensor] = []
    agent.learn(4 * PASS, on_progress=lambda taken: found.append(flat(agent.net)))
    return found[passes - 1]


def test_exact_learning_and_the_network_take_turns(cache: None) -> None:
    co_envs, agent = exact_pair()
    assert agent.tree.nodes.num_nodes * agent.tree.num_samples == PASS
    trainer = co_envs.trainer
    assert trainer is not None
    begun = flat(trainer.network)
    steps: list[int] = []
    weights: list[Tensor] = []

    def on_progress(taken: int) -> None:
        steps.append(trainer.steps)
        weights.append(flat(agent.net))

    agent.learn(4 * PASS, on_progress=on_progress)
    # A tenth of 360 samples a pass, in batches of 8: 4.5 steps.
    assert steps == [0, 4, 9, 13]
    assert not torch.equal(flat(trainer.network), begun)
    assert torch.equal(weights[1], plain_exact(2)), "until the table has changed"
    assert not torch.equal(weights[2], plain_exact(3))


def test_a_frozen_exact_run_is_the_plain_run(cache: None) -> None:
    co_envs, agent = exact_pair(trained=False)
    tree = agent.tree
    agent.learn(4 * PASS)
    assert torch.equal(flat(agent.net), plain_exact(4))
    assert agent.tree is tree
    assert co_envs.decisions == 4 * PASS


def test_the_tree_is_that_of_the_new_weights(cache: None) -> None:
    co_envs, agent = exact_pair()
    samples, penalty = torch.arange(24), torch.full((24,), 0.25)
    seen = agent.tree.observations(samples, penalty)
    paid = agent.tree.rewards(samples, penalty)
    agent.learn(4 * PASS)
    assert co_envs.trainer is not None
    fresh = DynaLayVectorEnv(
        1,
        **tiny_kwargs(
            checkpoint=copy.deepcopy(co_envs.trainer.network), transitions="table"
        ),
    )
    unit = co_envs.unwrapped.problem.cost_unit
    assert fresh.problem.table is not None
    same = DecisionTree(replace(fresh.problem, cost_unit=unit), fresh.problem.table)
    for now, expected, before in (
        (agent.tree.observations, same.observations, seen),
        (agent.tree.rewards, same.rewards, paid),
    ):
        assert torch.equal(now(samples, penalty), expected(samples, penalty))
        assert not torch.equal(now(samples, penalty), before)


def test_exact_learning_goes_on_to_the_bit(cache: None) -> None:
    whole_envs, whole = exact_pair()
    kept: list[tuple[Any, ...]] = []

    def keep(taken: int) -> None:
        if taken == 2 * PASS:
            assert whole_envs.trainer is not None
            state = whole_envs.trainer.training_state(), whole.training_state()
            kept.append((*copy.deepcopy(state), whole_envs.decisions))

    whole.learn(4 * PASS, on_progress=keep)
    main, learner, decisions = kept[0]
    envs, rest = exact_pair()
    assert envs.trainer is not None and whole_envs.trainer is not None
    envs.trainer.load_training_state(main)
    envs.resume(decisions)
    rest.load_training_state(learner, None, {})
    taken: list[int] = []
    rest.learn(4 * PASS, on_progress=taken.append)
    assert taken == [3 * PASS, 4 * PASS]
    assert torch.equal(flat(rest.net), flat(whole.net))
    assert torch.equal(flat(envs.trainer.network), flat(whole_envs.trainer.network))


def test_state_goes_on_to_the_bit() -> None:
    whole, half = (make_trainer(make_envs()) for _ in range(2))
    for decisions in (12, 24, 36, 48):
        whole.turn(Plan(2), decisions)
    for decisions in (12, 24):
        half.turn(Plan(2), decisions)
    tensors = half.training_state()
    rest = make_trainer(make_envs())
    rest.load_training_state({k: v.clone() for k, v in tensors.items()})
    for decisions in (36, 48):
        rest.turn(Plan(2), decisions)
    assert torch.equal(flat(rest.network), flat(whole.network))
    assert rest.steps == whole.steps == 6


def test_divergence_takes_no_step() -> None:
    trainer = make_trainer(make_envs())
    with torch.no_grad():
        trainer.network.head.fill_(torch.nan)
    before = trainer.network.state_dict()["layers.0.weight_in"].clone()
    with pytest.raises(DivergedError, match=r"--co\.learning-rate"):
        trainer.turn(Plan(1), 8)
    assert torch.equal(trainer.network.state_dict()["layers.0.weight_in"], before)


def test_bf16_stays_close() -> None:
    """Half precision moves the loss by about its rounding, 2^-8."""
    trainers = [
        make_trainer(make_envs(), replace(CONFIG, precision=precision))
        for precision in ("fp32", "bf16")
    ]
    exact, half = (one.turn(Plan(1, 2, 3), 8) for one in trainers)
    assert exact is not None and half is not None
    assert half["main/loss"] == pytest.approx(exact["main/loss"], rel=0.02)
    assert half["main/loss"] != exact["main/loss"]


def test_replay_keeps_the_newest() -> None:
    """Of each batch of 8, 2 are recent ones as soon as there are any."""
    config = replace(CONFIG, replay_size=16, epsilon_start=0.0, epsilon_end=0.0)
    trainer = make_trainer(make_envs(), config)
    batches: list[Tensor] = []
    step = trainer._step
    trainer._step = lambda *batch: (  # type: ignore[method-assign]
        batches.append(torch.stack(batch, 1)) or step(*batch)
    )
    trainer.turn(Plan(1), 16)
    assert (torch.cat(batches)[:, 1] == 0b001).all(), "nothing to replay at first"
    assert torch.equal(trainer.training_state()["recent"], torch.cat(batches))
    trainer.turn(Plan(2), 24)
    new, old = batches[-1].split([6, 2])
    assert new[:, 1].tolist() == [0b010] * 6
    assert old[:, 1].tolist() == [0b001] * 2
    seen = {tuple(pair) for pair in torch.cat(batches[:2]).tolist()}
    assert {tuple(pair) for pair in old.tolist()} <= seen
    recent = trainer.training_state()["recent"]
    assert torch.equal(recent, torch.cat([torch.cat(batches[:2])[6:], new]))


@pytest.mark.parametrize(
    ("bad", "flag"),
    [
        ({"update_ratio": 0.0}, "--co.update-ratio"),
        ({"learning_rate": -1.0}, "--co.learning-rate"),
        ({"keep_share": 1.5}, "--co.keep-share"),
        ({"replay_share": 1.0}, "--co.replay-share"),
        ({"epsilon_end": -0.1}, "--co.epsilon-end"),
        ({"loss_lambda": float("nan")}, "--co.loss-lambda"),
        ({"batch_size": 1}, "--co.batch-size"),
        ({"every": 0}, "--co.every"),
        ({"main_epochs": -1}, "--co.main-epochs"),
        ({"agent_steps": -1}, "--co.agent-steps"),
        ({"validations": 0}, "--co.validations"),
        ({"replay_size": 0}, "--co.replay-size"),
    ],
)
def test_bad_options_name_their_flag(bad: dict[str, Any], flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        CoTrainingConfig(**bad)


def test_a_batch_larger_than_the_split_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--co\.batch-size"):
        make_trainer(make_envs(), replace(CONFIG, batch_size=41))


def test_a_session_of_another_network_is_refused_by_name() -> None:
    envs = make_envs()

    class OtherSession:
        """Runs no main network."""

    problem = replace(envs.problem, session=OtherSession())
    split = random_split(tiny_config(), 40, seed=2)
    with pytest.raises(ConfigError, match=r"MainNetwork.*OtherSession"):
        CoTrainer(problem, split, CONFIG, seed=0)


def test_schedules_are_linear_and_the_step_size_falls_to_a_tenth() -> None:
    config = replace(CONFIG, learning_rate=2e-3, epsilon_start=0.3, epsilon_end=0.1)
    trainer = make_trainer(make_envs(), config)
    for turn, (share, rate, epsilon) in enumerate(
        ((0.0, 2e-3, 0.3), (0.5, 1.1e-3, 0.2), (1.0, 2e-4, 0.1)), start=1
    ):
        metrics = trainer.turn(Plan(1), 8 * turn, share)
        assert metrics is not None
        assert metrics["main/learning_rate"] == pytest.approx(rate)
        assert metrics["main/epsilon"] == pytest.approx(epsilon)
        (group,) = trainer._optimizer.param_groups
        assert group["lr"] == metrics["main/learning_rate"]


@pytest.mark.parametrize(
    "changed",
    [
        {"recent": None},
        {"recent": torch.zeros(3, dtype=torch.int64)},
        {"recent": torch.zeros(3, 2)},
        {"recent": torch.tensor([[10**6, 0]])},
        {"recent": torch.tensor([[0, 8]])},
        {"recent": torch.tensor([[-1, 0]])},
        {"steps": None},
        {"steps": torch.tensor(-1)},
        {"steps": torch.tensor([1, 2])},
        {"steps": torch.tensor(1.0)},
    ],
    ids=str,
)
def test_a_saved_side_that_is_none_is_refused(changed: dict[str, Any]) -> None:
    trainer = make_trainer(make_envs())
    state = trainer.training_state() | changed
    with pytest.raises(CheckpointError, match="the saved training"):
        trainer.load_training_state({k: v for k, v in state.items() if v is not None})
