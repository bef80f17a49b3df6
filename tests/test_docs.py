"""The Python blocks of README and reference pages run as they are printed."""

import doctest
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from dynalay_gym.predictor.policies import MaxProbPolicy
from dynalay_gym.predictor.predictor import DynaLayPredictor

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = sorted(DOCS.glob("tutorials/*.md"))
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *TUTORIALS]
LINKING = sorted([*ROOT.glob("*.md"), *ROOT.glob("examples/*.md"), *DOCS.rglob("*.md")])
FRAGMENTS = ("co-training.md",)  # has placeholders; examples/co_training.py runs


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


RUNNABLE = [page for page in PAGES if blocks(page) and page.name not in FRAGMENTS]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the predictor that `train_agent.py` would have left."""
    env = gym.make_vec("dynalay_gym:DynaLay/Digits-v0", num_envs=1)
    layout = env.get_attr("observation_layout")[0]
    rule = MaxProbPolicy(layout["max_prob"].start, plan=(1, 2, 3), thresholds=[0.9])
    place = tmp_path / "runs" / "digits" / "ppo" / "0" / "predictor"
    DynaLayPredictor.from_env(env, rule).save(place)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:No complete tensor:UserWarning:torch")
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, folder: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "docs"}
    with torch.random.fork_rng():
        for number, block in enumerate(blocks(page), start=1):
            name = f"{page.name}, block {number}"
            if block.startswith(">>>"):
                example = doctest.DocTestParser().get_doctest(block, {}, name, None, 0)
                assert doctest.DocTestRunner().run(example).failed == 0
                continue
            if find_spec("onnx") is None:
                block = re.sub(r"^.*format=\"onnx\".*$", "", block, flags=re.M)
            exec(compile(block, name, "exec"), namespace)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)", prose.lower(), re.M)
    return {re.sub(r"[^\w -]", "", each).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text("utf-8"))
    for link, anchor in links:
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"
