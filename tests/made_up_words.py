"""The words of the tests' passages and questions."""

SYLLABLES = ["ba", "be", "bi", "da", "de", "di", "ka", "ke", "ki", "ma", "me", "mi", "ra", "re", "ri", "ta", "te", "ti"]
WORDS = [first + second for first in SYLLABLES for second in SYLLABLES]
