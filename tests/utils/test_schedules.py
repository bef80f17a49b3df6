"""Schedules and the check of autoreset modes."""

import pytest
from gymnasium.vector import AutoresetMode
from helpers.problems import NeedEnv

from dynalay_gym.errors import ConfigError
from dynalay_gym.utils.autoreset import check_autoreset
from dynalay_gym.utils.schedules import geometric, linear


def test_both_reach_their_ends():
    for schedule in (linear, geometric):
        assert schedule(8.0, 2.0, 0.0) == 8.0
        assert schedule(8.0, 2.0, 1.0) == 2.0
    assert linear(8.0, 2.0, 0.5) == 5.0
    assert geometric(8.0, 2.0, 0.5) == pytest.approx(4.0)


def test_zero_cannot_be_reached_geometrically():
    assert geometric(0.4, 0.0, 0.5) == linear(0.4, 0.0, 0.5) == 0.2


def test_a_wrong_autoreset_mode_names_user_and_remedy():
    envs = NeedEnv(2, autoreset_mode=AutoresetMode.NEXT_STEP)
    check_autoreset(envs, AutoresetMode.NEXT_STEP, "this test")
    with pytest.raises(ConfigError, match=r"this test .*autoreset_mode='Disabled'"):
        check_autoreset(envs, AutoresetMode.DISABLED, "this test")
    envs.metadata = {}
    with pytest.raises(ConfigError, match="got None"):
        check_autoreset(envs, AutoresetMode.NEXT_STEP, "this test")
