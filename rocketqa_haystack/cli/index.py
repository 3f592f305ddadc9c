"""`rocketqa index`: passages into a document store."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rocketqa_haystack.data import Passage

WRITE_SIZE = 4_096


def index(
    corpus: Path,
    store: Path,
    model: str,
    duplicates: Literal["fail", "skip", "overwrite"] = "fail",
    dtype: str = "auto",
    device: str | None = None,
) -> None:
    """Encode the passages of a collection and write them to a document store.

    The store is a folder with an SQLite database, the documents' vectors in it, and a FAISS index derived from them.
    `rocketqa search` and the Haystack components FAISSDocumentStore and RocketQARetriever read it.

    Args:
        corpus: A BEIR folder, or a corpus.jsonl: one {"_id", "title", "text"} on each line.
        store: The store's folder; made if it is not there.
        model: The dual encoder: a model folder, an official RocketQA name (`rocketqa models`) or a Hugging Face id.
        duplicates: What to do with a passage whose id is in the store: stop, leave the old one, or replace it.
        dtype: Precision: auto (bfloat16 where it is computed natively), float32, bfloat16 or float16.
        device: Such as cpu or cuda:0; the best there is by default.
    """
    from haystack import Document
    from haystack.document_stores.types import DuplicatePolicy
    from tqdm.auto import tqdm

    from rocketqa_haystack.data import read_corpus
    from rocketqa_haystack.document_stores.faiss import FAISSDocumentStore
    from rocketqa_haystack.encoders import DualEncoder

    file = corpus / "corpus.jsonl" if corpus.is_dir() else corpus
    encoder = DualEncoder.from_pretrained(model, dtype=dtype, device=device)
    total = sum(1 for _ in read_corpus(file))  # a bad line stops here, before the work
    written = 0
    with (
        FAISSDocumentStore(path=store, similarity=encoder.store_similarity) as document_store,
        tqdm(total=total, desc="Indexing", unit="passage") as progress,
    ):
        for chunk in _chunks(read_corpus(file)):
            vectors = encoder.encode_passages([passage for _, passage in chunk])
            documents = [Document(id=id, content=p.text, meta={"title": p.title}) for id, p in chunk]
            written += document_store.write_vectors(documents, vectors, policy=DuplicatePolicy[duplicates.upper()])
            progress.update(len(chunk))
        progress.close()
        print(f"{written} passages written; {document_store.count_documents()} in {store}")


def _chunks(items: Iterator[tuple[str, Passage]]) -> Iterator[list[tuple[str, Passage]]]:
    while chunk := list(islice(items, WRITE_SIZE)):
        yield chunk
