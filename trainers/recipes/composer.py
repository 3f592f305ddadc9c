"""What recipes are written with: each method adds a stage, with all that it takes from the recipe's settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rocketqa_haystack.data import read_qrels
from rocketqa_haystack.data.files import read_lines
from rocketqa_haystack.encoders.loading import kind_of, resolve
from trainers.recipes.candidates import Calibrate, Encode, Fuse, Lexical, Mine, Restrict, Runs, Score
from trainers.recipes.deliver import Deliver, Weigh
from trainers.recipes.generation import Generate, Half, RoundTrip
from trainers.recipes.groups import Denoised, Groups, Labelled, PseudoLabelled, Undenoised
from trainers.recipes.plan import File, GivenModel, Model, Sizes
from trainers.recipes.questions import Asked, Data, Questions, Sample, Unlabelled
from trainers.recipes.settings import Lengths, Recipe, RerankerTraining, RetrieverTraining
from trainers.recipes.training import Side, TrainJoint, TrainReranker, TrainRetriever
from trainers.sampling import Thresholds


class Composer:
    """The stages of one recipe.

    Attributes:
        recipe: Its settings.
        retriever: What the retriever starts from.
        reranker: What the re-ranker starts from.
        data: The labelled questions; those that are generated among them.
        sample: Those of them that candidates are found for.
        unlabelled: The unlabelled questions, if there are any.
        systems: What is measured so far: a title and its rankings of the dev and test questions.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.retriever = GivenModel(recipe.retriever)
        self.reranker = GivenModel(recipe.reranker or recipe.retriever)
        self.unlabelled = Unlabelled(recipe.unlabelled) if recipe.unlabelled else None
        self.systems: list[tuple[str, Runs]] = []
        self._corpus = File(recipe.collection / "corpus.jsonl")
        self._encoded: dict[str, Encode] = {}
        self.data = Data(
            "questions",
            self._corpus,
            self._file("queries.jsonl"),
            self._split(recipe.splits.train),
            self._split(recipe.splits.dev),
            self._split(recipe.splits.test),
            File(recipe.judgements) if recipe.judgements else None,
            self._generated(),
            0 if self._split(recipe.splits.dev) else recipe.seed,  # dev is drawn only where there is none
        )
        self.asked = Asked("asked", self.data, self._file("queries.jsonl"), self._split(recipe.splits.test))
        mined = recipe.mining.questions
        self.sample = self.data if mined is None else Sample("sample", self.data, mined, recipe.seed)
        self.lexical = Lexical("bm25", self.asked, self._corpus, recipe.mining.k)
        self.systems.append(("BM25", self.lexical))

    def labelled(self) -> Labelled:
        """The labelled questions, with BM25's or random negatives where the first step asks for them."""
        step, lexical, random = self.recipe.step1, None, 0
        if step.lexical_negatives:
            lexical = Lexical("bm25-negatives", self.data, self._corpus, self.recipe.mining.k)
        else:
            random = step.hard_negatives * max(1, step.epochs)  # others in every epoch
        return Labelled("labelled", self.data, self._corpus, lexical, random, self.recipe.seed if random else 0)

    def train_retriever(
        self, name: str, start: Model, groups: tuple[Groups, ...], training: RetrieverTraining
    ) -> Model:
        """A retriever trained on groups; without epochs, the one that it would start from."""
        if not training.epochs:
            return start
        recipe = self.recipe
        return TrainRetriever(
            name, start, groups, self.data, training, replace(recipe.lengths, pair=None), recipe.title, recipe.seed
        )

    def train_reranker(self, name: str, start: Model, mined: Mine, training: RerankerTraining) -> Model:
        """A re-ranker trained on the retriever's candidates; without epochs, the one that it would start from."""
        if not training.epochs:
            return start
        groups = (self.undenoised(mined, training.negatives),)
        return TrainReranker(name, start, groups, self.data, mined, training, self._pair_length, self.recipe.seed)

    def train_joint(
        self, retriever: Model, reranker: Model, mined: Mine, denoised: tuple[Groups, ...]
    ) -> tuple[Model, Model]:
        """Both, trained on lists of the kinds that the recipe asks for; without epochs, what they would start from."""
        joint = self.recipe.joint
        if not joint.epochs:
            return retriever, reranker
        undenoised: tuple[Groups, ...] = (self.undenoised(mined, joint.list_length - 1),)
        pools = {"hybrid": (undenoised, denoised), "undenoised": (undenoised, ()), "denoised": (denoised, ())}
        first, second = pools[joint.lists]
        recipe = self.recipe
        stage = TrainJoint(
            "joint", retriever, reranker, first, second, self.data, joint, recipe.lengths, recipe.title, recipe.seed
        )
        return Side(stage, "retriever"), Side(stage, "reranker")

    def mine(self, name: str, retriever: Model, questions: Questions) -> Mine:
        """The candidates of questions, from the retriever and what else the recipe names."""
        mining = self.recipe.mining
        other = File(mining.run) if mining.run else None
        return Mine(name, questions, retriever, self._encode(retriever), self._corpus, mining.k, mining.bm25, other)

    def score(self, name: str, reranker: Model, mined: Mine) -> Score:
        """The re-ranker's logits of candidates and of labelled positives."""
        dtype = self.recipe.dtype
        return Score(name, mined.questions, reranker, mined, self._corpus, mined.most, dtype, with_positives=True)

    def undenoised(self, mined: Mine, at_least: int) -> Undenoised:
        """The labelled questions with all candidates as negatives."""
        return Undenoised("undenoised", self.data, self._corpus, mined, at_least, self.recipe.seed)

    def denoised(self, name: str, mined: Mine, scores: Score, at_least: int, all: bool = False) -> Denoised:
        """The labelled questions with the negatives that the re-ranker is sure of."""
        recipe = self.recipe
        return Denoised(
            name, self.data, self._corpus, mined, scores, self.calibration(scores), recipe.denoising.negative_below,
            at_least, all, recipe.seed,
        )  # fmt: skip

    def pseudo_labelled(
        self, questions: Unlabelled, retriever: Model, reranker: Model, labels: Score, at_least: int, all: bool = False
    ) -> PseudoLabelled:
        """The unlabelled questions with the labels that the re-ranker is sure of."""
        mined = self.mine("mine-unlabelled", retriever, questions)
        scores = self.score("score-unlabelled", reranker, mined)
        recipe = self.recipe
        return PseudoLabelled(
            "pseudo-labels", questions, self.data, self.asked, self._corpus, mined, scores, self.calibration(labels),
            self._thresholds, at_least, all, recipe.seed,
        )  # fmt: skip

    def calibration(self, scores: Score) -> Calibrate | None:
        """The temperature fitted on dev, where the recipe asks for it."""
        return Calibrate("calibration", scores, self.data) if self.recipe.denoising.calibrate else None

    def measure_retriever(self, title: str, name: str, retriever: Model) -> Mine:
        """Adds a retriever to what is measured."""
        found = Mine(name, self.asked, retriever, self._encode(retriever), self._corpus, self.recipe.mining.k)
        self.systems.append((title, found))
        return found

    def measure_reranker(self, title: str, name: str, reranker: Model, candidates: Runs) -> None:
        """Adds a re-ranker of some candidates to what is measured."""
        self.systems.append((title, self._score_asked(name, reranker, candidates)))

    def measure_untouched(self) -> None:
        """Adds the models that the recipe starts from, as far as they rank without training."""
        found = self.measure_retriever("untouched retriever", "measure-untouched", self.retriever)
        if ranks(self.reranker):
            self.measure_reranker("untouched retriever + re-ranker", "measure-untouched-reranker", self.reranker, found)

    def deliver(self, retriever: Model, reranker: Model, scores: Score) -> Deliver:
        """The end of a run: the final systems measured, models, store, pipelines and report.

        Args:
            retriever: The final one.
            reranker: The final one.
            scores: The denoising re-ranker's logits of the labelled questions' candidates.
        """
        recipe = self.recipe
        found = self.measure_retriever("final retriever", "measure-final", retriever)
        fused = Fuse("measure-hybrid", self.asked, found, self.lexical)
        self.systems.append(("final retriever and BM25, fused", fused))
        scored = self._score_asked("rerank-hybrid", reranker, fused)
        weighed = []
        for title, name, candidates, logits in (
            ("final retriever + re-ranker", "final", found, Restrict("rerank-final", self.asked, found, scored)),
            ("final retriever and BM25 + re-ranker", "hybrid", fused, scored),
        ):
            best = Weigh(f"weigh-{name}", self.asked, candidates, logits, recipe.measures[0])
            self.systems += [(title, logits), (f"{title}, weighed", best)]
            weighed.append(best)
        return Deliver(
            "deliver", tuple(self.systems), retriever, reranker, self._encode(retriever), self._corpus, self.data,
            self.asked, weighed[0], weighed[1], scores, self.calibration(scores), self._thresholds, recipe.mining.k,
            recipe.measures,
        )  # fmt: skip

    def sizes(self) -> Sizes:
        """How much of everything there is."""
        recipe = self.recipe
        passages = sum(1 for _ in read_lines(self._corpus.path))
        generated = 0
        if recipe.generation is not None:
            generated = min(passages, recipe.generation.passages or passages) * recipe.generation.per_passage
        train, dev, test = (
            len(read_qrels(file.path)) if file else 0
            for file in (self.data.train, self.data.dev, self._split(recipe.splits.test))
        )
        unlabelled = sum(1 for _ in read_lines(self.unlabelled.path)) if self.unlabelled else 0
        return Sizes(passages, train + generated, dev, test, unlabelled, generated)

    def _generated(self) -> RoundTrip | None:
        """The generated questions that find their way back. A re-ranker that cannot rank yet is not asked."""
        settings, seed = self.recipe.generation, self.recipe.seed
        if settings is None:
            return None
        made = Generate(
            "generate", self._corpus, settings.generator, settings.per_passage, settings.passages,
            seed if settings.passages else 0,
        )  # fmt: skip
        splits = (self._split(self.recipe.splits.dev), self._split(self.recipe.splits.test))
        held_out = tuple(file for file in splits if file is not None)
        rank = min(settings.rank, self.recipe.mining.k)

        def mine(name: str, asked: Generate | Half) -> Mine:
            # The retriever's own list: what only BM25 or another run finds has not found its way back.
            encoded = self._encode(self.retriever)
            return Mine(name, asked, self.retriever, encoded, self._corpus, self.recipe.mining.k)

        def score(name: str, reranker: Model, mined: Mine) -> Score:
            return Score(name, mined.questions, reranker, mined, self._corpus, mined.most, self.recipe.dtype)

        def back(
            name: str, asked: Generate | Half, mined: tuple[Mine, ...], scores: tuple[Score, ...], dev_share: float
        ) -> RoundTrip:
            return RoundTrip(
                name, asked, mined, scores, self._file("queries.jsonl"), held_out, rank,
                settings.above if scores else 0.0, dev_share, seed,
            )  # fmt: skip

        dev_share = 0.0 if self._split(self.recipe.splits.dev) else settings.dev_share
        if ranks(self.reranker):
            mined = mine("mine-generated", made)
            return back("round-trip", made, (mined,), (score("score-generated", self.reranker, mined),), dev_share)
        # The questions that the retriever affirms teach a re-ranker. It would agree to what it has learned: each half
        # of the passages has its own, which looks at the questions of the other.
        halves = (Half(made, 0), Half(made, 1))
        found = tuple(mine(f"mine-generated-{half.number}", half) for half in halves)
        scores = []
        for half, learned, other in zip(halves, found, found[::-1], strict=True):
            which = half.number
            affirmed = back(f"round-trip-retriever-{which}", half, (learned,), (), settings.dev_share)
            data = Data(f"questions-generated-{which}", self._corpus, None, None, None, None, None, affirmed, seed)
            candidates = self.mine(f"mine-questions-generated-{which}", self.retriever, data)
            groups = Undenoised(
                f"undenoised-generated-{which}", data, self._corpus, candidates, self.recipe.step2.negatives, seed
            )
            reranker = TrainReranker(
                f"reranker-generated-{which}", self.reranker, (groups,), data, candidates, self.recipe.step2,
                self._pair_length, seed,
            )  # fmt: skip
            scores.append(score(f"score-generated-{1 - which}", reranker, other))
        return back("round-trip", made, found, tuple(scores), dev_share)

    def _score_asked(self, name: str, reranker: Model, candidates: Runs) -> Score:
        k = self.recipe.mining.k * (2 if isinstance(candidates, Fuse) else 1)
        return Score(name, self.asked, reranker, candidates, self._corpus, k, self.recipe.dtype)

    @property
    def _pair_length(self) -> Lengths:
        """All that a re-ranker knows of lengths."""
        return Lengths(pair=self.recipe.lengths.pair)

    @property
    def _thresholds(self) -> Thresholds:
        return Thresholds(self.recipe.denoising.negative_below, self.recipe.denoising.positive_above)

    def _encode(self, retriever: Model) -> Encode:
        name = f"encode-{len(self._encoded)}"
        return self._encoded.setdefault(retriever.key, Encode(name, retriever, self._corpus, self.recipe.dtype))

    def _split(self, name: str) -> File | None:
        return self._file(Path("qrels") / f"{name}.tsv")

    def _file(self, name: str | Path) -> File | None:
        path = self.recipe.collection / name
        return File(path) if path.is_file() else None


def ranks(model: GivenModel) -> bool:
    """Whether a model is a cross-encoder already, and not one that would get a new head."""
    return kind_of(resolve(model.model)) == "cross-encoder"
