"""Trains agents with other libraries, each in a virtual environment of its own.

    python tests/integrations/run.py            # all of them
    python tests/integrations/run.py skrl sb3   # some

Needs nothing but Python. Each runs its snippet of docs/integrations.md, then its
trainings, which add rows to runs/integrations.jsonl; the newest are printed as a table.
Arguments behind ``--`` go to the trainings.
"""

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REQUIREMENTS = HERE / "requirements"
ROWS = ROOT / "runs" / "integrations.jsonl"
PAGE = ROOT / "docs" / "integrations.md"
LIBRARIES = sorted(
    path.stem.removeprefix("train_") for path in (HERE / "trainings").glob("train_*.py")
)


def main(arguments: list[str]) -> int:
    """Run what the command line asks for; return the exit code."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    asked, passed_on = arguments[:split] or LIBRARIES, arguments[split + 1 :]
    if unknown := set(asked) - set(LIBRARIES):
        print(f"unknown: {sorted(unknown)}; choose from {LIBRARIES}")
        return 2
    ROWS.parent.mkdir(exist_ok=True)
    failed = [library for library in asked if not train(library, passed_on)]
    if ROWS.exists():
        print(table(ROWS))
    print(f"failed: {failed or 'none'}")
    return len(failed)


def train(library: str, arguments: list[str]) -> bool:
    """Run a library's snippet and trainings; return whether all went well."""
    python = make_environment(library)
    language, text = snippet(library)
    shown = [python, "-c", text] if language == "python" else ["bash", "-ec", text]
    script = HERE / "trainings" / f"train_{library}.py"
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    options: Any = {"cwd": ROOT, "env": os.environ | {"PATH": path}}
    return all(
        subprocess.run(command, **options).returncode == 0
        for command in (shown, [python, script, "--out", ROWS, *arguments])
    )


def snippet(library: str) -> tuple[str, str]:
    """Return the language and the text of the page's snippet for a library."""
    found = re.search(
        rf"^```(python|bash) {library}\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S
    )
    assert found, f"docs/integrations.md has no block for {library}"
    return found[1], found[2]


def make_environment(library: str) -> Path:
    """Return the Python of a library's environment; make it where there is none.

    Gymnasium and this package come last and alone: RLlib asks for an older Gymnasium.
    """
    folder = ROOT / ".venvs" / library
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, clear=True, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet"]
        wanted, last = REQUIREMENTS / f"{library}.txt", REQUIREMENTS / "last.txt"
        subprocess.run([*pip, "-r", wanted], check=True)
        subprocess.run([*pip, "--no-deps", "-r", last, "-e", ROOT], check=True)
        (folder / "complete").touch()
    return python


def table(path: Path) -> str:
    """Return the newest rows of a file as a Markdown table, a line per algorithm."""
    found: dict[tuple[str, str], dict[tuple[str, int], dict[str, Any]]] = {}
    for row in map(json.loads, path.read_text("utf-8").splitlines()):
        name = f"{row['library']} {row['version']}", row["algorithm"]
        found.setdefault(name, {})[row["task"], row["seed"]] = row
    lines = [line(*name, [*rows.values()]) for name, rows in sorted(found.items())]
    return "\n".join([HEAD, *lines])


HEAD = (
    "| library | algorithm | lines changed | autoreset | transitions | warnings "
    "| return, digits | return, maze | CPU seconds |\n" + "| --- " * 9 + "|"
)


def line(library: str, algorithm: str, rows: list[dict[str, Any]]) -> str:
    """Return the line of a table for one algorithm, given its rows."""
    cells = [library, algorithm]
    shown = ("lines_changed", "autoreset", "transitions")
    cells += [str(rows[0][key]) for key in shown]
    cells += [str(len(set().union(*(row["warnings"] for row in rows))))]
    tasks = [
        [row for row in rows if row["task"] == name] for name in ("digits", "maze")
    ]
    cells += [mean([row["returns"]["learned"] for row in each]) for each in tasks]
    cells += [", ".join(str(each[0]["cpu_seconds"]) if each else "–" for each in tasks)]
    return f"| {' | '.join(cells)} |"


def mean(values: list[float]) -> str:
    """Return a mean, with the standard deviation where there are several seeds."""
    if len(values) < 2:
        return f"{values[0]:.4f}" if values else "–"
    return f"{fmean(values):.4f} ± {stdev(values):.4f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
