"""The check of autoreset modes."""

import pytest
from gymnasium.vector import AutoresetMode
from helpers.problems import NeedEnv

from dynalay_gym.errors import ConfigError
from dynalay_gym.evaluation.evaluate import check_autoreset


def test_a_wrong_autoreset_mode_names_user_and_remedy():
    envs = NeedEnv(2, autoreset_mode=AutoresetMode.NEXT_STEP)
    check_autoreset(envs, AutoresetMode.NEXT_STEP, "this test")
    with pytest.raises(ConfigError, match=r"this test .*autoreset_mode='Disabled'"):
        check_autoreset(envs, AutoresetMode.DISABLED, "this test")
    envs.metadata = {}
    with pytest.raises(ConfigError, match="got None"):
        check_autoreset(envs, AutoresetMode.NEXT_STEP, "this test")
