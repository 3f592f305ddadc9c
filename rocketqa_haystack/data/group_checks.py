"""What is wrong with training groups, told before training starts."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field

from rocketqa_haystack.data.groups import TrainingGroup
from rocketqa_haystack.data.passage import Passage

#: What nothing can be learned from; files with such groups are refused when they are read.
NO_POSITIVE = "no positive passage"
EMPTY_QUERY = "an empty question"
EMPTY_POSITIVE = "an empty positive passage"
UNTRAINABLE = (NO_POSITIVE, EMPTY_QUERY, EMPTY_POSITIVE)


@dataclass
class Finding:
    """How many groups have a fault, and the query ids of the first of them."""

    count: int = 0
    query_ids: list[str] = field(default_factory=list)


@dataclass
class GroupsReport:
    """What `check_groups` found.

    Attributes:
        groups: Groups that were looked at.
        findings: Faults that at least one group has, each with the number of groups and the first of their query ids.
    """

    groups: int = 0
    findings: dict[str, Finding] = field(default_factory=dict)

    @property
    def trainable(self) -> bool:
        """Whether every group has a question, a positive and no empty positive."""
        return not any(fault in self.findings for fault in UNTRAINABLE)

    def __str__(self) -> str:
        """One paragraph: the number of groups, then each fault with its count and examples."""
        faults = [
            f" {finding.count:,} with {fault} (such as {', '.join(map(repr, finding.query_ids))})."
            for fault, finding in self.findings.items()
        ]
        return f"{self.groups:,} training groups{':' if faults else ', none with a fault.'}{''.join(faults)}"


def check_groups(
    groups: Iterable[TrainingGroup],
    *,
    negatives: int = 0,
    known: Callable[[str], Container[Passage]] = lambda query: (),
) -> GroupsReport:
    """Looks at every group once, one at a time.

    Args:
        groups: The training data.
        negatives: Negatives that training will ask of every group. Those that count are different from one another and
            from the group's positives.
        known: What answers a question by any group, which does not count either.
    """
    report = GroupsReport()
    for group in groups:
        report.groups += 1
        for fault in _faults(group, negatives, known(group.query)):
            finding = report.findings.setdefault(fault, Finding())
            finding.count += 1
            if len(finding.query_ids) < 3:
                finding.query_ids.append(group.query_id)
    return report


def _faults(group: TrainingGroup, negatives: int, known: Container[Passage]) -> Iterator[str]:
    if not group.positives:
        yield NO_POSITIVE
    if not group.query.strip():
        yield EMPTY_QUERY
    if any(passage.is_empty() for passage in group.positives):
        yield EMPTY_POSITIVE
    if any(passage.is_empty() for passage in group.negatives):
        yield "an empty negative passage"
    if not set(group.positives).isdisjoint(group.negatives):
        yield "a positive among its negatives"
    # Groups made in memory may have no ids.
    texts = dict(zip(group.positive_ids, group.positives, strict=False))
    negative_texts = zip(group.negative_ids, group.negatives, strict=False)
    if any(texts.get(id, passage) != passage for id, passage in negative_texts):
        yield "a negative that has the id of a positive and another text"
    usable = {passage for passage in group.negatives if passage not in group.positives and passage not in known}
    if len(usable) < negatives:
        yield f"fewer than {negatives} different negatives"
