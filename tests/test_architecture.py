"""Who may import whom, read from the source; and what an import loads."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE, AGENTS = ROOT / "dynalay_gym", ROOT / "agents"
SCRIPTS = ("train_main", "train_agent")


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


def test_the_package_knows_no_learner() -> None:
    paths = modules("dynalay_gym")
    assert len(paths) > 25
    assert not offenders(paths, "agents", "stable_baselines3", *SCRIPTS, "tyro")


def test_models_know_no_environment() -> None:
    paths = modules("dynalay_gym/models")
    assert not offenders(paths, "gymnasium", "dynalay_gym.envs")


def test_one_file_knows_tensorboard() -> None:
    paths = [
        path for path in modules("dynalay_gym", "agents") if path.stem != "metrics"
    ]
    paths += modules("train_main.py", "train_agent.py")
    assert not offenders(paths, "tensorboard", "torch.utils.tensorboard")


def test_compiled_arithmetic_knows_arrays_and_nothing_else() -> None:
    paths = [p for p in modules("dynalay_gym/kernels") if p.stem != "pack"]
    above = ("models", "envs", "errors", "data", "policies", "predictor")
    assert not offenders(paths, "torch", *(f"dynalay_gym.{name}" for name in above))


def test_only_its_sessions_and_the_factory_know_the_main_network() -> None:
    knowing = ("main_session", "compiled_session", "factory")
    paths = [p for p in modules("dynalay_gym/envs") if p.stem not in knowing]
    assert not offenders(paths, "dynalay_gym.networks.main_network")
    assert not offenders(
        [p for p in paths if p.stem != "factory"], "dynalay_gym.networks.checkpoint"
    )


def test_the_session_knows_no_gymnasium() -> None:
    below = ("session", "observation", "reward", "dynamics", "episodes", "calibration")
    below += (
        "main_session",
        "compiled_session",
        "activations",
        "sweep",
        "walk",
        "decision_tree",
    )
    tables = ("transition_table", "table_store", "table_dynamics")
    paths = [PACKAGE / "envs" / f"{name}.py" for name in below + tables]
    assert not offenders(paths, "gymnasium")


# The exact methods and reports are of the environment, not of an algorithm.
PUBLIC_TO_AGENTS = (
    "dynalay_gym.co_",  # the other side of co-training, a learner's partner
    "dynalay_gym.data.splits",
    "dynalay_gym.errors",
    "dynalay_gym.utils.metrics",
    "dynalay_gym.envs.oracle",
    "dynalay_gym.networks.agent_net",
    "dynalay_gym.networks.checkpoint",
    "dynalay_gym.utils.optimizer_state",
    "dynalay_gym.cotraining.workers",
)


def test_agents_see_the_environment_through_its_public_face() -> None:
    seen = {
        (name_of(path), name)
        for path in modules("agents")
        for name in imports(path)
        if name.startswith("dynalay_gym.")
        and not any(name.startswith(public) for public in PUBLIC_TO_AGENTS)
    }
    assert not seen


def test_only_adapters_know_stable_baselines() -> None:
    paths = [path for path in modules("agents") if not path.stem.startswith("sb3")]
    assert not offenders(paths, "stable_baselines3")


@pytest.mark.parametrize("name", ["returns", "losses"])
def test_learning_mathematics_imports_torch_alone(name: str) -> None:
    allowed = ("torch", "typing", "collections", "math", "dataclasses")
    path = AGENTS / f"{name}.py"
    assert {found.split(".")[0] for found in imports(path)} <= set(allowed)


def test_nothing_imports_the_scripts() -> None:
    assert not offenders(modules("dynalay_gym", "agents"), *SCRIPTS)


def test_leaf_modules_are_imported_not_packages() -> None:
    packages = {"dynalay_gym.models", "dynalay_gym.envs", "agents"}
    for path in modules("dynalay_gym", "agents"):
        for name in imports(path):
            parent, _, leaf = name.rpartition(".")
            if parent in packages:
                folder = ROOT / parent.replace(".", "/")
                assert (folder / f"{leaf}.py").is_file(), f"{name_of(path)}: {name}"


@pytest.mark.parametrize(
    "package", ["dynalay_gym/models", "dynalay_gym/envs", "agents"]
)
def test_inner_packages_hold_a_docstring_only(package: str) -> None:
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    assert len(tree.body) == 1
    assert ast.get_docstring(tree)


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
    assert len(visited) > 25


def test_nothing_is_executed_from_files() -> None:
    words = re.compile(r"\b(pickle|marshal|shelve)\b|\beval\(|\bexec\(|yaml\.load\(")
    for path in modules("dynalay_gym", "agents", "train_main.py", "train_agent.py"):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            code = line.split("#")[0].replace(".eval()", "")
            assert not words.search(code), f"{path.name}:{number}: {line}"


@pytest.mark.parametrize("module", ["dynalay_gym", "dynalay_gym.utils.metrics"])
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
