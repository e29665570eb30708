"""Labels in file names: the digits in the last square brackets of a file's stem.

`[1 0 0 1]`, `[1001]` and `[1, 0, 0, 1]` all say that classes 0 and 3 occur in the patch. A name that says anything else is
refused together with all its like: a patch whose label is guessed or whose file is skipped in silence spoils a dataset.

Does not know: what the classes are, folders.
"""

import re
from collections.abc import Iterable

from counterstain.errors import LabelError

Label = tuple[int, ...]

_BRACKETS = re.compile(r"\[([^\[\]]*)\]")


def parse_label(stem: str, num_classes: int) -> Label:
    """The label at the end of one file's stem.

    Args:
        stem: The file's name without its suffix.
        num_classes: How many digits are expected.

    Returns:
        One 0 or 1 for each class, in the dataset's order. All zeros are a label too: none of these tissues is there.

    Raises:
        LabelError: When there are no brackets, another number of digits, or anything but 0 and 1.
    """
    return parse_labels([stem], num_classes)[0]


def parse_labels(stems: Iterable[str], num_classes: int) -> tuple[Label, ...]:
    """The labels of many stems.

    Raises:
        LabelError: Listing every stem that can't be parsed.
    """
    stems = list(stems)
    labels = [_digits(stem, num_classes) for stem in stems]
    bad = [stem for stem, label in zip(stems, labels, strict=True) if label is None]
    if bad:
        example = ", ".join("1" if position == 0 else "0" for position in range(num_classes))
        raise LabelError(
            f"{len(bad)} of {len(stems)} file names carry no label of {num_classes} digits such as [{example}] at their "
            "end. Rename or remove:",
            bad,
        )
    return tuple(label for label in labels if label is not None)


def _digits(stem: str, num_classes: int) -> Label | None:
    brackets = _BRACKETS.findall(stem)
    if not brackets:
        return None
    text = re.sub(r"[\s,]", "", brackets[-1])
    if len(text) != num_classes or set(text) - {"0", "1"}:
        return None
    return tuple(int(digit) for digit in text)
