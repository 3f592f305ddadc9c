"""A Haystack Document as a row of the database, and back, with nothing lost."""

import json
import math
import zlib
from typing import Any

import numpy as np
from haystack import Document
from haystack.dataclasses import ByteStream, SparseEmbedding

from rocketqa_haystack.document_stores.faiss.vectors import STORED

_decode = json.JSONDecoder().decode  # json.loads looks at the type of each text before

# `other` is what few documents have, as one JSON text: a search pays for every column that it reads.
COLUMNS = ("id", "content", "meta", "other", "blob")


def to_row(document: Document) -> tuple[Any, ...]:
    """
    Return the values of `COLUMNS` for `document`; its dense embedding is stored apart from them.

    :raises ValueError: If the document holds something that would come back different: metadata that JSON cannot hold
        as it is (a datetime, a tuple, NaN), a score of NaN, text that is not valid Unicode.
    """
    id_, content = _text(document, "id"), None if document.content is None else _text(document, "content")
    if document.score is not None and math.isnan(document.score):
        raise ValueError(f"The score of document {document.id!r} is NaN.")
    blob, sparse, owner = document.blob, document.sparse_embedding, f"document {document.id!r}"
    other: dict[str, Any] = {}
    if document.score is not None:
        other["score"] = float(document.score)
    if blob is not None:
        other["blob"] = {"mime_type": blob.mime_type, "meta": blob.meta}
        encode_meta(other["blob"], f"{owner}: blob")
    if sparse is not None:
        other["sparse_embedding"] = sparse.to_dict()
        encode_meta(other["sparse_embedding"], f"{owner}: sparse_embedding")
    return (
        id_,
        content,
        encode_meta(document.meta, f"{owner}: meta"),
        json.dumps(other, ensure_ascii=False) if other else None,
        None if blob is None else bytes(blob.data),
    )


def _text(document: Document, name: str) -> str:
    """A text as SQLite gives it back: of its subclasses (numpy's str_, an Enum's) what they are equal to."""
    value = getattr(document, name)
    if not isinstance(value, str):
        raise ValueError(f"The {name} of document {document.id!r} must be a string, but is {value!r:.80}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"The {name} of document {document.id!r} is not valid Unicode: {error}.") from error
    return str.__str__(value)


def from_row(
    id_: str,
    content: str | None,
    meta: str,
    other: str | None,
    blob: bytes | None,
    vector: bytes | None = None,
    score: float | None = None,
) -> Document:
    """
    Return the Document of a row of `COLUMNS` and its vector, with its own score or another one.
    """
    rest = {} if other is None else _decode(other)
    # Made as unpickling makes one: __init__ takes several times as long, which a search would pay for each result.
    document = Document.__new__(Document)
    vars(document).update(
        id=id_,
        content=content,
        blob=None if blob is None else ByteStream(data=blob, **rest["blob"]),
        meta=_decode(meta),
        score=rest.get("score") if score is None else score,
        embedding=None if vector is None else np.frombuffer(vector, dtype=STORED).tolist(),
        sparse_embedding=SparseEmbedding(**rest["sparse_embedding"]) if "sparse_embedding" in rest else None,
    )
    return document


def checksum(number: int, row: tuple[Any, ...]) -> int:
    """
    Return the CRC-32 of a document's number and its row of `COLUMNS`, the same on every machine.
    """
    id_, content, meta, other, blob = row
    crc = zlib.crc32(f"{number}\0{id_}\0{content}\0{meta}\0{other}".encode())
    if blob is None:
        return crc
    return zlib.crc32(blob if isinstance(blob, bytes) else repr(blob).encode(), crc)  # damage may change its type


def encode_meta(meta: dict[str, Any], owner: str) -> str:
    """
    Return `meta` as JSON text that reads back equal.

    :param owner: What the metadata belongs to, for the error message.
    :raises ValueError: If it would not read back equal; the message names the key.
    """
    if not isinstance(meta, dict):
        raise ValueError(f"{owner} must be a dictionary, but is {meta!r:.80}.")
    if (text := _encode(meta)) is not None:
        return text
    for key, value in meta.items():
        if not isinstance(key, str) or _encode({key: value}) is None:
            raise ValueError(
                f"{owner}[{key!r}] is of type {type(value).__name__} and would not come back from the store as it is: "
                f"{value!r:.80}. Metadata must be JSON: None, booleans, finite numbers, strings, and lists and "
                "dictionaries (with string keys) of these; write a date as its isoformat(), which filters compare as "
                "a date."
            )
    raise ValueError(f"{owner} must be a dictionary that JSON can hold, but is {meta!r:.80}.")


def _encode(value: dict[str, Any]) -> str | None:
    try:
        # Not ensure_ascii: SQLite then finds a key by its own letters.
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
        return text if json.loads(text) == value else None
    except (TypeError, ValueError, RecursionError):
        return None
