"""Who may import whom, read from the source; and what an import loads."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PACKAGE, AGENTS = ROOT / "dynalay_gym", ROOT / "agents"
SCRIPTS = ("train_main", "train_agent", "evaluate")


def modules(*folders: str) -> list[Path]:
    """Python files below folders of the repository, or files themselves."""
    found: list[Path] = []
    for folder in folders:
        path = ROOT / folder
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return found


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")


def imports(path: Path, top_level_only: bool = False) -> Iterator[str]:
    """Dotted names of all that a file imports, inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = _executed(tree) if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when the file is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _executed(child)


def offenders(paths: list[Path], *forbidden: str) -> list[str]:
    return [
        f"{name_of(path)} imports {name}"
        for path in paths
        for name in imports(path)
        for prefix in forbidden
        if name == prefix or name.startswith(f"{prefix}.")
    ]


PACKAGES = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))


def may_import(package: Path) -> set[str]:
    """Packages of ours that a package says it may import, beside itself."""
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text("utf-8")))
    rule = re.search(r"May import: ([a-z_, ]+)\.", text or "")
    assert rule, f"{package.name}/__init__.py: write the line 'May import: ...'"
    return set(rule[1].split(", "))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_imports_what_it_says_and_nothing_else(package: Path) -> None:
    allowed = may_import(package) | {package.name}
    used = {
        (name_of(path), name)
        for path in package.rglob("*.py")
        for name in imports(path)
        if name.split(".")[0] == "dynalay_gym" and name != "dynalay_gym.__version__"
    }
    assert not {each for each in used if each[1].split(".")[1] not in allowed}


def test_what_packages_may_import_has_one_direction() -> None:
    rules = {package.name: may_import(package) for package in PACKAGES}
    placed = {"errors"}
    while rules:
        ready = {name for name, needs in rules.items() if needs <= placed}
        assert ready, f"these may import each other: {sorted(rules)}"
        placed |= ready
        rules = {name: needs for name, needs in rules.items() if name not in ready}


def test_the_package_knows_no_learner() -> None:
    paths = modules("dynalay_gym")
    assert len(paths) > 40
    assert not offenders(paths, "agents", *SCRIPTS)


# Libraries, and where alone they may be imported.
_GYMNASIUM = "__init__.py testing.py utils/rollout_recorder.py envs/ cotraining/"
_GYMNASIUM += " evaluation/ integrations/ report/"
HOMES = {
    "gymnasium": [*(f"dynalay_gym/{home}" for home in _GYMNASIUM.split()), "agents/"],
    "stable_baselines3": ["dynalay_gym/integrations/sb3.py", "agents/"],
    "tensorboard": ["dynalay_gym/storage/metrics.py"],
    "torch.utils.tensorboard": ["dynalay_gym/storage/metrics.py"],
    "numba": ["dynalay_gym/sessions/accel/"],
    "llvmlite": ["dynalay_gym/sessions/accel/"],
    "matplotlib": [
        "dynalay_gym/evaluation/",
        "dynalay_gym/report/",
        "dynalay_gym/storage/metrics.py",
    ],
    "jinja2": ["dynalay_gym/report/"],
    "tyro": ["dynalay_gym/report/__main__.py", "agents/"],
}


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_where_it_belongs(library: str) -> None:
    paths = modules("dynalay_gym", "agents")
    homes = tuple(HOMES[library])
    inside = [p for p in paths if str(p.relative_to(ROOT)).startswith(homes)]
    assert not offenders([p for p in paths if p not in inside], library)
    if library != "tensorboard":  # reached through torch.utils.tensorboard alone
        assert offenders(inside, library)


# What learners may know of the package beside Gymnasium's interface.
PUBLIC_TO_AGENTS = (
    "dynalay_gym.cotraining",
    "dynalay_gym.data",
    "dynalay_gym.envs.oracle",
    "dynalay_gym.errors",
    "dynalay_gym.evaluation",
    "dynalay_gym.integrations",
    "dynalay_gym.networks.agent_net",
    "dynalay_gym.networks.checkpoint",
    "dynalay_gym.networks.policy",
    "dynalay_gym.predictor",
    "dynalay_gym.report",
    "dynalay_gym.storage",
    "dynalay_gym.utils",
)


