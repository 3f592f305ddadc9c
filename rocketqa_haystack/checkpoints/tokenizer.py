"""The official tokenizer, as one of the tokenizers library.

It is BERT's, lower-casing, in its original form, where special tokens mean nothing within a text, the Greek capital
sigma at the end of a word becomes a final sigma, and the character tables are those of the Python that ran it. The
library's own BertNormalizer and BertPreTokenizer do not know the sigma and have older tables; regular expressions make
up for it here, at hardly any cost, and stand in the model folder's tokenizer.json like all the rest.
"""

from __future__ import annotations

import re
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rocketqa_haystack.checkpoints.errors import CheckpointError
from rocketqa_haystack.encoders.pairs import OFFICIAL_PAIRS

SPECIAL_TOKENS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}

#: Vocabularies have some hundred kilobytes.
LARGEST_VOCABULARY = 64 * 1024 * 1024

#: Characters that Unicode 12.1, the tables of the toolkit's Python, did not have yet (by Unicode's DerivedAge.txt; a
#: range may run over characters that no version has). The toolkit drops them, as it does control characters.
NEWER_CHARACTERS = """
    61D 870-89F 8B5 8BE-8D2 B55 C3C C5D CDD CF3 D04 D81 ECE 170D 1715-171F 180F 1ABF-1ACE 1B4C-1B4F 1B7D-1B7F 1C89-1C8A
    1DFA 20C0 2427-2429 2B97 2C2F 2C5F 2E50-2E5D 2FFC-2FFF 31BB-31BF 31E4-31EF 4DB6-4DBF 9FF0-9FFF A7C0-A7C1 A7C7-A7F6
    A82C AB68-AB6B FBC2 FD40-FD4F FDCF FDFE-FDFF 1019C 10570-105F3 10780-107BA 10D40-10D8F 10E80-10EFF 10F70-10FCB
    11070-11075 110C2 11147 111CE-111CF 1123F-11241 11380-113E2 1145A 11460-11461 116B9 116D0-116E3 11740-11746
    11900-11959 11AB0-11ABF 11B00-11BF9 11F00-11FB0 12F90-12FF2 1342F 13439-143FA 16100-16139 16A70-16AC9 16D40-16D79
    16FE4-16FF1 18AF3-1AFFE 1B11F-1B132 1B155 1CC00-1CFC3 1D1E9-1D1EA 1D2C0-1D2D3 1DF00-1DF2A 1E030-1E08F 1E290-1E2AE
    1E4D0-1E7FE 1F10D-1F10F 1F16D-1F16F 1F1AD 1F6D6-1F6DF 1F6FB-1F6FC 1F774-1F77F 1F7D9 1F7F0 1F8B0-1F8C1 1F90C 1F972
    1F977-1F979 1F9A3-1F9A4 1F9AB-1F9AD 1F9CB-1F9CC 1FA74-1FA77 1FA7B-1FA7C 1FA83-1FA8F 1FA96-1FBF9 2A6D7-2A6DF
    2B735-2B739 2EBF0-2EE5D 30000-323AF
"""

#: The same as the inside of a character class.
_NEWER = "".join(re.sub("[0-9A-F]+", lambda code: rf"\x{{{code[0]}}}", part) for part in NEWER_CHARACTERS.split())

#: Dropped before all else. The white space among the control characters stays.
DROPPED = rf"[\p{{C}}\x{{FFFD}}{_NEWER}&&[^\t\n\r]]"

#: Unicode's condition Final_Sigma as Python's str.lower() has it: what is both cased and ignorable is passed over.
FINAL_SIGMA = (
    r"(?<=[\p{Cased}&&[^\p{Case_Ignorable}]]\p{Case_Ignorable}*)\x{3A3}"
    r"(?!\p{Case_Ignorable}*[\p{Cased}&&[^\p{Case_Ignorable}]])"
)

#: What stands alone: punctuation, ASCII's symbols, and the ideographs that the library's BertNormalizer passes over.
SEPARATE = r"[\p{P}$+<=>^`|~\x{2B820}-\x{2B91F}]"


def build_tokenizer(
    vocabulary: Path, *, vocabulary_size: int, removes_spaces: bool, max_length: int
) -> PreTrainedTokenizerFast:
    """The official tokenizer over a vocabulary.

    Args:
        vocabulary: The file, one token on each line.
        vocabulary_size: Rows of the embedding. A shorter vocabulary is fine.
        removes_spaces: Remove spaces from texts before all else (`for_cn`).
        max_length: Longest text or pair in tokens where no other length is asked for.

    Raises:
        CheckpointError: The vocabulary cannot be read, lacks a special token or has ids beyond the embedding.
    """
    ids = _read_vocabulary(vocabulary, vocabulary_size)
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.Sequence(
        [
            *([normalizers.Replace(" ", "")] if removes_spaces else []),
            normalizers.Replace(Regex(DROPPED), ""),
            normalizers.BertNormalizer(True, True, strip_accents=False, lowercase=False),
            normalizers.Replace(Regex(FINAL_SIGMA), "\u03c2"),
            normalizers.BertNormalizer(False, False, strip_accents=True, lowercase=True),
            normalizers.Replace(Regex(r"\p{Mn}"), ""),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(SEPARATE), "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    tokenizer.decoder = decoders.WordPiece()
    masks = {"mask_token": "[MASK]"} if "[MASK]" in ids else {}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        **SPECIAL_TOKENS,
        **masks,
        **{OFFICIAL_PAIRS: True},
    )


def _read_vocabulary(path: Path, size: int) -> dict[str, int]:
    if not path.is_file():  # a named pipe would wait for a writer for ever
        raise CheckpointError(f"{path} is not a file")
    try:
        if path.stat().st_size > LARGEST_VOCABULARY:
            raise CheckpointError(f"{path} is no vocabulary: it is larger than {LARGEST_VOCABULARY:,} bytes")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8 text ({error.reason})") from error
    ids = {}
    for number, line in enumerate(text.split("\n")):
        token, _, column = line.strip().partition("\t")  # ERNIE's vocabularies have the id in a second column
        if column and not (column.isdecimal() and len(column) < 20):
            raise CheckpointError(f"{path}, line {number + 1}: {column!r:.80} is no id")
        if token:
            ids[token] = int(column or number)  # of two lines with one token, the second counts, as in the toolkit
    largest = max(ids.values(), default=0)
    if largest >= size:
        raise CheckpointError(f"{path} has ids up to {largest}; the embedding has {size} rows")
    missing = [token for token in SPECIAL_TOKENS.values() if token not in ids]
    if missing:
        raise CheckpointError(f"{path} is no vocabulary of a RocketQA model: it has no {', '.join(missing)}")
    return ids
