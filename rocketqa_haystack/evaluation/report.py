"""Tables of measures."""

from __future__ import annotations

from collections.abc import Mapping


def format_table(rows: Mapping[str, Mapping[str, float]], title: str = "system") -> str:
    """Systems and their measures as an aligned text table; times with one decimal, all else with four.

    Args:
        rows: The measures of each system. What one of them lacks is a dash.
        title: Of the column of the systems.
    """
    columns = list(dict.fromkeys(column for values in rows.values() for column in values))
    widths = {column: max(8, len(column)) for column in columns}
    width = max(len(title), *(len(name) for name in rows))
    lines = ["  ".join([f"{title:<{width}}", *(f"{column:>{widths[column]}}" for column in columns)])]
    lines.append("-" * len(lines[0]))
    for name, values in rows.items():
        cells = [f"{_cell(column, values.get(column)):>{widths[column]}}" for column in columns]
        lines.append("  ".join([f"{name:<{width}}", *cells]))
    return "\n".join(lines)


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if column == "seconds" or column.endswith(" ms") else f"{value:.4f}"
