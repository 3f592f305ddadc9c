"""
Haystack's filter language as SQL conditions.

Whether a comparison holds is decided by Haystack's own `document_matches_filter`, called from SQL for one comparison
and one row, so that results cannot differ. SQL decides the logic around it and spares most calls: before Haystack is
asked about an equality, SQLite compares the values itself, where its answer may be too generous but never too strict;
which of two numbers is greater it decides alone unless they are nearly equal. Values, field names included, reach
SQLite as bound parameters only.
"""

import json
from collections.abc import Callable
from dataclasses import fields
from datetime import date
from hashlib import blake2b
from typing import Any

from haystack import Document
from haystack.errors import FilterError
from haystack.utils.filters import document_matches_filter

from rocketqa_haystack.document_stores.faiss.records import COLUMNS, from_row

COMPARISONS = ("==", "!=", ">", ">=", "<", "<=", "in", "not in")

_FIELDS = {field.name for field in fields(Document)}

# SQLite's parser and its statements have their limits; what goes beyond is left to Haystack as a whole.
DEEPEST = 8
MOST_PARAMETERS = 10_000

# Every column of a Document, for the rare comparison of something other than metadata, id or content.
_WHOLE_ROW = (
    ", ".join(f"documents.{column}" for column in COLUMNS)
    + ", (SELECT vector FROM vectors WHERE vectors.number = documents.number)"
)


class Condition:
    """
    A filter as an SQL expression over a row of `documents`, true where the document matches.

    :param filters: A filter, see `haystack.document_stores.types.DocumentStore.filter_documents`.
    :raises FilterError: If the filter is malformed.
    """

    def __init__(self, filters: dict[str, Any]) -> None:
        #: The SQL expression; it calls the function `matches`, which must be `self.matches` on the connection.
        self.sql: str
        #: The values of its placeholders, in order.
        self.parameters: list[Any] = []
        #: The same for the same filter on the same day, and for no other; None for one that cannot be told from others.
        self.key: bytes | None = None
        #: What Haystack raised in the last call of `matches` that failed: SQLite only reports that one did.
        self.error: Exception | None = None
        self._comparisons: list[tuple[dict[str, Any], Callable[..., Document]]] = []
        self._probe = Document(id="probe")
        self._depth = 0
        try:
            filters = _copied(filters)  # the caller may change it as long as this one is in use
            # Haystack reads "Monday" and "10:30" as times of the present day.
            text = f"{date.today()} {filters!r}"
            self.key = blake2b(text.encode("utf-8", "surrogatepass")).digest()
        except (TypeError, ValueError, RuntimeError):  # of other types, too large, too deep, or changed meanwhile
            pass
        self.sql = self._compile(filters)
        if len(self.parameters) > MOST_PARAMETERS:
            self.parameters, self._comparisons = [], []
            self.sql = self._leave_to_haystack(filters)

    def matches(self, number: int, *columns: Any) -> bool:
        """
        Return whether comparison `number` of this filter holds for the row with these columns.
        """
        try:
            comparison, read = self._comparisons[number]
            return document_matches_filter(comparison, read(*columns))
        except Exception as error:
            self.error = error
            raise

    def _compile(self, filters: Any) -> str:
        if not isinstance(filters, dict):
            raise FilterError(f"A filter must be a dictionary, but got {filters!r}.")
        return self._compile_comparison(filters) if "field" in filters else self._compile_logic(filters)

    def _compile_logic(self, filters: dict[str, Any]) -> str:
        operator, conditions = _required(filters, "operator"), _required(filters, "conditions")
        if not isinstance(conditions, list | tuple):
            raise FilterError(f"'conditions' must be a list, but got {conditions!r}.")
        self._depth += 1
        parameters, comparisons = len(self.parameters), len(self._comparisons)
        compiled = [self._compile(condition) for condition in conditions]
        self._depth -= 1
        if self._depth == DEEPEST:
            del self.parameters[parameters:], self._comparisons[comparisons:]
            return self._leave_to_haystack(filters)
        # CASE asks one condition after the other and stops where Haystack does, which AND and OR do not promise: a
        # condition can so guard a later one that would be an error for documents of another kind.
        if operator == "AND":
            return _first_case([f"({sql}) IS NOT TRUE" for sql in compiled], then=0)
        if operator == "OR":
            return _first_case(compiled, then=1)
        if operator == "NOT":
            return _first_case([f"({sql}) IS NOT TRUE" for sql in compiled], then=1)
        raise FilterError(f"Unknown logical operator {operator!r}. Valid operators are: AND, NOT, OR.")

    def _leave_to_haystack(self, filters: dict[str, Any]) -> str:
        """A filter that has been found well-formed, whole, for every row."""
        self.parameters.append(len(self._comparisons))
        self._comparisons.append((filters, from_row))
        return f"matches(?, {_WHOLE_ROW})"

    def _compile_comparison(self, filters: dict[str, Any]) -> str:
        field, operator, value = filters["field"], _required(filters, "operator"), _required(filters, "value")
        if not isinstance(field, str):
            raise FilterError(f"'field' must be a string, but got {field!r}.")
        if operator not in COMPARISONS:
            raise FilterError(
                f"Unknown comparison operator {operator!r}. Valid operators are: {', '.join(COMPARISONS)}."
            )
        if operator in ("in", "not in") and not isinstance(value, list):
            raise FilterError(f"The value of the operator {operator!r} must be a list, but got {value!r}.")
        if operator == "!=":
            return f"({self._compile_match({**filters, 'operator': '=='})}) IS NOT TRUE"
        if operator == "not in":
            return f"({self._compile_match({**filters, 'operator': 'in'})}) IS NOT TRUE"
        return self._compile_match(filters)

    def _compile_match(self, comparison: dict[str, Any]) -> str:
        number, operator = len(self._comparisons), comparison["operator"]
        compile_first_look = self._compile_first_look if operator in ("==", "in") else self._compile_order
        before, after = compile_first_look(comparison["field"], operator, comparison["value"])
        self.parameters.append(number)
        if _is_meta(comparison["field"]):
            self._comparisons.append((comparison, self._read_meta))
            return f"{before}matches(?, documents.meta){after}"
        self._comparisons.append((comparison, from_row))
        return f"{before}matches(?, {_WHOLE_ROW}){after}"

    def _compile_first_look(self, field: str, operator: str, value: Any) -> tuple[str, str]:
        """SQLite's own comparison followed by AND, or nothing where it could miss a match."""
        values = [value] if operator == "==" else value
        if not all(_is_plain(each) for each in values):
            return "", ""
        if field in ("id", "content"):
            column = f"documents.{field}"
        elif (path := _json_path(field)) is not None:
            column = "json_extract(documents.meta, ?)"
            self.parameters.append(path)
        else:
            return "", ""
        if operator == "==":
            self.parameters.append(value)
            return f"{column} IS ? AND ", ""
        self.parameters.append(json.dumps(value))
        return f"{column} IN (SELECT value FROM json_each(?)) AND ", ""

    def _compile_order(self, field: str, operator: str, value: Any) -> tuple[str, str]:
        """What goes around the call of Haystack so that SQLite decides by itself between two numbers, or nothing."""
        path = _json_path(field)
        is_number = type(value) is float or (type(value) is int and abs(value) < 2**53)
        if path is None or not is_number or value != value:
            return "", ""
        column = "json_extract(documents.meta, ?)"
        # SQLite may read a real with an error in the last place, which matters only where both are nearly equal.
        self.parameters += [path, path, path, value, path, path, value, value, path, value]
        return (
            f"CASE WHEN {column} IS NULL THEN 0 "
            f"WHEN typeof({column}) = 'integer' THEN {column} {operator} ? "
            f"WHEN typeof({column}) = 'real' AND abs({column} - ?) > 1e-9 * abs(?) THEN {column} {operator} ? ELSE ",
            " END",
        )

    def _read_meta(self, meta: str) -> Document:
        # One Document serves all rows: making one takes longer than the rest of a comparison.
        self._probe.meta.clear()
        self._probe.meta.update(json.loads(meta))
        return self._probe


