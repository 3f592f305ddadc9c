"""What the official toolkit computes, written anew in numpy and plain Python: slow, in float64, one text at a time."""

from __future__ import annotations

import unicodedata
from math import erf, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Variables = dict[str, NDArray[np.float32]]
Tokens = tuple[list[int], list[int]]

IDEOGRAPHS = [
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
]


class Tokenizer:
    """The official tokenizer: texts to pieces, and pieces to the tokens of a query, a passage or a pair."""

    def __init__(self, vocabulary: list[str], *, for_cn: bool = False) -> None:
        self.ids = {token: number for number, token in enumerate(vocabulary)}
        self.for_cn = for_cn

    def pieces(self, text: str) -> list[int]:
        """The ids of a text's word pieces."""
        if self.for_cn:
            text = text.replace(" ", "")
        kept = []
        for character in text:
            if character in "\0\ufffd" or (character not in "\t\n\r" and unicodedata.category(character)[0] == "C"):
                continue
            if any(first <= ord(character) <= last for first, last in IDEOGRAPHS):
                kept.append(f" {character} ")
            else:
                kept.append(" " if character in "\t\n\r" or unicodedata.category(character) == "Zs" else character)
        return [piece for word in "".join(kept).split() for part in _split(word) for piece in self._word(part)]

    def _word(self, word: str) -> list[int]:
        if len(word) > 100:
            return [self.ids["[UNK]"]]
        pieces, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in self.ids:
                    break
            else:
                return [self.ids["[UNK]"]]
            pieces.append(self.ids[piece])
            start = end
        return pieces

    def query(self, text: str, limit: int) -> Tokens:
        """Ids and segment ids of a query."""
        pieces = self.pieces(text)[: limit - 2]
        return [self.ids["[CLS]"], *pieces, self.ids["[SEP]"]], [0] * (len(pieces) + 2)

    def passage(self, title: str, text: str, limit: int) -> Tokens:
        """Ids and segment ids of a passage, whose second segment is always closed."""
        return self._pair(self.pieces(title), self.pieces(text), limit, closes_empty=True)

    def pair(self, query: str, title: str, text: str, limit: int) -> Tokens:
        """Ids and segment ids of a query and a passage."""
        return self._pair(self.pieces(query), self.pieces(title) + self.pieces(text), limit, closes_empty=False)

    def _pair(self, first: list[int], second: list[int], limit: int, *, closes_empty: bool) -> Tokens:
        while len(first) + len(second) > limit - 3:
            (first if len(first) > len(second) else second).pop()
        ids = [self.ids["[CLS]"], *first, self.ids["[SEP]"]]
        if not second and not closes_empty:
            return ids, [0] * len(ids)
        return [*ids, *second, self.ids["[SEP]"]], [0] * len(ids) + [1] * (len(second) + 1)


def _split(word: str) -> list[str]:
    """A word in lower case without accents, cut at punctuation."""
    parts, begins = [], True
    for character in unicodedata.normalize("NFD", word.lower()):
        if unicodedata.category(character) == "Mn":
            continue
        if unicodedata.category(character)[0] == "P" or character in "$+<=>^`|~":
            parts.append(character)
            begins = True
        elif begins:
            parts.append(character)
            begins = False
        else:
            parts[-1] += character
    return parts


def cls_state(variables: Variables, prefix: str, conf: dict[str, Any], tokens: Tokens) -> NDArray[np.float64]:
    """The last layer's state of the first token, shape [hidden]."""

    def value(name: str) -> NDArray[np.float64]:
        return variables[prefix + name].astype(np.float64)

    def dense(name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x @ value(f"{name}.w_0") + value(f"{name}.b_0")

    def norm(name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * value(f"{name}_scale") + value(f"{name}_bias")

    ids, types = tokens
    heads = conf["num_attention_heads"]
    x = value("word_embedding")[ids] + value("pos_embedding")[: len(ids)] + value("sent_embedding")[types]
    if conf.get("use_task_id"):
        x = x + value("task_embedding")[0]
    x = norm("pre_encoder_layer_norm", x)
    for layer in range(conf["num_hidden_layers"]):
        name = f"encoder_layer_{layer}_"
        query, key, values = (
            dense(f"{name}multi_head_att_{part}_fc", x).reshape(len(ids), heads, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        context = (weights @ values).transpose(1, 0, 2).reshape(len(ids), -1)
        x = norm(f"{name}post_att_layer_norm", x + dense(f"{name}multi_head_att_output_fc", context))
        inner = _activation(conf["hidden_act"], dense(f"{name}ffn_fc_0", x))
        x = norm(f"{name}post_ffn_layer_norm", x + dense(f"{name}ffn_fc_1", inner))
    first: NDArray[np.float64] = x[0]
    return first


def v1_logits(variables: Variables, state: NDArray[np.float64]) -> NDArray[np.float64]:
    """The two logits of a v1 cross-encoder."""
    pooled = np.tanh(state @ variables["pooled_fc.w_0"] + variables["pooled_fc.b_0"])
    logits: NDArray[np.float64] = pooled @ variables["_cls_out_w"] + variables["_cls_out_b"]
    return logits


def v2_logit(variables: Variables, state: NDArray[np.float64]) -> float:
    """The one logit of a v2 cross-encoder."""
    return float((state @ variables["qtp__cls_out_w"] + variables["qtp__cls_out_b"])[0])


def _activation(name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(x, 0) if name == "relu" else x * 0.5 * (1 + np.vectorize(erf)(x / sqrt(2)))
