"""The page: what is in it, that it is sound HTML, and that it asks for nothing else."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from helpers.runs import edit_json, with_difficulty, write_run

from dynalay_gym.report.page import render
from dynalay_gym.report.runs import Run, read_run

VOID = {"meta", "link", "img", "br", "hr"}
HOSTILE = '<b title="x">&amp; $x^{2$ </script>'


class Page(HTMLParser):
    """Elements of a page, and its text; an element that is not closed is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text, self._open = "", list[str]()
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} comes twice"
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(write_run(tmp_path_factory.mktemp("runs") / "0"))


@pytest.fixture(scope="module")
def text(run: Run) -> str:
    return render([run, replace(run, folder=Path("another"))])


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_it_asks_for_nothing_else(text: str, page: Page) -> None:
    assert not page.all("script", "iframe", "object", "audio", "video", "base")
    for _, attributes in page.elements:
        for name in ("src", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "data:").startswith("data:")
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:,"))
    assert not re.search(r"@import|url\((?!#)", text)


def test_every_reference_has_its_only_target(text: str, page: Page) -> None:
    ids = [each["id"] for _, each in page.elements if "id" in each]
    assert len(set(ids)) == len(ids)
    targets = re.findall(r'(?:href="#|url\(#|labelledby=")([^")]*)', text)
    assert len(targets) > 20
    assert set(targets) <= set(ids)


def test_it_can_be_heard_and_reached_by_keyboard(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    for each in page.all("svg"):
        assert each["role"] == "img" and len(each["aria-label"]) > 10
    assert len(page.all("img")) == 16
    assert all(each["alt"] for each in page.all("img"))
    boxes = [each for each in page.all("div") if each.get("class") == "box"]
    assert len(boxes) == len(page.all("table")) == len(page.all("caption"))
    for each in boxes:
        assert (each["role"], each["tabindex"]) == ("region", "0")
    labels = [each["aria-label"] for each in boxes[:8]]  # of the first run
    assert len(set(labels)) == len(labels)
    assert all(each.get("scope") for each in page.all("th"))
    assert page.all("a")[0]["href"] == "#main"
    assert len(page.all("details")) == len(page.all("summary")) > 0


def test_headings_are_in_order(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert max(after - before for before, after in pairwise(levels)) == 1


def test_it_fits_a_phone_paper_and_the_dark(text: str, page: Page) -> None:
    (viewport,) = (e for e in page.all("meta") if e.get("name") == "viewport")
    assert "width=device-width" in viewport["content"]
    assert "@media print" in text
    assert "prefers-color-scheme: dark" in text
    colours = re.findall(r"(?:fill|stroke): (#\w+)", text)
    assert not colours, "figures take their colours from the page"


def test_it_shows_what_was_run_and_what_came_out(run: Run) -> None:
    shown, agent = " ".join(Page(render([run])).text.split()), run.agent
    for words in (
        "python train_agent.py",
        "c0ffee",
        "numpy 2, numba –",
        "0.25 (break-even)",
        "agent 0.5000, validation 0.2500, test 0.1250",
        f"{100 * agent.accuracy:.1f} %",
        f"[{agent.return_interval[0]:.3f}, {agent.return_interval[1]:.3f}]",
        "mine ahead of the best cascade",
        "layer 1, layer 2, stop",
        "Hardest inputs",
        "cut into thirds",
        "validation/return",
        "train/loss",
    ):
        assert words in shown, words


def test_equal_runs_give_equal_pages(run: Run, text: str) -> None:
    assert render([run, replace(run, folder=Path("another"))]) == text


def test_text_is_escaped_wherever_it_comes_from(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", with_difficulty())
    options = {"dataset": HOSTILE, "seed": HOSTILE, "checkpoint": HOSTILE}
    edit_json(folder / "results.json", command=HOSTILE, options=options)
    run = read_run(folder)
    (first, *others), steps = run.record.inputs["hardest"], run.record.inputs
    first = replace(first, answer=HOSTILE, text=HOSTILE)
    record = replace(
        run.record,
        actions=[HOSTILE, *run.record.actions[1:]],
        difficulty=HOSTILE,
        inputs=steps | {"hardest": [first, *others]},
    )
    curves = {HOSTILE: [(1, 0.5), (2, 0.25)]}
    text = render([replace(run, folder=Path(HOSTILE), record=record, curves=curves)])
    page = Page(text)
    assert not page.all("b", "script")
    assert page.text.count(HOSTILE) > 10
    assert any(HOSTILE in each["aria-label"] for each in page.all("svg"))


def test_runs_on_one_network_share_a_frontier(run: Run) -> None:
    page = Page(render([run, replace(run, folder=Path("another"))]))
    (figure,) = (e for e in page.all("svg") if "Accuracy against" in e["aria-label"])
    assert "of mine (run 1), mine (run 2), nop" in figure["aria-label"]
    assert "Run 2: mine on digits, seed 3" in page.text
    other = replace(run, record=replace(run.record, problem="another"))
    page = Page(render([run, other]))
    labels = [each["aria-label"] for each in page.all("svg")]
    assert sum("Accuracy against compute" in label for label in labels) == 2
    assert "digits, problem another" in page.text


def test_more_actions_than_colours_are_a_table_only(run: Run) -> None:
    bins = [replace(each, actions=[0.05] * 20) for each in run.record.bins["mine"]]
    names = [f"block {number}" for number in range(20)]
    record = replace(run.record, actions=names, bins=run.record.bins | {"mine": bins})
    page = Page(render([replace(run, record=record)]))
    labels = [each["aria-label"] for each in page.all("svg")]
    assert not any("Shares of the actions" in label for label in labels)
    assert "block 19" in page.text


def test_what_a_run_does_not_have_is_said(run: Run) -> None:
    bare = replace(run.record, difficulty="", bins={}, curves={})
    text = render([replace(run, record=bare, curves={})])
    shown = " ".join(Page(text).text.split())
    assert "Nothing tells hard inputs from easy ones" in shown
    assert "The training was too short for a curve" in shown
    results = replace(run.results, timesteps=0)
    shown = Page(render([replace(run, results=results, curves={})])).text
    assert "The agent was only evaluated." in shown
