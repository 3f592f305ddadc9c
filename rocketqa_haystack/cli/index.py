"""`rocketqa index`: passages into a document store."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

if TYPE_CHECKING:
    from haystack import Document

    from rocketqa_haystack.document_stores.faiss import FAISSDocumentStore
    from rocketqa_haystack.encoders import DualEncoder

T = TypeVar("T")

#: Passages encoded and written at once: what is lost at most when the work is stopped.
WRITE_SIZE = 1_024

#: Least cosine of two vectors of one passage by one model, computed in whatever precisions.
SAME_VECTOR = 0.995


def index(
    corpus: Path,
    store: Path,
    model: str,
    duplicates: Literal["fail", "skip", "overwrite"] = "fail",
    index: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
) -> None:
    """Encode the passages of a collection and write them to a document store.

    The store is a folder with an SQLite database, the documents' vectors in it, and a FAISS index derived from them.
    `rocketqa search` and the Haystack components FAISSDocumentStore and RocketQARetriever read it.

    It can be stopped at any time. The same command again continues: a passage that is in the store already, with the
    same title, text and metadata, is neither encoded nor written again.

    Args:
        corpus: A BEIR folder, or a corpus.jsonl: one {"_id", "title", "text"} on each line. An object "metadata" on a
            line becomes the document's, which filters go by.
        store: The store's folder; made if it is not there.
        model: The dual encoder: a model folder, an official RocketQA name (`rocketqa models`) or a Hugging Face id.
        duplicates: What to do with a passage whose id is in the store with another title, text or metadata: stop, leave
            the old one, or replace it.
        index: The type of FAISS index, such as HNSW32 or IVF1024,Flat; by default that of the store, and Flat (exact)
            for a new one.
        dtype: Precision: auto (bfloat16 where it is computed natively), float32, bfloat16 or float16.
        device: Such as cpu or cuda:0; the best there is by default.
    """
    from haystack import Document
    from haystack.document_stores.types import DuplicatePolicy
    from tqdm.auto import tqdm

    from rocketqa_haystack.data import read_corpus_with_metadata
    from rocketqa_haystack.document_stores.faiss import FAISSDocumentStore
    from rocketqa_haystack.document_stores.faiss.index_types import make_index
    from rocketqa_haystack.encoders import DualEncoder

    file = corpus / "corpus.jsonl" if corpus.is_dir() else corpus
    encoder = DualEncoder.from_pretrained(model, dtype=dtype, device=device)
    if index is not None:
        make_index(index, encoder.dimension, encoder.store_similarity)  # a mistake stops here, before the work
    total = sum(1 for _ in read_corpus_with_metadata(file))  # and so does a bad line
    if not total:
        raise ValueError(f"{file}: no passages")
    written, present = 0, 0
    with FAISSDocumentStore(path=store, similarity=encoder.store_similarity, index=index) as document_store:
        _check_model(encoder, document_store, store, model)
        with tqdm(total=total, desc="Indexing", unit="passage") as progress:
            for chunk in _chunks(read_corpus_with_metadata(file)):
                documents = [
                    Document(id=id, content=passage.text, meta={**metadata, "title": passage.title})
                    for id, passage, metadata in chunk
                ]
                found = {each.id: each for each in document_store.get_documents_by_id([each.id for each in documents])}
                todo = [place for place, each in enumerate(documents) if not _is_same(each, found.get(each.id))]
                if duplicates == "skip":
                    todo = [place for place in todo if documents[place].id not in found]
                if todo:
                    vectors = encoder.encode_passages([chunk[place][1] for place in todo])
                    written += document_store.write_vectors(
                        [documents[place] for place in todo], vectors, policy=DuplicatePolicy[duplicates.upper()]
                    )
                present += len(chunk) - len(todo)
                progress.update(len(chunk))
        document_store.save_index()
        already = f", {present} there already" if present else ""
        print(f"{written} passages written{already}; {document_store.count_documents()} in {store}")


def _chunks(items: Iterator[T]) -> Iterator[list[T]]:
    while chunk := list(islice(items, WRITE_SIZE)):
        yield chunk


def _is_same(document: Document, stored: Document | None) -> bool:
    """Whether a passage is in the store as it is now; metadata that only the store has are somebody's own."""
    return stored is not None and stored.content == document.content and {**stored.meta, **document.meta} == stored.meta


def _check_model(encoder: DualEncoder, store: FAISSDocumentStore, folder: Path, model: str) -> None:
    """Refuses to put a model's vectors beside those of another, by one passage of the store."""
    from rocketqa_haystack.data import Passage

    try:
        anywhere = np.ones(encoder.dimension, dtype=np.float32)
        documents = store.embedding_retrieval(anywhere, top_k=1, return_embedding=True)
    except ValueError:
        is_other, place = True, "of other dimensions"
    else:
        if not documents:
            return
        document, title = documents[0], str(documents[0].meta.get("title") or "")
        new = encoder.encode_passages([Passage(document.content or "", title=title)])[0]
        old = np.asarray(document.embedding, dtype=np.float32)
        is_other = old @ new < SAME_VECTOR * np.linalg.norm(old) * np.linalg.norm(new)
        place = f"of passage {document.id!r}"
    if is_other:
        raise ValueError(
            f"{folder} was indexed with another model than {model}, which gives vectors {place} that cannot be "
            "compared with those there: use the model of before, or another folder"
        )
