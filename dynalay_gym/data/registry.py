"""The data sets and splits that exist; a table that loads neither torch nor a file.

The splits never depend on a seed of the user: *main* trains the main network, *agent*
trains policies, *validation* chooses networks, thresholds and policies, *test* reports.
A network is nearly always right at once on images that it was trained on, so a policy
could learn nothing on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynalay_gym.errors import ConfigError

SPLITS = ("main", "agent", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What is known of a data set before it is read.

    Attributes:
        name: Name on the command line.
        env_id: Gymnasium id of the environment over it.
        in_shape: Shape of one image, (C, H, W), or of one text, (T,).
        num_classes: Number of labels.
        classes: Names of the labels in their order; empty where they are numbers.
        difficulty: What a sample's difficulty counts; empty if nobody knows how hard
            the samples are.
        preset: Main network that is used unless another is asked for.
        iterations_per_action: Portion in which the environment's actions iterate; None
            for whole solves.
        reward: Reward of the environment; None for that of its network. The paper's
            squares the cost of a layer that is chosen several times in a row, as
            portions are.
        reward_threshold: Return of the best confidence cascade at the break-even, over
            the agent split, with the network that ships; None where none does.
        embedded: Ships with the installation; nothing is downloaded.
        cut: Originals per split that are cut from one pool of labelled images, or
            generated. A split that is not named here is the official one.
        hidden_share: Share of hopeless mazes; None if the samples are no mazes.
        vocabulary: Tokens of texts, padding included, at most; None if the samples are
            no texts.
        pixel_max: Raw value of a fully lit pixel.
        mean: Mean per channel after division by `pixel_max`.
        std: Standard deviation per channel after division by `pixel_max`.
    """

    name: str
    env_id: str
    in_shape: tuple[int, ...]
    num_classes: int
    classes: tuple[str, ...] = ()
    difficulty: str = ""
    preset: str
    iterations_per_action: int | None = None
    reward: str | None = None
    reward_threshold: float | None = None
    embedded: bool = False
    cut: Mapping[str, int]
    hidden_share: float | None = None
    vocabulary: int | None = None
    pixel_max: float = 255.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


_MAZE: Mapping[str, Any] = {  # planes of 0 and 1, used as they are
    "in_shape": (3, 19, 19),
    "num_classes": 4,
    "classes": ("up", "right", "down", "left"),
    "difficulty": "steps to the goal",
    "preset": "maze",
    "iterations_per_action": 4,
    "reward": "three-term",
    "embedded": True,
    "cut": {"main": 20_000, "agent": 8_000, "validation": 2_000, "test": 4_000},
    "pixel_max": 1.0,
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
}
_SUDOKU: Mapping[str, Any] = {
    "difficulty": "rounds until the cell is known",
    "preset": "sudoku",
    "iterations_per_action": 1,
    "reward": "three-term",
    "embedded": True,
}
_SPECS = (
    DatasetSpec(
        name="digits",
        env_id="DynaLay/Digits-v0",
        in_shape=(1, 8, 8),
        num_classes=10,
        preset="digits",
        reward_threshold=0.454,
        embedded=True,
        cut={"main": 800, "agent": 450, "validation": 150, "test": 397},
        pixel_max=16.0,
        mean=(0.2800,),
        std=(0.3698,),
    ),
    DatasetSpec(
        name="fashion-mnist",
        env_id="DynaLay/FashionMNIST-v0",
        in_shape=(1, 28, 28),
        num_classes=10,
        classes=tuple(
            "T-shirt trousers pullover dress coat sandal shirt sneaker bag boot".split()
        ),
        preset="small",
        cut={"main": 50_000, "agent": 8_000, "validation": 2_000},
        mean=(0.2860,),
        std=(0.3530,),
    ),
    DatasetSpec(
        name="cifar10",
        env_id="DynaLay/CIFAR10-v0",
        in_shape=(3, 32, 32),
        num_classes=10,
        classes=tuple(
            "airplane automobile bird cat deer dog frog horse ship truck".split()
        ),
        preset="small",
        cut={"main": 40_000, "agent": 8_000, "validation": 2_000},
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
    DatasetSpec(
        name="cifar100",
        env_id="DynaLay/CIFAR100-v0",
        in_shape=(3, 32, 32),
        num_classes=100,
        preset="small",
        cut={"main": 40_000, "agent": 8_000, "validation": 2_000},
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
    DatasetSpec(
        name="maze",
        env_id="DynaLay/Maze-v0",
        hidden_share=0.0,
        reward_threshold=0.446,
        **_MAZE,
    ),
    DatasetSpec(
        name="maze-hopeless",
        env_id="DynaLay/MazeHopeless-v0",
        hidden_share=0.3,
        reward_threshold=0.364,
        **_MAZE,
    ),
    DatasetSpec(
        name="chains",
        env_id="DynaLay/Chains-v0",
        in_shape=(7,),
        num_classes=5,
        difficulty="readings that the answer takes",
        preset="chains",
        iterations_per_action=1,
        reward="three-term",
        reward_threshold=0.483,
        embedded=True,
        vocabulary=73,
        cut={"main": 40_000, "agent": 8_000, "validation": 2_000, "test": 4_000},
    ),
    DatasetSpec(
        name="sudoku",
        env_id="DynaLay/Sudoku-v0",
        in_shape=(16,),
        num_classes=4,
        classes=tuple("1234"),
        reward_threshold=0.474,
        vocabulary=7,
        cut={"main": 40_000, "agent": 8_000, "validation": 2_000, "test": 4_000},
        **_SUDOKU,
    ),
    DatasetSpec(
        name="sudoku6",
        env_id="DynaLay/Sudoku6-v0",
        in_shape=(36,),
        num_classes=6,
        classes=tuple("123456"),
        vocabulary=9,
        cut={"main": 40_000, "agent": 8_000, "validation": 2_000, "test": 4_000},
        **_SUDOKU,
    ),
    DatasetSpec(
        name="sudoku9",
        env_id="DynaLay/Sudoku9-v0",
        in_shape=(81,),
        num_classes=9,
        classes=tuple("123456789"),
        vocabulary=12,
        cut={"main": 20_000, "agent": 4_000, "validation": 1_000, "test": 2_000},
        **_SUDOKU,
    ),
    DatasetSpec(
        name="imdb",
        env_id="DynaLay/IMDB-v0",
        in_shape=(400,),
        num_classes=2,
        classes=("blame", "praise"),
        preset="reviews",
        vocabulary=20_000,
        cut={"main": 20_000, "agent": 3_000, "validation": 2_000},
    ),
    DatasetSpec(
        name="wikitext2",
        env_id="DynaLay/WikiText2-v0",
        in_shape=(35,),
        num_classes=33_279,
        preset="language",
        reward="log-score",
        vocabulary=33_279,
        cut={"main": 56_675, "agent": 3_000},
    ),
)
DATASETS: Mapping[str, DatasetSpec] = {spec.name: spec for spec in _SPECS}


def dataset_spec(name: str) -> DatasetSpec:
    """Look a data set up by its name.

    Raises:
        ConfigError: There is no such data set.
    """
    if name not in DATASETS:
        raise ConfigError(
            f"unknown dataset {name!r}; choose from {', '.join(DATASETS)}"
        )
    return DATASETS[name]
