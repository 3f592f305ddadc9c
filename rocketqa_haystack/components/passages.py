"""From a Haystack Document to the passage that an encoder reads."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from haystack import Document

from rocketqa_haystack.data import Passage

TITLE_FIELDS = ("title",)


def to_passages(documents: Sequence[Document], title_fields: Sequence[str], separator: str) -> list[Passage]:
    """The contents as texts; the values of the metadata fields, joined by the separator, as titles.

    A document without one of the fields, or with None in it, is embedded without it, as in Haystack's embedders.
    """
    return [
        Passage(
            text=document.content or "",
            title=separator.join(str(document.meta[f]) for f in title_fields if document.meta.get(f) is not None),
        )
        for document in documents
    ]


def has_visible_text(text: str) -> bool:
    """Whether a text has a character that can be seen: no space, control or format character, nor a mark alone."""
    return any(unicodedata.category(character)[0] in "LNPS" for character in text)


def check_documents(documents: Any, component: str) -> None:
    """Refuses what is not a list of Documents.

    :raises TypeError: With the component's name and what was given.
    """
    if not isinstance(documents, list):
        raise TypeError(f"{component} expects a list of Documents, but got {type(documents).__name__}")
    for document in documents:
        if not isinstance(document, Document):
            raise TypeError(f"{component} expects a list of Documents, but the list has a {type(document).__name__}")


def check_meta_fields(fields: list[str] | None) -> list[str]:
    """The metadata fields to put before a text, by default the title's.

    :raises TypeError: If they are not a list of names.
    """
    if fields is None:
        return list(TITLE_FIELDS)
    if not isinstance(fields, list | tuple) or not all(isinstance(field, str) for field in fields):
        raise TypeError(f"meta_fields_to_embed must be a list of names, but got {fields!r}")
    return list(fields)


def check_query(query: Any, component: str) -> None:
    """Refuses what is not a string.

    :raises TypeError: With the component's name and what was given.
    """
    if not isinstance(query, str):
        raise TypeError(f"{component} expects a string as the query, but got {type(query).__name__}")