def _copied(value: Any) -> Any:
    """
    A copy of what is built of JSON's own types and tuples.

    :raises TypeError: For anything else: of other objects, those of subclasses too, equal text need not mean the same.
    """
    if type(value) is dict:
        return {_copied(key): _copied(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise TypeError(type(value).__name__)


def _required(filters: dict[str, Any], key: str) -> Any:
    if key not in filters:
        raise FilterError(f"{key!r} key missing in {filters}.")
    return filters[key]


def _first_case(conditions: list[str], then: int) -> str:
    """`then` if one of the conditions is true, else its opposite."""
    if not conditions:
        return str(1 - then)
    return f"CASE {' '.join(f'WHEN {sql} THEN {then}' for sql in conditions)} ELSE {1 - then} END"


def _is_meta(field: str) -> bool:
    # A name without a dot that is no field of a Document is a key of its metadata, as Haystack has it.
    return field == "meta" or field.startswith("meta.") or ("." not in field and field not in _FIELDS)


def _json_path(field: str) -> str | None:
    """The path of a metadata field for SQLite, if every key of it is spelled in JSON as it is."""
    if not _is_meta(field) or field == "meta":
        return None
    keys = field.split(".")[1:] or [field]
    if not all(key and json.dumps(key, ensure_ascii=False) == f'"{key}"' for key in keys):
        return None
    return "$" + "".join(f'."{key}"' for key in keys)


def _is_plain(value: Any) -> bool:
    """
    Whether SQLite finds every value that Haystack holds equal to this one.

    Not so for a string that Haystack may read as a date (equal to other spellings of it) or with characters that SQLite
    may cut a string at, nor for numbers that SQLite may round when it reads JSON.
    """
    if type(value) is str:
        return value.isprintable() and not (len(value) >= 10 and value[:4].isdigit())
    return type(value) in (int, bool) and abs(value) < 2**53
