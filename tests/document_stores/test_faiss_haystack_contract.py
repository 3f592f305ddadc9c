"""Haystack's own tests of a document store, over this one, in memory and in a folder."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from haystack import Document
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DocumentStore
from haystack.testing.document_store import (
    CountDocumentsByFilterTest,
    CountUniqueMetadataByFilterTest,
    DocumentStoreBaseExtendedTests,
    FilterableDocsFixtureMixin,
    GetMetadataFieldMinMaxTest,
    GetMetadataFieldsInfoTest,
    GetMetadataFieldUniqueValuesTest,
)
from haystack.testing.document_store_async import (
    CountDocumentsAsyncTest,
    CountDocumentsByFilterAsyncTest,
    CountUniqueMetadataByFilterAsyncTest,
    DeleteAllAsyncTest,
    DeleteByFilterAsyncTest,
    DeleteDocumentsAsyncTest,
    FilterDocumentsAsyncTest,
    GetMetadataFieldMinMaxAsyncTest,
    GetMetadataFieldsInfoAsyncTest,
    GetMetadataFieldUniqueValuesAsyncTest,
    UpdateByFilterAsyncTest,
    WriteDocumentsAsyncTest,
)

from rocketqa_haystack.document_stores.faiss import FAISSDocumentStore


class StoreFixture:
    @pytest.fixture(params=["memory", "folder"])
    def document_store(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FAISSDocumentStore]:
        path = tmp_path / "store" if request.param == "folder" else None
        with FAISSDocumentStore(path=path, return_embedding=True) as store:
            yield store

    @staticmethod
    def assert_documents_are_equal(received: list[Document], expected: list[Document]) -> None:
        """Equal in everything, embeddings as float32."""
        assert received == [
            document
            if document.embedding is None
            else replace(document, embedding=np.asarray(document.embedding, dtype=np.float32).tolist())
            for document in expected
        ]


class TestSync(
    StoreFixture,
    DocumentStoreBaseExtendedTests,  # DocumentStoreBaseTests and more
    CountDocumentsByFilterTest,
    CountUniqueMetadataByFilterTest,
    GetMetadataFieldsInfoTest,
    GetMetadataFieldMinMaxTest,
    GetMetadataFieldUniqueValuesTest,
):
    def test_write_documents(self, document_store: DocumentStore) -> None:
        """Without a policy a document that is there already is refused."""
        document = Document(content="test doc")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            document_store.write_documents([document])
        self.assert_documents_are_equal(document_store.filter_documents(), [document])


class TestAsync(
    StoreFixture,
    CountDocumentsAsyncTest,
    CountDocumentsByFilterAsyncTest,
    CountUniqueMetadataByFilterAsyncTest,
    DeleteAllAsyncTest,
    DeleteByFilterAsyncTest,
    DeleteDocumentsAsyncTest,
    FilterDocumentsAsyncTest,
    GetMetadataFieldMinMaxAsyncTest,
    GetMetadataFieldsInfoAsyncTest,
    GetMetadataFieldUniqueValuesAsyncTest,
    UpdateByFilterAsyncTest,
    WriteDocumentsAsyncTest,
    FilterableDocsFixtureMixin,
):
    @pytest.mark.asyncio
    async def test_write_documents_async(self, document_store: FAISSDocumentStore) -> None:
        """Without a policy a document that is there already is refused."""
        document = Document(content="test doc")
        assert await document_store.write_documents_async([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            await document_store.write_documents_async([document])
        self.assert_documents_are_equal(await document_store.filter_documents_async(), [document])
