"""Of the flags by which `train` takes a cohort, those that say which slides there are and what they are: other verbs of
labelled slides take the same, by the same words.

Does not know: encoders, folds, runs.
"""

from dataclasses import fields
from typing import Annotated, Any

from cyclopts import Group, Parameter

from counterstain.cli.flags import optional_twin
from counterstain.cli.train_slides import CohortFlags

_LABELS = frozenset({"cohort", "labels", "root", "positive", "negative", "patient_is_slide", "include"})
_FLAGS = optional_twin(CohortFlags, without=tuple(one.name for one in fields(CohortFlags) if one.name not in _LABELS))


def label_flags(group: Group) -> Any:
    """For the annotation of a verb's parameter; `flags.given` tells which were given.

    Args:
        group: Under which the verb's help shows them.
    """
    return Annotated[_FLAGS | None, Parameter(name="*", group=group)]
