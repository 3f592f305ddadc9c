"""The official tokenizer in the tokenizers library against the one written anew in plain Python."""

from __future__ import annotations

import random
import statistics
import sys
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from official_form import LETTERS, OTHERS, VOCABULARY, WORDS
from reference import Tokenizer
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from rocketqa_haystack.checkpoints.tokenizer import build_tokenizer
from rocketqa_haystack.encoders.pairs import finish_pairs


@pytest.fixture(scope="module")
def vocabulary_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vocabulary of made-up words."""
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(VOCABULARY), encoding="utf-8")
    return path


def built(vocabulary_file: Path, removes_spaces: bool = False) -> PreTrainedTokenizerFast:
    return build_tokenizer(
        vocabulary_file, vocabulary_size=len(VOCABULARY), removes_spaces=removes_spaces, max_length=10_000
    )


def pieces(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    rows: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return rows


#: Characters that are what they are since Unicode 3.2, whichever tables Python or the library has.
SETTLED = [
    chr(code)
    for code in range(sys.maxunicode + 1)
    if unicodedata.category(chr(code)) == unicodedata.ucd_3_2_0.category(chr(code)) not in ("Cn", "Cs")
]


def test_every_settled_character_is_treated_as_in_the_toolkit(vocabulary_file: Path) -> None:
    texts = [f"a{character}b" for character in SETTLED if unicodedata.category(character) != "Co"]
    texts += [f"\u0391{character}\u03a3" for character in SETTLED[:: 1 + len(SETTLED) // 5_000]]
    reference = Tokenizer(VOCABULARY)
    for text, row in zip(texts, pieces(built(vocabulary_file), texts), strict=True):
        assert row == reference.pieces(text), ascii(text)


#: Also what is both Cased and Case_Ignorable: U+0345 and modifier letters.
SIGMA = "\u03a3\u03c3\u03c2\u0391\u0301\u00ad'. \u0345\u02b0\u207f"
words = st.one_of(
    st.text(st.sampled_from(SETTLED), max_size=8),
    st.text(st.sampled_from(SIGMA), max_size=8),
    st.text(st.sampled_from([*"ab \t\u3000\u5929\u5730\U0002b820", *OTHERS]), max_size=12),
    st.sampled_from([*WORDS, *LETTERS, "[SEP]", "[CLS]", "[PAD]", "[MASK]", "[UNK]", "##er", "a" * 100, "a" * 101]),
)


@given(text=st.lists(words, max_size=6).map("".join), removes_spaces=st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_text_gives_the_toolkits_pieces(text: str, removes_spaces: bool, vocabulary_file: Path) -> None:
    expected = Tokenizer(VOCABULARY, for_cn=removes_spaces).pieces(text)
    assert pieces(built(vocabulary_file, removes_spaces), [text]) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\u0391\u03a3\u207f", ["\u03b1", "##\u03c2", "##\u207f"]),
        ("\u02b0\u03a3", ["\u02b0", "##\u03c3"]),
        ("\u0391\u03a3\u0345", ["\u03b1", "##\u03c2"]),
        ("\u0391\u03a3\u0345\u0391", ["\u03b1", "##\u03c3", "##\u03b1"]),
    ],
)
def test_the_sigma_passes_over_what_is_cased_and_ignorable(text: str, expected: list[str], tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    vocabulary = [*VOCABULARY, "\u02b0", "##\u207f"]
    path.write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer = build_tokenizer(path, vocabulary_size=len(vocabulary), removes_spaces=False, max_length=100)
    assert tokenizer.convert_ids_to_tokens(pieces(tokenizer, [text])[0]) == expected
    assert pieces(tokenizer, [text]) == [Tokenizer(vocabulary).pieces(text)]


@given(first=st.integers(0, 24), second=st.integers(0, 24), limit=st.integers(4, 24), closes_empty=st.booleans())
@settings(max_examples=500, deadline=None)
def test_pairs_of_any_lengths_are_cut_as_in_the_toolkit(
    first: int, second: int, limit: int, closes_empty: bool, vocabulary_file: Path
) -> None:
    texts = "sonne " * first, "mond " * second
    output = built(vocabulary_file)([texts], max_length=limit + 1, truncation="longest_first")
    finish_pairs(output, limit, closes_empty=closes_empty)
    reference = Tokenizer(VOCABULARY)
    expected = reference.passage(*texts, limit) if closes_empty else reference.pair(texts[0], "", texts[1], limit)
    assert (output["input_ids"][0], output["token_type_ids"][0]) == expected
    assert len(output["attention_mask"][0]) == len(expected[0])


def test_characters_that_the_toolkit_did_not_know_are_dropped(vocabulary_file: Path) -> None:
    newer = ["\U0001fae0", "\U0001fa96", "\u9ff0", "\U00030000", "\U0001f6d8", "\u0378"]
    assert pieces(built(vocabulary_file), [f"a{character}b" for character in newer]) == pieces(
        built(vocabulary_file), ["ab"] * len(newer)
    )


def test_a_vocabulary_may_have_its_ids_in_a_second_column(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{token}\t{number}\n" for number, token in enumerate(VOCABULARY)), encoding="utf-8")
    assert pieces(built(path), ["sonne [SEP]"]) == [Tokenizer(VOCABULARY).pieces("sonne [SEP]")]


def test_the_tokenizer_is_no_more_than_twice_as_slow_as_the_plain_one(vocabulary_file: Path) -> None:
    ours = built(vocabulary_file)
    plain = BertTokenizerFast(vocab=str(vocabulary_file))
    generator = random.Random(0)
    pairs = [
        tuple(" ".join(generator.choice([*WORDS, "Wald,", "\u5929\u5730"]) for _ in range(n)) for n in (8, 60))
        for _ in range(300)
    ]

    def seconds(tokenizer: PreTrainedTokenizerFast, official: bool) -> float:
        start = time.process_time()
        output = tokenizer(pairs, truncation="longest_first", max_length=64 + int(official))
        if official:
            finish_pairs(output, 64, closes_empty=True)
        return time.process_time() - start

    ratios = [seconds(ours, True) / seconds(plain, False) for _ in range(8)]
    assert statistics.median(ratios[1:]) < 2
