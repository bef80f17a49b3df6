"""Every number that can be configured has a range, and its type is checked."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from math import inf, nan
from typing import Any, get_args, get_type_hints

import msgspec
import numpy as np
import pytest
from helpers.networks import tiny_config

import evaluate
import train_main
from agents.options import Options, default_configs
from dynalay_gym.cotraining.config import CoTrainingConfig
from dynalay_gym.envs.config import EnvConfig
from dynalay_gym.errors import ConfigError
from dynalay_gym.fixed_point.solve import SolverConfig
from dynalay_gym.networks.training import TrainingConfig
from dynalay_gym.utils.ranges import Count, Share, check_fields, check_value

CONFIGS: list[Any] = [
    *default_configs().values(),
    CoTrainingConfig(),
    TrainingConfig(epochs=1),
    SolverConfig(),
    EnvConfig(),
    tiny_config("wide"),
    Options(),
    train_main.Args(),
    evaluate.Args(),
]
# What takes a number too, and has a check of its own.
OWN_CHECK = {"penalty"}


def numbers() -> Iterator[tuple[Any, str, type]]:
    """Every field of a config that is a number, or several, with the number's type."""
    for config in CONFIGS:
        hints = get_type_hints(type(config))
        for field in fields(config):
            kinds = {hints[field.name], *get_args(hints[field.name])}
            kinds |= {part for kind in kinds for part in get_args(kind)}
            if kinds & {int, float} and field.name not in OWN_CHECK:
                yield config, field.name, float if float in kinds else int


NUMBERS = list(numbers())


def changed(config: Any, name: str, value: Any) -> None:
    """Make a config with one other value, and check it as its owner does."""
    given = replace(config, **{name: value})
    if isinstance(given, Options):
        given.check()
    elif type(given).__name__ == "Args":
        check_fields(given, "")


@pytest.mark.parametrize(
    ("config", "name", "kind"),
    NUMBERS,
    ids=[f"{type(config).__name__}.{name}" for config, name, _ in NUMBERS],
)
def test_every_number_has_a_range(config: Any, name: str, kind: type) -> None:
    bad = [nan, inf, -inf, -1, -1e300, 10**30, True, "1", b"1", [[1]], object()]
    bad += [1.5] if kind is int else [1e30, 10**400]
    is_optional = type(None) in get_args(get_type_hints(type(config))[name])
    bad += [] if is_optional else [None]
    flag = name.replace("_", "[-_]")
    for value in bad:
        with pytest.raises(ConfigError, match=flag) as caught:
            changed(config, name, value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200


def test_numbers_are_found_in_every_config() -> None:
    assert {type(config) for config, _, _ in NUMBERS} == {*map(type, CONFIGS)}
    assert len(NUMBERS) > 120


@pytest.mark.parametrize("config", CONFIGS[:8], ids=lambda each: type(each).__name__)
def test_configs_come_back_from_json_as_they_were(config: Any) -> None:
    text = json.dumps(asdict(config))
    assert msgspec.json.decode(text, type=type(config)) == config


def test_a_range_holds_where_json_is_read() -> None:
    text = json.dumps(asdict(CoTrainingConfig()) | {"replay_size": 10**12})
    with pytest.raises(msgspec.ValidationError, match="<= 1000000"):
        msgspec.json.decode(text, type=CoTrainingConfig)


def test_numbers_of_numpy_count_as_numbers() -> None:
    config = EnvConfig(max_decisions=np.int64(3), alpha=np.float32(0.25))
    assert (config.max_decisions, config.alpha) == (3, 0.25)
    with pytest.raises(ConfigError, match="max_decisions must be an integer or None"):
        EnvConfig(max_decisions=np.float64(3.0))
    with pytest.raises(ConfigError, match="max_decisions must be an integer"):
        EnvConfig(max_decisions=np.bool_(True))


@dataclass(frozen=True)
class Example:
    size: Count = 3
    shares: tuple[Share, ...] = (0.5,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "--it.size must be an integer >= 1, not 0"),
        ({"size": 10**7}, "--it.size must be an integer <= 1000000, not 10000000"),
        ({"size": "big"}, "--it.size must be an integer, not 'big'"),
        ({"shares": (1, 2)}, r"--it.shares must be a number <= 1.0, not \(1, 2\)"),
        ({"shares": 1}, "--it.shares must be a list, not 1"),
        ({"shares": (2,) * 99}, r"not \(2, 2, 2, 2, 2, 2, ...\)"),
    ],
)
def test_the_message_says_what_is_allowed(changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"{message}$"):
        check_fields(Example(**changes), "it")


def test_a_single_value_is_checked_likewise() -> None:
    check_value("size", 3, Count)
    with pytest.raises(ConfigError, match="size must be an integer >= 1, not 0"):
        check_value("size", 0, Count)
    check_value("size", None, Count | None)
