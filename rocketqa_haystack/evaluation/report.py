"""Tables of measures."""

from __future__ import annotations

from collections.abc import Mapping


def format_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Systems and their measures as an aligned text table; seconds with one decimal, all else with four."""
    columns = list(next(iter(rows.values())))
    width = max(len("system"), *(len(name) for name in rows))
    lines = ["  ".join([f"{'system':<{width}}", *(f"{column:>8}" for column in columns)])]
    lines.append("-" * len(lines[0]))
    for name, values in rows.items():
        cells = [f"{values[column]:>8.1f}" if column == "seconds" else f"{values[column]:>8.4f}" for column in columns]
        lines.append("  ".join([f"{name:<{width}}", *cells]))
    return "\n".join(lines)
