"""A passage: what is retrieved and ranked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Passage:
    """A passage of text with an optional title. Wherever passages are taken, plain strings do too."""

    text: str
    title: str = ""

    def is_empty(self) -> bool:
        """Whether there is neither text nor title, but white space."""
        return not (self.text.strip() or self.title.strip())


def as_passage(value: Passage | str) -> Passage:
    """The passage itself, or a string as a passage without a title.

    Raises:
        TypeError: The value is neither.
    """
    if isinstance(value, Passage):
        return value
    if isinstance(value, str):
        return Passage(value)
    raise TypeError(f"a passage must be a Passage or a string, not {type(value).__name__}: {value!r:.80}")
