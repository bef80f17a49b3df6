"""Tables of figures, written as Markdown and as JSON."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynalay_gym.storage.io import write_bytes, write_json

Row = Mapping[str, Any]
Columns = Mapping[str, tuple[str, str]]  # heading -> key of a row, format of its value


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: What was measured.
        notes: How, in a line or two.
        columns: What of the rows is shown.
        rows: All figures, JSON-able.
    """

    title: str
    notes: str
    columns: Columns
    rows: list[dict[str, Any]]

    def markdown(self) -> str:
        """Return heading, notes and table."""
        return f"### {self.title}\n\n{self.notes}\n\n{table(self.columns, self.rows)}\n"


def table(columns: Columns, rows: Iterable[Row]) -> str:
    """Return a Markdown table; a cell is empty where a row lacks the key."""
    cells = [
        [show(row.get(k, ""), form) for k, form in columns.values()] for row in rows
    ]
    lines = [list(columns), ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show(value: Any, form: str) -> str:
    """Return a number in a format; of a `spread` or interval: middle (low to high)."""
    if isinstance(value, Mapping):
        low, high = format(value["low"], form), format(value["high"], form)
        (middle,) = (v for key, v in value.items() if key not in ("low", "high"))
        return f"{format(middle, form)} ({low} to {high})"
    return value if isinstance(value, str) else format(value, form)


def spread(values: NDArray[np.float64]) -> dict[str, float]:
    """Return median and quartiles."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return {"low": low, "median": median, "high": high}


def write(stem: Path, heading: str, tables: list[Table], facts: Row) -> str:
    """Write ``<stem>.json`` and ``<stem>.md``; return the latter's text.

    Args:
        stem: Path of the files without their ending; its folder is made.
        heading: Markdown above the tables.
        tables: The tables.
        facts: What the JSON holds beside them.
    """
    text = "\n".join([heading, *(each.markdown() for each in tables)])
    rows = [{"title": t.title, "notes": t.notes, "rows": t.rows} for t in tables]
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(stem.with_suffix(".md"), text.encode())
    write_json(stem.with_suffix(".json"), {**facts, "tables": rows})
    return text
