"""The README.md of a trained model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import ModelCardData

from rocketqa_haystack import __version__
from rocketqa_haystack.encoders import CrossEncoder
from trainers.reader_model import Reader

CARD = """---
{front}
---

# {name}

A {kind}, trained with rocketqa-haystack {version} ({trainer}).

## Use

```python
{use}
```

## Training data

{data}

## Settings

{settings}

## Measures

{measures}
"""

RETRIEVER = """from rocketqa_haystack import RocketQADocumentEmbedder, RocketQATextEmbedder

embedder = RocketQATextEmbedder(model="path/to/this/folder")  # and RocketQADocumentEmbedder for the documents
embedder.run("a question")"""

RERANKER = """from haystack import Document
from rocketqa_haystack import RocketQARanker

ranker = RocketQARanker(model="path/to/this/folder")
ranker.run(query="a question", documents=[Document(content="a passage")])"""

READER = """from haystack import Document
from haystack_integrations.components.readers.transformers import TransformersExtractiveReader

reader = TransformersExtractiveReader(model="path/to/this/folder")
reader.run(query="a question", documents=[Document(content="a passage")])"""


class Kind(NamedTuple):
    """What the card says of a kind of model."""

    name: str
    tag: str
    library: str
    task: str
    use: str


KINDS = {
    "": Kind(
        "dense retriever (dual encoder)", "dual-encoder", "sentence-transformers", "sentence-similarity", RETRIEVER
    ),
    "re-ranker": Kind("re-ranker (cross-encoder)", "cross-encoder", "sentence-transformers", "text-ranking", RERANKER),
    "reader": Kind("reader of answers (extractive)", "extractive-reader", "transformers", "question-answering", READER),
}


def write_model_card(
    folder: Path, name: str, encoder: object, run: Mapping[str, Any], log: Sequence[Mapping[str, Any]]
) -> None:
    """Writes the README.md of a model folder.

    Args:
        folder: The model folder.
        name: What the model is called.
        encoder: What is in it.
        run: What the run's folder has as its identity.
        log: What it has as its log.
    """
    kind = KINDS["re-ranker" if isinstance(encoder, CrossEncoder) else "reader" if isinstance(encoder, Reader) else ""]
    front = ModelCardData(
        library_name=kind.library,
        pipeline_tag=kind.task,
        tags=["rocketqa-haystack", "haystack", kind.tag],
    )
    measured = [(line["step"], line["dev"]) for line in log if "dev" in line]
    last = next((line for line in reversed(log) if "loss" in line), None)
    measures = []
    if last is not None:
        measures.append(f"Loss of the last step, {last['step']}: {last['loss']:.4f}")
    if measured:
        names = list(measured[0][1])
        rows = [[step, *(f"{values[name]:.4f}" for name in names)] for step, values in measured]
        measures.append(_table(["step", *(f"dev {name}" for name in names)], rows))
        measures.append("The weights are those of the step with the best measure.")
    text = CARD.format(
        front=front.to_yaml(),
        name=name,
        kind=kind.name,
        version=__version__,
        trainer=run["options"].get("trainer", ""),
        use=kind.use,
        data=_table(["", ""], list(run["data"].items())),
        settings=_table(["setting", "value"], [*run["options"].items(), *run["settings"].items()]),
        measures="\n\n".join(measures) or "None.",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ([str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in (head, *rows))
    text = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([text[0], "| --- " * len(head) + "|", *text[1:]])
