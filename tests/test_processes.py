"""N processes with B queries take the step of one process with N·B: gradients, and weights after five steps of AdamW.

In float64, where rounding can neither hide a difference nor make one. In float32, vectors differ in their last bits
with the padding of their batches, and some gradients are nothing but such noise, because they are zero in exact
arithmetic: those of the key biases of attention, which move all logits of a softmax alike, and that of the last bias of
a passage tower, which moves all scores of a query alike. The optimizer's epsilon keeps it from making whole steps of
them.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from made_up_words import WORDS
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from rocketqa_haystack.data import Passage, TrainingGroup, write_groups

Steps = dict[str, dict[str, torch.Tensor]]

KINDS = [f"dual {towers} {hard}" for towers in ("one", "two") for hard in (0, 1, 3)]
PLAIN = [f"{kind} caching=False" for kind in [*KINDS, "cross", "joint"]]
CACHED = [f"{kind} caching=True" for kind in ("dual one 1", "dual two 1", "cross", "joint")]


@pytest.fixture(scope="module")
def taken(
    encoder_folder: Path, ranker_folder: Path, language_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Steps]:
    """For each number of processes and each case, gradients and weights by name."""
    folder = tmp_path_factory.mktemp("processes")
    towers = [[Transformer(str(language_model), max_seq_length=64), Pooling(32, "cls")] for _ in range(2)]
    two = SentenceTransformer(modules=[Router.for_query_document(*towers)], device="cpu", similarity_fn_name="dot")
    two.save_pretrained(str(folder / "two-towers"))
    write_groups(folder / "groups.jsonl", some_groups(4 * 12 + 7))  # the last of five batches is ragged
    script = Path(__file__).with_name("steps_of_processes.py")
    arguments = [encoder_folder, folder / "two-towers", ranker_folder, folder / "groups.jsonl", folder]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    result = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    found: dict[int, Steps] = {}
    for processes in (1, 2, 3):
        cases = found.setdefault(processes, {})
        for key, tensor in load_file(folder / f"{processes}.safetensors").items():
            case, _, name = key.partition(" | ")
            cases.setdefault(case, {})[name] = tensor
    return found


def some_groups(count: int) -> list[TrainingGroup]:
    """Of many lengths, with none to four negatives, some passages in several groups, and some questions twice."""
    generator = random.Random(0)

    def text(longest: int) -> str:
        return " ".join(generator.choices(WORDS, k=generator.randint(2, longest)))

    passages = [Passage(text(12), text(3)) for _ in range(count)]
    groups = []
    for number in range(count):
        query = groups[-1].query if number % 9 == 8 else text(5)
        positives = generator.sample(passages, generator.choice([1, 1, 2]))
        negatives = generator.sample(passages, generator.randint(0, 4))
        ids = ["p"] * len(positives), ["n"] * len(negatives)
        groups.append(
            TrainingGroup(str(number), query, tuple(ids[0]), tuple(positives), tuple(ids[1]), tuple(negatives))
        )
    return groups


def parts(steps: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The gradients of each batch, and the weights."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in steps.items():
        part, parameter = name.rsplit(" ", 1)
        found.setdefault(part, {})[parameter] = tensor
    return found


def length(tensors: dict[str, torch.Tensor]) -> float:
    return float(torch.cat([tensor.double().flatten() for tensor in tensors.values()]).norm())


def differences(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> dict[str, float]:
    """Of each batch's gradients and of the weights, relative to the whole."""
    found = {}
    for (part, one), (other_part, other) in zip(parts(first).items(), parts(second).items(), strict=True):
        assert part == other_part
        assert one.keys() == other.keys(), "the same parameters have gradients"
        found[part] = length({name: other[name] - tensor for name, tensor in one.items()}) / length(one)
    return found


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("case", [*PLAIN, *CACHED])
def test_processes_take_the_step_of_one_with_the_whole_batch(
    case: str, processes: int, taken: dict[int, Steps]
) -> None:
    found = differences(taken[1][case], taken[processes][case])
    assert len(found) == 6, "five steps, and the weights after them"
    assert max(found.values()) < 1e-9, found


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("case", CACHED)
def test_gradient_caching_takes_the_step_of_the_whole_batch_on_any_number_of_processes(
    case: str, processes: int, taken: dict[int, Steps]
) -> None:
    found = differences(taken[1][case.replace("True", "False")], taken[processes][case])
    assert max(found.values()) < 1e-9, found


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_in_float32_are_those_of_one_process_after_five_steps(
    kind: str, processes: int, taken: dict[int, Steps]
) -> None:
    found = differences(taken[1][f"{kind} float32"], taken[processes][f"{kind} float32"])
    assert found["weight"] < 1e-6, found
