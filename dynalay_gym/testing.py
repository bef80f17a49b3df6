"""A checker for natively batched environments, of this package or of anybody's.

Axes: N rows (sub-environments).
"""

from collections.abc import Callable

from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from dynalay_gym.utils.rollout_recorder import Event, Recorder, require

MakeEnv = Callable[[int, str], VectorEnv]


def check_vector_env(
    make_env: MakeEnv,
    *,
    num_envs: int = 3,
    num_steps: int = 40,
    seed: int = 0,
    bad_actions: bool = True,
) -> None:
    """Check a batched environment against the contract of ``VectorEnv``.

    Checked: spaces, shapes and dtypes; observations inside the declared space; equal
    seeds give equal rollouts; row i of a batch seeded s equals, to the bit, a batch of
    one seeded s + i, over autoresets; the three autoreset modes and ``reset_mask``
    agree; what was returned is never changed later, and changing it changes nothing;
    actions that cannot be meant are refused and leave the state as it was.

    Args:
        make_env: ``make_env(num_envs, autoreset_mode)`` with the value name of
            Gymnasium's ``AutoresetMode`` (``SameStep``, ``NextStep``, ``Disabled``).
            Anything that depends on the order of episodes across rows fails.
        num_envs: Rows of the batch, >= 2.
        num_steps: Steps per rollout; take enough for several episodes.
        seed: Seed of row 0, and of the random actions.
        bad_actions: Whether to try actions that must be refused. Gymnasium's own
            ``SyncVectorEnv`` passes all but this: it resets and steps rows before it
            meets the bad action.

    Raises:
        AssertionError: naming the first rule that is broken.
    """
    require(num_envs >= 2, "num_envs must be at least 2 to compare a batch with a row")
    traces = {}
    for mode in AutoresetMode:
        env = make_env(num_envs, mode.value)
        _check_spaces(env, num_envs, mode)
        reference = Recorder(env, seed, num_steps).run()
        ends = sum(event.terminated is None for trace in reference for event in trace)
        require(ends > num_envs, f"{mode}: no episode ended; raise num_steps")
        again = Recorder(env, seed, num_steps).run()
        _compare(again, reference, f"{mode}: a second rollout of the same seed")
        again = Recorder(env, seed, num_steps, scribble=True).run()
        _compare(again, reference, f"{mode}: a rollout whose results are overwritten")
        if bad_actions:
            again = Recorder(env, seed, num_steps, provoke=True).run()
            what = f"{mode}: a rollout with refused actions in between"
            _compare(again, reference, what)
        env.close()
        alone = make_env(1, mode.value)
        for row in range(num_envs):
            single = Recorder(alone, seed + row, num_steps).run()
            _compare(single, reference[row : row + 1], f"{mode}: row {row} alone")
        alone.close()
        traces[mode] = reference
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED):
        _compare(traces[mode], traces[AutoresetMode.SAME_STEP], f"{mode} and SAME_STEP")


def _check_spaces(env: VectorEnv, num_envs: int, mode: AutoresetMode) -> None:
    declared = env.metadata.get("autoreset_mode")
    require(declared is mode, f"metadata['autoreset_mode'] is {declared}, not {mode}")
    require(env.num_envs == num_envs, f"num_envs is {env.num_envs}, not {num_envs}")
    for name in ("observation_space", "action_space"):
        batched = batch_space(getattr(env, f"single_{name}"), num_envs)
        same = getattr(env, name) == batched
        require(same, f"{name} is not single_{name} batched {num_envs} times")


def _compare(traces: list[list[Event]], others: list[list[Event]], what: str) -> None:
    for row, (trace, other) in enumerate(zip(traces, others, strict=True)):
        for i, (event, expected) in enumerate(zip(trace, other, strict=False)):
            for field, a, b in zip(Event._fields, event, expected, strict=True):
                same = data_equivalence(a, b, exact=True)
                require(same, f"{what}: {field} of event {i}, row {row}: {a} != {b}")
