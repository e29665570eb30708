"""Tumour or no tumour: datasets of two classes, one of which stands for nothing of interest.

A positive image's label says tumour alone, whatever else it shows; a negative's says normal.

Does not know: how datasets are stored, networks.
"""

from counterstain.data.labels import Label
from counterstain.errors import InputError
from counterstain.results import Classes

NORMAL = "normal"
"""The class without tumour, where a dataset has no name for it."""


def tumour_classes(tumour: str = "tumour", normal: str = NORMAL) -> Classes:
    """The two classes of a tumour dataset, normal tissue first.

    Args:
        tumour: The class that is looked for.
        normal: Everything else.

    Raises:
        InputError: When both have one name.
    """
    if tumour == normal:
        raise InputError(
            f"{tumour!r} was given as the one class of a dataset, and stands for what is not looked for. Name the column "
            "after what is, with 1 where it occurs."
        )
    return Classes((normal, tumour), ((200, 200, 200), (205, 51, 51)), normal)


def tumour_class(classes: Classes, named: str | None = None) -> int:
    """The index of the class that is looked for, of two.

    Args:
        classes: Of a dataset.
        named: The class; None is the one that is not `classes.background`.

    Raises:
        InputError: When there are not two classes, or the one that is looked for can't be told from the other.
        UnknownNameError: When none has that name.
    """
    if len(classes) != 2:
        raise InputError(
            f"The dataset has {len(classes)} classes, {', '.join(classes.names)}; two were expected, tumour and no tumour. "
            "Make a table with one column of 0 and 1."
        )
    if named is not None:
        index = classes.index(named)
        if named == classes.background:
            raise InputError(
                f"{named!r} was named as the positive class, and the dataset has it as its background. Name the other one, "
                f"{classes.names[1 - index]!r}, or change 'background' in classes.toml."
            )
        return index
    if classes.background is None:
        raise InputError(
            f"Nothing says which of {' and '.join(classes.names)} is the tumour. Name it with --positive, or give the "
            "other as 'background' in classes.toml."
        )
    return 1 - classes.index(classes.background)


def is_positive(label: Label, index: int) -> bool:
    """Whether a label names the class of that index."""
    return label[index] == 1
