import pytest

from counterstain.data import is_positive, tumour_class, tumour_classes
from counterstain.errors import InputError, UnknownNameError
from counterstain.results import Classes

COLORS = ((1, 1, 1), (2, 2, 2), (3, 3, 3))


def test_the_tumour_is_the_class_that_is_not_the_background() -> None:
    assert tumour_class(tumour_classes()) == 1
    assert tumour_class(Classes(("cancer", "rest"), COLORS[:2], "rest")) == 0


def test_a_name_tells_the_tumour_where_there_is_no_background() -> None:
    classes = Classes(("gland", "other"), COLORS[:2])
    assert [tumour_class(classes, name) for name in classes.names] == [0, 1]
    with pytest.raises(InputError, match="Name it with --positive"):
        tumour_class(classes)
    with pytest.raises(UnknownNameError, match="Did you mean 'gland'"):
        tumour_class(classes, "glad")


def test_the_background_is_no_tumour_even_by_name() -> None:
    assert tumour_class(tumour_classes(), "tumour") == 1
    with pytest.raises(InputError, match="Name the other one, 'tumour'"):
        tumour_class(tumour_classes(), "normal")


@pytest.mark.parametrize("number", [1, 3])
def test_other_numbers_of_classes_are_refused(number: int) -> None:
    with pytest.raises(InputError, match="two were expected"):
        tumour_class(Classes(("a", "b", "c")[:number], COLORS[:number], "a"))


def test_a_label_is_positive_when_it_names_the_tumour() -> None:
    assert [is_positive(label, 1) for label in ((1, 0), (0, 1), (1, 1), (0, 0))] == [False, True, True, False]
