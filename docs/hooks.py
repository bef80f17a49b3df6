"""Hooks of MkDocs: which files of the repository are pages, and the API's pages."""

import ast
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
SHOWN = (  # all that pages link to
    "README.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "docs/**/*.md",
    "docs/*.css",
    "docs/images/*",
    "examples/*.*",
    "benchmarks/results/**/*.*",
    "tests/test_own_network.py",
)
API = (
    "data",
    "networks",
    "fixed_point",
    "sessions",
    "envs",
    "evaluation",
    "integrations",
    "predictor",
    "report",
    "cotraining",
    "testing",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Lay files out as in the repository, so that relative links hold in both."""
    paths = sorted({path for pattern in SHOWN for path in ROOT.glob(pattern)})
    where = str(ROOT), config.site_dir, config.use_directory_urls
    pages = [File(path.relative_to(ROOT).as_posix(), *where) for path in paths]
    theme = [file for file in files if file.src_dir != config.docs_dir]
    site = Files([*theme, *pages])
    for name in API:
        site.append(File.generated(config, f"api/{name}.md", content=api_page(name)))
    return site


def api_page(name: str) -> str:
    """Return the page of a package, its modules in their reading order."""
    package = ROOT / "dynalay_gym" / name / "__init__.py"
    if not package.exists():
        return f"# {name}\n\n::: dynalay_gym.{name}\n"
    docstring = ast.get_docstring(ast.parse(package.read_text("utf-8"))) or ""
    summary, order, *_ = docstring.split("\n\n")
    words = re.findall(r"\w+", order.removeprefix("Reading order:"))
    folder = package.parent
    modules = [
        word
        for word in words
        if (folder / f"{word}.py").exists() or (folder / word).is_dir()
    ]
    return f"# {name}\n\n{summary}\n\n" + "\n\n".join(
        f"::: dynalay_gym.{name}.{module}" for module in modules
    )