# What a co-training, which also trains the network, may know beside that.
PUBLIC_TO_JOINT_RUN = ("dynalay_gym.envs.config", "dynalay_gym.sessions.measure")


def test_agents_see_the_environment_through_its_public_face() -> None:
    seen = {
        (name_of(path), name)
        for path in modules("agents")
        for name in imports(path)
        if name.startswith("dynalay_gym.") and not name.startswith(PUBLIC_TO_AGENTS)
        if path.stem != "joint_run" or not name.startswith(PUBLIC_TO_JOINT_RUN)
    }
    assert not seen


def test_the_tree_stays_easy_to_survey() -> None:
    """Few modules beside the packages, and no folder that nobody can survey."""
    assert len(list(PACKAGE.glob("*.py"))) <= 4
    for folder in {path.parent for path in modules("dynalay_gym", "agents")}:
        assert len(list(folder.glob("*.py"))) <= 12, folder
    for path in modules("dynalay_gym", "agents", *(f"{s}.py" for s in SCRIPTS)):
        assert len(path.read_text("utf-8").splitlines()) <= 350, path


@pytest.mark.parametrize("name", ["returns", "losses"])
def test_learning_mathematics_imports_torch_alone(name: str) -> None:
    allowed = ("torch", "typing", "collections", "math", "dataclasses")
    path = AGENTS / "policy_gradient" / f"{name}.py"
    assert {found.split(".")[0] for found in imports(path)} <= set(allowed)


def test_nothing_imports_the_scripts() -> None:
    assert not offenders(modules("dynalay_gym", "agents"), *SCRIPTS)


def test_leaf_modules_are_imported_not_packages() -> None:
    packages = {f"dynalay_gym.{package.name}" for package in PACKAGES} | {"agents"}
    for path in modules("dynalay_gym", "agents"):
        for name in imports(path):
            parent, _, leaf = name.rpartition(".")
            if parent in packages:
                folder = ROOT / parent.replace(".", "/")
                is_module = (folder / f"{leaf}.py").is_file()
                assert is_module or (folder / leaf).is_dir(), f"{path}: {name}"


def test_inner_packages_hold_a_docstring_only() -> None:
    for path in modules("dynalay_gym", "agents"):
        if path.stem == "__init__" and path.parent != PACKAGE:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            assert len(tree.body) == 1, path
            assert ast.get_docstring(tree), path


def test_no_cycles() -> None:
    edges = {
        name_of(path): {
            target
            for name in imports(path, top_level_only=True)
            for target in (name, name.rpartition(".")[0])
            if (ROOT / target.replace(".", "/")).with_suffix(".py").is_file()
        }
        for path in modules("dynalay_gym", "agents")
    }
    visited: dict[str, bool] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"cycle: {' > '.join([*above, name])}"
        if name in visited:
            return
        for target in sorted(edges.get(name, ())):
            visit(target, (*above, name))
        visited[name] = True

    for name in edges:
        visit(name, ())
    assert len(visited) > 50


def test_nothing_is_executed_from_files() -> None:
    words = re.compile(r"\b(pickle|marshal|shelve)\b|\beval\(|\bexec\(|yaml\.load\(")
    for path in modules("dynalay_gym", "agents", "train_main.py", "train_agent.py"):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            code = line.split("#")[0].replace(".eval()", "")
            if path.name == "compiler.py":  # what it unpickles it has checked
                code = code.replace("pickle", "")
            assert not words.search(code), f"{path.name}:{number}: {line}"


def test_the_lowest_versions_are_those_that_ci_runs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    tools = [line for line in extras["dev"] if re.match("hypothesis|pytest", line)]
    declared = dict(
        re.match(r"([\w-]+)>=([\d.]+),<", line).groups()  # type: ignore[union-attr]
        for line in project["dependencies"] + extras["fast"] + tools
    )
    pinned = re.findall(
        r"^([\w-]+)==(.+)$", (ROOT / ".ci" / "lowest.txt").read_text("utf-8"), re.M
    )
    assert {name: Version(version) for name, version in pinned} == {
        name: Version(version) for name, version in declared.items()
    }


@pytest.mark.parametrize("module", ["dynalay_gym", "dynalay_gym.storage.metrics"])
def test_import_loads_no_torch(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "heavy = {'torch', 'torchvision', 'stable_baselines3', 'sklearn', 'matplotlib',"
        " 'tensorboard', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
