"""What `make integrations` reads, checked without the libraries that it installs."""

import json
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from run import LIBRARIES, REQUIREMENTS, ROOT, main, snippet, table


def pinned(name: str) -> dict[str, str]:
    """Return the versions of a requirements file; every line has to be exact."""
    lines = (REQUIREMENTS / f"{name}.txt").read_text("utf-8").splitlines()
    lines = [line for line in lines if line != "-r common.txt" and line[0] != "#"]
    found = [re.fullmatch(r"([\w-]+)(?:\[\w+\])?==([\w.]+)", line) for line in lines]
    assert all(found), lines
    return {match[1]: match[2] for match in found if match}


def test_every_library_has_its_versions_and_its_snippet() -> None:
    files = {path.stem for path in REQUIREMENTS.glob("*.txt")}
    assert files - {"common", "last"} == set(LIBRARIES)
    for library in LIBRARIES:
        pinned(library)
        language, text = snippet(library)
        if language == "python":
            compile(text, library, "exec")


def test_the_common_versions_are_those_that_the_package_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = project["dependencies"] + project["optional-dependencies"]["fast"]
    versions = pinned("common") | pinned("last")
    for requirement in map(Requirement, needed):
        assert versions[requirement.name] in requirement.specifier, requirement


def test_the_newest_rows_of_each_training_are_shown(tmp_path: Path) -> None:
    row = {"library": "a", "version": "1", "algorithm": "PPO", "task": "digits"}
    row |= {"lines_changed": 0, "autoreset": "none", "transitions": "table", "seed": 0}
    row |= {"warnings": ["w"], "cpu_seconds": 12, "returns": {"learned": 0.25}}
    newer = row | {"returns": {"learned": 0.5}}
    rows = [row, newer, newer | {"seed": 1}, row | {"task": "maze"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(each)}\n" for each in rows))
    cells = "0.5000 ± 0.0000 | 0.2500 | 12, 12"
    last = f"| a 1 | PPO | 0 | none | table | 1 | {cells} |"
    assert table(path).splitlines()[-1] == last


def test_unknown_libraries_are_refused() -> None:
    assert main(["nonsense"]) == 2
