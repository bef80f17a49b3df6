"""Autoreset modes: a wrong one is silent, so whoever needs one checks it."""

from gymnasium.vector import AutoresetMode, VectorEnv

from dynalay_gym.errors import ConfigError


def check_autoreset(envs: VectorEnv, mode: AutoresetMode, user: str) -> None:
    """Check that a vector environment starts new episodes the way its user expects.

    Args:
        envs: The environment; Gymnasium keeps its mode in ``metadata``.
        mode: The mode that is needed.
        user: Who needs it, for the message.

    Raises:
        ConfigError: The environment has another mode, or names none.
    """
    found = envs.metadata.get("autoreset_mode")
    if found is not mode:
        raise ConfigError(
            f"{user} needs an environment in autoreset mode {mode.value}, got {found}; "
            f"pass autoreset_mode={mode.value!r} to gym.make_vec"
        )
