"""What leaving out half of a residual block saves, against the whole block.

Half of the branch's multiply-adds are left out in several ways. *Rows*: half of them
run no branch. *Channels*: every row leaves out half of the inner ones, a half of its
own (so that row by row kernels are gathered), one of four halves, or the last ones
(whose number varies between rows, by eighths; kernels are read in place). *Masked*
leaves out nothing and multiplies by 0; with *open gates* nothing is 0. *Half as many
rows* is the bound of leaving out rows: the block itself on a batch of half the size.
Widths and sides are those of ResNet-20 and -18.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.report import Table, spread
from benchmarks.speed.common import Clock, Options, play_rounds, ratio
from dynalay_gym.networks.residual.blocks import ResidualBlock
from dynalay_gym.networks.residual.skipping import mask_block, run_block

SIDES = {16: 32, 32: 16, 64: 8, 128: 16, 256: 8, 512: 4}  # of the maps of a width
_NUM_PATTERNS = 4
_LEAST_ROWS = 32  # of a turn: each row has gates of its own

Job = Callable[[], int]  # a turn; returns multiply-adds
Gates = tuple[Tensor, Tensor | None]
Batches = tuple[Tensor, ...]
WHOLE = "nothing: the block itself"


def measure(options: Options) -> list[Table]:
    """Measure every width and batch size."""
    rows = [
        row
        for width in SIDES
        for batch in options.batches
        for row in _measure_block(width, batch, options)
    ]
    columns = {
        "channels": ("channels", ""),
        "side": ("side", ""),
        "rows": ("rows", ""),
        "left out": ("way", ""),
        "microseconds per row": ("microseconds", ",.0f"),
        "multiply-adds, share": ("macs", ".2f"),
        "time, share": ("time", ".2f"),
        "realised / counted speed-up": ("realised", ".2f"),
    }
    return [Table("Half of a residual block left out", options.notes, columns, rows)]


def _measure_block(width: int, batch: int, options: Options) -> list[dict[str, object]]:
    num, clock = max(_LEAST_ROWS, batch), Clock(options.device)
    jobs = make_jobs(width, batch, num, options.device)
    macs = {name: job() for name, job in jobs.items()}
    turns = {name: clock.turn(job, num) for name, job in jobs.items()}
    took = play_rounds(turns, options.rounds)
    rows = []
    for name in jobs:
        time, share = ratio(took[name], took[WHOLE]), macs[name] / macs[WHOLE]
        row = {"channels": width, "side": SIDES[width], "rows": batch, "way": name}
        row |= {"microseconds": spread(took[name]), "macs": share, "time": time}
        rows.append(row | {"realised": share / time})
    return rows


def make_jobs(width: int, batch: int, num: int, device: str) -> dict[str, Job]:
    """Return every way to run a block on some rows, batch by batch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = ResidualBlock(width, width, 1, "classic", "pad").eval().to(device)
        x = torch.randn(num, width, SIDES[width], SIDES[width], device=device)
        gates = {name: make(num, width) for name, make in WAYS.items()}
    batches = x.contiguous(memory_format=torch.channels_last).split(batch)
    jobs: dict[str, Job] = {
        name: partial(_run, block, batches, _to_batches(each, batch, device))
        for name, each in gates.items()
    }
    jobs[WHOLE] = partial(_run_whole, block, batches)
    fewer = batches[::2] if batch == 1 else tuple(b[: batch // 2] for b in batches)
    jobs["half as many rows"] = partial(_run_whole, block, fewer)
    masked = _to_batches(gates["channels, row by row"], batch, device)
    jobs["nothing: masked"] = partial(_run_masked, block, batches, masked)
    return jobs


@torch.no_grad()
def _run(block: ResidualBlock, batches: Batches, gates: list[Gates]) -> int:
    """Run what is open of a block on batches; return the multiply-adds."""
    pairs = zip(batches, gates, strict=True)
    return sum(int(run_block(block, x, *each)[1][0].sum()) for x, each in pairs)


@torch.no_grad()
def _run_whole(block: ResidualBlock, batches: Batches) -> int:
    for x in batches:
        block(x)
    return _whole_macs(block, batches)


@torch.no_grad()
def _run_masked(block: ResidualBlock, batches: Batches, gates: list[Gates]) -> int:
    for x, each in zip(batches, gates, strict=True):
        mask_block(block, x, *each)
    return _whole_macs(block, batches)


def _whole_macs(block: ResidualBlock, batches: Batches) -> int:
    return sum(len(x) * block.macs(x.shape[-1]).branch for x in batches)


def _to_batches(gates: Gates, batch: int, device: str) -> list[Gates]:
    scale, channels = (None if g is None else g.to(device).split(batch) for g in gates)
    assert scale is not None
    return [
        (each, None if channels is None else channels[number])
        for number, each in enumerate(scale)
    ]


def _rows(num: int, width: int) -> Gates:
    return (torch.randperm(num) % 2).float(), None


def _halves(num: int, width: int) -> Tensor:
    """Return gates [n, C] that leave out another half of the channels in each row."""
    return (torch.rand(num, width).argsort(1) % 2).float()


def _patterns(num: int, width: int) -> Gates:
    return torch.ones(num), _halves(_NUM_PATTERNS, width)[
        torch.arange(num) % _NUM_PATTERNS
    ]


def _first_ones(num: int, width: int) -> Gates:
    kept = width * (torch.randperm(num) % 7 + 1) // 8
    return torch.ones(num), (torch.arange(width) < kept[:, None]).float()


WAYS: dict[str, Callable[[int, int], Gates]] = {
    "nothing: open gates": lambda num, width: (torch.ones(num), None),
    "rows": _rows,
    "channels, row by row": lambda num, width: (torch.ones(num), _halves(num, width)),
    f"channels, {_NUM_PATTERNS} patterns": _patterns,
    "channels, the last ones": _first_ones,
}
