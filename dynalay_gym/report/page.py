"""A report on runs as one HTML page that needs nothing else.

What is text in a run's files is escaped by the template; figures are SVG elements of
the page, pictures are in it as data.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from msgspec.structs import asdict

from dynalay_gym.data.registry import DATASETS
from dynalay_gym.evaluation.figures import plot_frontier
from dynalay_gym.report import figures, words
from dynalay_gym.report.figures import as_svg
from dynalay_gym.report.files import Frontier
from dynalay_gym.report.record import ENTROPY
from dynalay_gym.report.runs import Run
from dynalay_gym.report.words import in_words, percent

_FIRST = "validation/"  # tags of the curves that are shown at once
_LEFT_OUT = ("time/", "eval/", "hparam/")  # and of those that show no learning


def render(runs: Sequence[Run]) -> str:
    """Return the page about some runs; the same text for the same runs."""
    environment = Environment(
        loader=PackageLoader("dynalay_gym.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= words.FILTERS
    views = [_view(run, number) for number, run in enumerate(runs, start=1)]
    if len(views) > 1:
        for view in views:
            view["title"] = f"Run {view['number']}: {view['title']}"
    template = environment.get_template("page.html")
    return template.render(views=views, problems=_problems(views), entropy=ENTROPY)


def _view(run: Run, number: int) -> dict[str, Any]:
    """Return what the template shows of a run, beside the run itself."""
    options, record, name = run.results.options, run.record, f"run-{number}"
    dataset = in_words(options.get("dataset"))
    spec = DATASETS.get(dataset)
    agent, seed = run.agent.policy, in_words(options.get("seed"))
    bins = record.bins.get(agent, [])
    return {
        "id": name,
        "number": number,
        "run": run,
        "title": f"{agent} on {dataset}, seed {seed}",
        "dataset": dataset,
        "is_maze": spec is not None and spec.hidden_share is not None,
        "facts": _facts(run),
        "bins": bins,
        "spans": words.spans(bins),
        "figures": _difficulty_figures(run, name) if bins else {},
        "curves": _curves(run, name),
    }


def _facts(run: Run) -> dict[str, Any]:
    """Return what was run, by its name in the page."""
    results, agent = run.results, run.agent
    dataset, checkpoint, penalty, seed = map(
        results.options.get, ("dataset", "checkpoint", "penalty", "seed")
    )
    return {
        "command": results.command or None,
        "run folder": run.folder,
        "data set": f"{dataset}, {results.num_samples} samples of the {results.split} "
        "split",
        "main network": checkpoint or "the one that ships with the package",
        "penalty": f"{results.penalty:.4g} ({penalty or 'break-even'})",
        "seed": seed,
        "learned from": f"{results.timesteps} decisions",
        "return by split": {k: f"{v:.4f}" for k, v in results.returns.items()},
        "agent's network": f"{agent.agent_macs_per_decision} multiply-adds per "
        f"decision, {percent(agent.agent_macs_share)} of the main network's",
        **results.environment,
    }


def _problems(views: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the frontiers of all agents on one network, for every network."""
    groups = defaultdict(list)
    for view in views:
        groups[view["dataset"], view["run"].record.problem].append(view)
    times, found = Counter(dataset for dataset, _ in groups), []
    for number, ((dataset, problem), group) in enumerate(groups.items(), start=1):
        title = dataset if times[dataset] == 1 else f"{dataset}, problem {problem}"
        found.append(_problem(f"frontier-{number}", title, group))
    return found


def _problem(name: str, title: str, views: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the agents' frontiers beside the cascades of their network."""
    records = [view["run"].record for view in views]
    labels = [record.frontiers[-1].policy for record in records]
    if len(set(labels)) < len(labels):  # seeds of one algorithm
        labels = [
            f"{view['run'].agent.policy} (run {view['number']})" for view in views
        ]
    ours = (record.frontiers[-1] for record in records)
    agents = dict(zip(labels, ours, strict=True))
    rows = agents | {each.policy: each for each in records[0].frontiers[:-1]}
    return {
        "id": name,
        "title": title,
        "rows": rows,
        "leads": {label: each.lead for label, each in agents.items() if each.lead},
        "figure": _frontier_figure(name, rows, labels),
    }


def _frontier_figure(
    name: str, rows: Mapping[str, Frontier], agents: Sequence[str]
) -> str:
    curves = {
        policy: [asdict(point) for point in row.points] for policy, row in rows.items()
    }
    places = (
        f"{agent} {percent(point.accuracy)} at compute {point.compute:.2f}"
        for agent in agents
        for point in rows[agent].points
    )
    label = f"Accuracy against compute of {', '.join(rows)}: {'; '.join(places)}"
    draw = partial(plot_frontier, curves, "", agents)
    return as_svg(name, label, lambda: figures.resized(draw()))


def _difficulty_figures(run: Run, name: str) -> dict[str, str]:
    """Return compute and, where there are colours for them, shares of the actions."""
    record, agent = run.record, run.agent.policy
    bins, what = record.bins[agent], f"by {record.difficulty}"
    ends = f"{bins[0].compute:.2f} where it is least, {bins[-1].compute:.2f} where most"
    compute = partial(figures.plot_compute, record.curves, record.difficulty)
    found = {
        "compute": as_svg(
            f"{name}-compute", f"Mean compute of {agent} {what}: {ends}", compute
        )
    }
    if len(record.actions) <= len(figures.SERIES):
        label = f"Shares of the actions of {agent} {what}, as in the table"
        shares = partial(figures.plot_shares, bins, record.actions)
        found["shares"] = as_svg(f"{name}-shares", label, shares)
    return found


def _curves(run: Run, name: str) -> dict[str, dict[str, str]]:
    """Return the curves of a training by tag: first those of the validation split."""
    found: dict[str, dict[str, str]] = {"first": {}, "others": {}}
    for number, (tag, points) in enumerate(sorted(run.curves.items())):
        if tag.startswith(_LEFT_OUT) or len(points) < 2:
            continue
        label = f"{tag}: {points[0][1]:.4g} at first, {points[-1][1]:.4g} in the end"
        draw = partial(figures.plot_metric, points)
        part = "first" if tag.startswith(_FIRST) else "others"
        found[part][tag] = as_svg(f"{name}-curve-{number}", label, draw)
    return found
