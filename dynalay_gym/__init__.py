"""DynaLay as a Gymnasium environment: choose which layer of a network to iterate.

Importing this package registers its environments, and loads no torch.
"""

from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register

from dynalay_gym.data.registry import DATASETS

__version__ = "0.2.0"

for _spec in DATASETS.values():
    register(
        id=_spec.env_id,
        entry_point="dynalay_gym.envs.single_env:DynaLayEnv",
        vector_entry_point="dynalay_gym.envs.vector_env:DynaLayVectorEnv",
        reward_threshold=_spec.reward_threshold,
        kwargs={
            "dataset": _spec.name,
            "iterations_per_action": _spec.iterations_per_action,
            "reward": _spec.reward,
        },
    )

# Blocks that are skipped: decided on one by one (SkipNet), or all at once (BlockDrop).
for _id, _maker, _reward in (
    ("DynaLay/SkipCIFAR10-v0", "skip", "three-term"),
    ("DynaLay/BlockDropCIFAR10-v0", "one_shot", "blockdrop"),
):
    register(
        id=_id,
        entry_point=f"dynalay_gym.envs.skipping.make:{_maker}_env",
        vector_entry_point=f"dynalay_gym.envs.skipping.make:{_maker}_vector_env",
        kwargs={"dataset": "cifar10", "reward": _reward},
    )

if TYPE_CHECKING:
    from dynalay_gym.integrations.compare import compare
    from dynalay_gym.sessions.skip.wrapped import wrap

__all__ = ["compare", "wrap"]


def __getattr__(name: str) -> Any:
    """Import a function when it is first asked for, since both load torch."""
    if name == "compare":
        from dynalay_gym.integrations.compare import compare

        return compare
    if name == "wrap":
        from dynalay_gym.sessions.skip.wrapped import wrap

        return wrap
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
