"""Labelled samples on one device, and the data sets cut into four fixed splits.

Axes: N samples; an image has C channels, H rows, W columns.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from dynalay_gym.data.images import read_images
from dynalay_gym.data.registry import SPLITS, DatasetSpec, dataset_spec
from dynalay_gym.data.reviews import read_reviews
from dynalay_gym.data.vocabulary import Vocabulary, most_common_words, words_of
from dynalay_gym.data.wikitext import read_words, windows
from dynalay_gym.errors import ConfigError, DataError, brief
from dynalay_gym.utils.device import resolve_device, torch_defaults

# (dy, dx) of the nine versions of a digit, in the order in which they are stored.
DIGIT_SHIFTS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))

# Changing it changes every split, and with them every published number.
_SPLIT_SEED = 2312


@dataclass(frozen=True, eq=False)
class Split:
    """All samples of one split, on one device.

    Attributes:
        inputs: Samples [N, ...] of any shape and dtype; images are normalised, float32
            [N, C, H, W].
        labels: Classes, int64 [N].
        groups: Id of the original of each sample, int64 [N]; None if every sample is
            one of its own. Samples of one group (the nine shifts of a digit) are not
            independent: resample groups, not samples, for an interval.
        name: One of `SPLITS`, or any name for samples of your own.
        difficulty: How hard each sample is, in a unit of the data set's own (the length
            of the path through a maze), int64 [N]; None if nobody knows.
        vocabulary: What the tokens of texts mean; None if the samples are no texts.

    Raises:
        DataError: The parts do not fit each other.
    """

    inputs: Tensor
    labels: Tensor
    groups: Tensor = None  # type: ignore[assignment]  # filled in __post_init__
    name: str = "own"
    difficulty: Tensor | None = None
    vocabulary: Vocabulary | None = None

    def __post_init__(self) -> None:
        """Number the groups if there are none, and check what the parts must share."""
        self._check_tensors()
        if cast(Tensor | None, self.groups) is None:
            groups = torch.arange(len(self.inputs), device=self.inputs.device)
            object.__setattr__(self, "groups", groups)
        parts = {"labels": self.labels, "groups": self.groups}
        if self.difficulty is not None:
            parts["difficulty"] = self.difficulty
        num = len(self.inputs)
        for name, ids in parts.items():
            if ids.dtype != torch.int64 or ids.shape != (num,):
                raise DataError(
                    f"split {self.name!r}: {name} must be int64 of shape ({num},), one "
                    f"per input, not {ids.dtype} of shape {tuple(ids.shape)}; convert "
                    "them with .long(), and leave groups out if there are none"
                )
            if ids.device != self.inputs.device:
                raise DataError(
                    f"split {self.name!r}: {name} are on {ids.device}, the inputs on "
                    f"{self.inputs.device}; move them to one device first"
                )
        if not self.labels.is_meta and int(self.labels.min()) < 0:
            raise DataError(
                f"split {self.name!r}: labels are classes from 0 on, not "
                f"{int(self.labels.min())}; leave out what has none"
            )

    def _check_tensors(self) -> None:
        """Raise DataError unless the parts are dense tensors, and not without rows."""
        optional = "groups", "difficulty"
        for name in ("inputs", "labels", *optional):
            part = getattr(self, name)
            if name in optional and part is None:
                continue
            if not isinstance(part, Tensor) or part.layout is not torch.strided:
                raise DataError(
                    f"split {self.name!r}: {name} must be a dense tensor, not "
                    f"{type(part).__name__}; convert it (torch.as_tensor, .to_dense())"
                )
        if self.inputs.dim() == 0 or len(self.inputs) == 0:
            raise DataError(f"split {self.name!r} is empty; give at least one sample")

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Split":
        """Return the same split on another device."""
        return replace(
            self,
            inputs=self.inputs.to(device),
            labels=self.labels.to(device),
            groups=self.groups.to(device),
            difficulty=None if self.difficulty is None else self.difficulty.to(device),
        )


def device_for(dataset: str, device: str | torch.device) -> torch.device:
    """Return a device by its name; ``auto`` is the faster one for a data set.

    That is a GPU where there is one, but the CPU for the small data sets that ship with
    the installation: on a GPU their networks spend the time on launching kernels.

    Raises:
        ConfigError: There is no such device on this machine, or no such data set.
    """
    is_small = dataset_spec(dataset).embedded
    return resolve_device("cpu" if device == "auto" and is_small else device)


@torch_defaults()
def load_split(
    dataset: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    device: torch.device | str = "cpu",
) -> Split:
    """Load one split of a data set, whole and normalised.

    Args:
        dataset: A key of `DATASETS`.
        split: One of `SPLITS`.
        data_dir: Folder with the files of all data sets; None is the environment
            variable `DYNALAY_DATA_DIR`, or `~/.cache/dynalay_gym/data`. Not used by a
            data set that ships with the installation (`DatasetSpec.embedded`).
        download: Fetch files that are missing or corrupt.
        device: Where the tensors go; see `device_for`.

    Returns:
        The split, the same samples in the same order on every call.

    Raises:
        ConfigError: Unknown data set or split, or no such device.
        DataError: Files are missing or corrupt, or could not be downloaded.
    """
    spec = dataset_spec(dataset)
    if split not in SPLITS:
        raise ConfigError(
            f"unknown split {brief(split)}; choose from {', '.join(SPLITS)}"
        )
    device = device_for(dataset, device)
    if spec.embedded and spec.name != "digits":
        return _generated(spec, split).to(device)
    if spec.vocabulary is not None:
        read = _wikitext if spec.name == "wikitext2" else _reviews
        return read(spec, split, data_dir=data_dir, download=download).to(device)
    if spec.embedded:
        pixels, labels, groups = _shifted_digits(spec, split)
    else:
        train = split in spec.cut
        pixels, labels = read_images(
            dataset, train=train, data_dir=data_dir, download=download
        )
        groups = _cut(labels, spec.cut)[split] if train else np.arange(len(labels))
        pixels, labels = pixels[groups], labels[groups]
    return Split(
        inputs=_normalised(torch.as_tensor(pixels, device=device), spec),
        labels=torch.as_tensor(labels, device=device),
        groups=torch.as_tensor(groups, device=device),
        name=split,
    )


def augment(
    images: Tensor, generator: torch.Generator, flip: bool = True, shift: int = 4
) -> Tensor:
    """Mirror and shift every image of a batch by its own random draw.

    Not meant for digits: a mirrored digit is another sign, and the shifts of a digit
    are samples already.

    Args:
        images: Normalised images, float [N, C, H, W], on any device.
        generator: Source of all draws; on the CPU it gives the same draws whatever
            the device of the images.
        flip: Mirror left and right with probability 1/2.
        shift: Largest shift in pixels along both axes, >= 0. What moves in from
            outside is 0, which in a normalised image is the mean colour.

    Returns:
        New images, the shape and dtype of `images`.
    """
    num, _, height, width = images.shape
    source = generator.device
    offsets = torch.randint(
        2 * shift + 1, (2, num, 1), generator=generator, device=source
    )
    mirrored = (
        torch.rand((num, 1), generator=generator, dtype=torch.float32, device=source)
        < 0.5 * flip
    )
    columns = torch.arange(width, device=source).expand(num, width)
    columns = torch.where(mirrored, columns.flip(1), columns) + offsets[1]
    rows = torch.arange(height, device=source) + offsets[0]
    rows, columns = rows.to(images.device), columns.to(images.device)
    samples = torch.arange(num, device=images.device)[:, None, None]
    padded = torch.nn.functional.pad(images, (shift, shift, shift, shift))
    moved = padded[samples, :, rows[:, :, None], columns[:, None, :]]
    return moved.movedim(-1, 1).contiguous()


def _generated(spec: DatasetSpec, split: str) -> Split:
    """Generate the samples of one split; its seed is its place among the splits."""
    # These modules import this one.
    from dynalay_gym.data.chains import make_chains_split
    from dynalay_gym.data.maze import make_maze_split
    from dynalay_gym.data.sudoku.puzzles import make_sudoku_split

    num, seed = spec.cut[split], SPLITS.index(split)
    if spec.hidden_share is not None:
        side, share = spec.in_shape[1], spec.hidden_share
        return make_maze_split(num, side, seed, hidden_share=share, name=split)
    if spec.name == "chains":
        return make_chains_split(num, seed, name=split)
    side = spec.num_classes
    part = split if side == 4 else None
    return make_sudoku_split(num, side, seed, part=part, name=split)


def _reviews(spec: DatasetSpec, split: str, **files: Any) -> Split:
    """Read the reviews of one split; the words are those of the main split."""
    length, size = spec.in_shape[0], spec.vocabulary or 0
    texts, labels = read_reviews(train=True, **files)
    places = _cut(labels, spec.cut)
    seen = (words_of(texts[place])[:length] for place in places["main"])
    vocabulary = most_common_words(seen, size)
    if split in spec.cut:
        groups = places[split]
    else:
        texts, labels = read_reviews(train=False, **files)
        groups = np.arange(len(labels))
    return Split(
        inputs=vocabulary.encode([texts[place] for place in groups], length),
        labels=torch.from_numpy(labels[groups]),
        groups=torch.from_numpy(groups),
        name=split,
        vocabulary=vocabulary,
    )


def _wikitext(spec: DatasetSpec, split: str, **files: Any) -> Split:
    """Read the windows of one split; main and agent follow each other in one text."""
    length = spec.in_shape[0]
    words, articles = read_words("train", **files)
    vocabulary = most_common_words([words], spec.vocabulary or 0, cut="spaces")
    if split not in spec.cut:
        words, articles = read_words({"validation": "valid"}.get(split, split), **files)
    tokens = np.array(vocabulary.tokens_of(words))
    inputs, labels, groups = windows(tokens, articles, length)
    ends = np.cumsum([0, *spec.cut.values()])
    part = slice(None)
    if split in spec.cut:
        place = list(spec.cut).index(split)
        part = slice(ends[place], ends[place + 1])
    return Split(
        inputs=torch.from_numpy(inputs[part].copy()),
        labels=torch.from_numpy(labels[part]),
        groups=torch.from_numpy(groups[part]),
        name=split,
        vocabulary=vocabulary,
    )


def _shifted_digits(
    spec: DatasetSpec, split: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scikit-learn's digits of one split, each at its nine shifts in turn.

    Returns:
        Pixels 0..16, float32 [9 n, 1, 8, 8]; labels [9 n]; groups [9 n].
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    ids = _cut(digits.target, spec.cut)[split]
    num, side = len(ids), digits.images.shape[-1]
    padded = np.pad(digits.images[ids].astype(np.float32), ((0, 0), (1, 1), (1, 1)))
    views = [
        padded[:, 1 - dy : 1 - dy + side, 1 - dx : 1 - dx + side]
        for dy, dx in DIGIT_SHIFTS
    ]
    pixels = np.stack(views, axis=1).reshape(num * len(views), 1, side, side)
    groups = np.repeat(ids, len(views))
    return pixels, digits.target[groups].astype(np.int64), groups


def _cut(labels: np.ndarray, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Cut a labelled pool into fixed, disjoint splits with equal shares of the classes.

    Args:
        labels: Classes of the pool, int [n].
        sizes: Images per split, in the order in which they are cut; they sum to n.

    Returns:
        Positions in the pool per split, int64 [size].
    """
    # Raw bits of a bit generator are the one random stream that NumPy promises never
    # to change.
    bits = np.random.PCG64(_SPLIT_SEED).random_raw(len(labels))
    order = np.argsort(bits, kind="stable")
    # Where each image stands within its class, from 0 to 1: along this order any
    # stretch holds every class in its share.
    standing = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        standing[members] = np.arange(len(members)) / len(members)
    order = order[np.argsort(standing[order], kind="stable")]
    ends = np.cumsum(list(sizes.values()))
    return dict(zip(sizes, np.split(order, ends[:-1]), strict=True))


def _normalised(pixels: Tensor, spec: DatasetSpec) -> Tensor:
    """Scale pixels [N, C, H, W] to mean 0 and standard deviation 1 per channel."""
    shape = (1, len(spec.mean), 1, 1)
    mean = torch.tensor(spec.mean, device=pixels.device).reshape(shape)
    std = torch.tensor(spec.std, device=pixels.device).reshape(shape)
    return pixels.float().div(spec.pixel_max).sub_(mean).div_(std)
