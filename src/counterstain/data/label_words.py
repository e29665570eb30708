"""What the words of a label column mean for a binary diagnosis: negative, positive, or neither.

Words that can only mean the negative class are known; where they and the user's own leave a doubt, the labels are refused
with the flag that settles it. Case and blanks do not matter.

Does not know: slides, tables.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from counterstain.data.tumour import tumour_classes
from counterstain.errors import InputError, UnknownNameError
from counterstain.results import Classes

NEGATIVE_WORDS = frozenset(
    {"normal", "negative", "neg", "benign", "healthy", "control", "no", "false", "0", "absent"}
    | {f"{no}{between}{what}" for no in ("no", "non") for between in " -_" for what in ("tumour", "tumor", "cancer")}
)
"""Labels that can only mean the negative class."""

POSITIVE_WORDS = frozenset({"tumour", "tumor", "cancer", "positive", "pos", "yes", "true", "1"})
"""Labels that, beside one of NEGATIVE_WORDS, can only mean the positive class."""

UNLABELLED_WORDS = frozenset({"na", "n/a", "nan", "null", "unknown", "missing", "?", "-"})
"""What tables write where a label is missing."""

_NAMELESS = frozenset({"0", "1", "no", "yes", "false", "true", "neg", "pos"})  # no names of classes


@dataclass(frozen=True)
class Named:
    """The words that the user named for each class; None where they are to be told from the labels.

    Args:
        positive: For the positive class.
        negative: For the negative class.

    Raises:
        InputError: When a word is named for both.
    """

    positive: tuple[str, ...] | None = None
    negative: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        both = {plain(word) for word in self.positive or ()} & {plain(word) for word in self.negative or ()}
        if both:
            raise InputError(f"{', '.join(sorted(both))} is named for both classes. Name it for one of them.")


def plain(word: str) -> str:
    """A word as words are compared."""
    return " ".join(word.lower().split())


def is_label(word: str | None) -> bool:
    """Whether a cell of the label column says a label at all."""
    return word is not None and plain(word) not in UNLABELLED_WORDS


def meanings(words: Iterable[str], named: Named) -> dict[str, int]:
    """What each word means: 0 for the negative class, 1 for the positive one.

    Args:
        words: Every label that occurs.
        named: The user's word.

    Returns:
        By plain word; those of neither class are left out, which only happens where the user named both.

    Raises:
        InputError: When the words leave a doubt.
        UnknownNameError: When a word that the user named does not occur.
    """
    there = frozenset(map(plain, words))
    positive, negative = (_occurring(given, there) for given in (named.positive, named.negative))
    rest = there - positive - negative
    if named.positive is None:
        if named.negative is None:
            negative = rest & NEGATIVE_WORDS
        positive = rest - negative
        if len(there) > 1 and positive and (not negative or (len(positive) > 1 and not positive <= POSITIVE_WORDS)):
            raise InputError(_doubt(there, "which of them is the diagnosis", "--positive", sorted(positive)[0]))
    elif named.negative is None:
        negative = rest
        if len(rest) > 1 and not rest <= NEGATIVE_WORDS:
            surely = sorted(rest & NEGATIVE_WORDS) or sorted(rest)
            whom = ", ".join(sorted(positive))
            raise InputError(_doubt(there, f"which of them {whom} is told from", "--negative", surely[0]))
    return {**dict.fromkeys(negative, 0), **dict.fromkeys(positive, 1)}


def classes_of(words: Iterable[str], meaning: Mapping[str, int]) -> Classes:
    """The two classes under the labels' own names, each as it is written first; the negative one is the background.

    Several words for a class stand side by side; words that name nothing, as 0, yes and neg, become negative and positive.
    """
    spellings: dict[str, str] = {}
    for word in words:
        spellings.setdefault(plain(word), word)
    by_class = [[name for name in sorted(spellings) if meaning.get(name) == label] for label in (0, 1)]
    negative, positive = (
        default if set(names) <= _NAMELESS else " or ".join(spellings[name] for name in names)
        for names, default in zip(by_class, ("negative", "positive"), strict=True)
    )
    return tumour_classes(positive, negative)


def _occurring(words: Sequence[str] | None, there: frozenset[str]) -> frozenset[str]:
    for word in words or ():
        if plain(word) not in there:
            raise UnknownNameError("label", word, there)
    return frozenset(plain(word) for word in words or ())


def _doubt(words: frozenset[str], what: str, flag: str, example: str) -> str:
    return (
        f"The labels are {', '.join(sorted(words))}, and nothing says {what}. Name one or several, as in {flag} "
        f"{_quoted(example)}. Where both --positive and --negative are named, slides of other labels are left out."
    )


def _quoted(word: str) -> str:
    return f"'{word}'" if " " in word else word
