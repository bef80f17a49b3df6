"""The wrapped ResNet-18: it is saved whole, and its parts are counted and run."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.wrapped.network import BLOCKS, load, save, wrapped_resnet18
from benchmarks.wrapped.speed import interleaved
from benchmarks.wrapped.states import answers, iterate_each, macs_without
from dynalay_gym.data.splits import Split


@torch.no_grad()
def test_a_network_is_saved_and_its_states_are_measured(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, images = wrapped_resnet18(), torch.randn(6, 3, 32, 32)
    save(tmp_path / "it", network, {"training": {}, "minutes": 0.0})
    loaded = load(tmp_path / "it", modes=("run", "skip", "iterate"), max_steps=2).eval()
    logits = network.eval()(images)
    assert torch.equal(loaded(images), logits)
    split = Split(images, logits.argmax(1), groups=torch.arange(6), name="test")
    assert answers(loaded, split, ()).tolist() == [1.0] * 6
    skipped = loaded(images, torch.tensor([[True] + [False] * 7] * 6)).argmax(1)
    expected = (skipped == split.labels).double().tolist()
    assert answers(loaded, split, (0,)).tolist() == expected
    found = [entry["iterated"] for entry in iterate_each(loaded, images)]
    assert found == ["layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]


def test_skipping_a_block_saves_its_multiply_adds() -> None:
    network = wrapped_resnet18()
    whole, level = macs_without(network, ()), BLOCKS.index("layer2.0")
    saved = network.block_macs[level] - network.shortcut_macs[level]
    assert macs_without(network, (level,)) == whole - saved
    block = 2 * 64 * 64 * 9 * 16 * 16
    assert network.block_macs[0] == block and network.shortcut_macs[0] == 0


def test_times_are_shares_of_the_first_way() -> None:
    calls: list[str] = []
    ratios = interleaved([lambda: calls.append("a"), lambda: calls.append("b")], 3)
    assert calls == ["a", "b"] * 4 and ratios.shape == (2, 3)
    assert np.array_equal(ratios[0], np.ones(3))
