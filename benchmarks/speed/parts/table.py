"""The transition table, beside the live environment and CartPole.

Full observations, dense ``final_obs`` and infos, autoreset in the same step (CartPole:
its own way, the step after). EnvPool's CartPole is measured too where it is installed.
"""

from typing import Any

import gymnasium as gym

from benchmarks.report import Table, spread
from benchmarks.speed.common import (
    Clock,
    Options,
    empty_cache,
    play_rounds,
    ratio,
    stepper,
)
from dynalay_gym.envs.vector_env import DynaLayVectorEnv

NAMES = {
    "table": "table",
    "live": "live",
    "cartpole": "Gymnasium CartPole",
    "envpool": "EnvPool CartPole",
}


def measure(options: Options) -> list[Table]:
    """Measure the table of the digits."""
    clock = Clock("cpu")  # a table lives in main memory
    with empty_cache():
        built, found = (clock.time(lambda: make_table_env(1)) for _ in range(2))
        rows = [measure_rows(num, options, clock) for num in options.rows]
    known = {name: label for name, label in NAMES.items() if name in rows[0]}
    columns = {"rows": ("rows", "")}
    columns |= {label: (name, ",.0f") for name, label in known.items()}
    columns |= {f"table ÷ {NAMES[n]}": (f"over_{n}", ".2f") for n in list(known)[1:]}
    notes = (
        f"sample-steps/s of random actions on the digits; {options.notes}; made in "
        f"{built:.2f} s, found in the cache in {found:.2f} s"
    )
    return [Table("Transition table", notes, columns, rows)]


def make_table_env(num_rows: int) -> DynaLayVectorEnv:
    """Return an environment over the digits' table."""
    return DynaLayVectorEnv(num_rows, transitions="table", device="cpu")


def measure_rows(num: int, options: Options, clock: Clock) -> dict[str, Any]:
    """Measure all variants at one number of rows."""
    envs = {
        "table": make_table_env(num),
        "live": DynaLayVectorEnv(num, device="cpu"),
        "cartpole": gym.make_vec("CartPole-v1", num, "vector_entry_point"),
    }
    envs |= envpool_cartpole(num)
    turns = {k: stepper(env, clock, options.seconds / 4) for k, env in envs.items()}
    speeds = play_rounds(turns, options.rounds)
    row: dict[str, Any] = {"rows": str(num)}
    row |= {name: spread(speed) for name, speed in speeds.items()}
    return row | {f"over_{k}": ratio(speeds["table"], v) for k, v in speeds.items()}


def envpool_cartpole(num_rows: int) -> dict[str, Any]:
    """Return EnvPool's CartPole on one thread; nothing where it is not installed."""
    try:
        import envpool
    except ImportError:
        return {}
    level = gym.logger.min_level
    gym.logger.min_level = gym.logger.ERROR  # it warns of its spaces' precision
    env = envpool.make_gymnasium("CartPole-v1", num_envs=num_rows, num_threads=1)
    gym.logger.min_level = level
    return {"envpool": env}
