import pickle

import pytest

from counterstain.errors import LabelError, MissingExtraError, UnknownNameError, counted, in_short


def test_an_unknown_name_gets_the_nearest_and_all_known() -> None:
    error = UnknownNameError("backbone", "resnet81", ["tiny", "resnet18"])
    assert str(error) == "Unknown backbone 'resnet81'. Did you mean 'resnet18'? Known: resnet18, tiny."
    assert "Did you mean" not in str(UnknownNameError("backbone", "zzz", ["tiny"]))


def test_all_bad_labels_are_listed_up_to_a_screenful() -> None:
    error = LabelError("Bad names.", [f"file{number}" for number in range(25)])
    assert str(error).count("\n") == 21
    assert "and 5 more" in str(error)
    assert len(error.offenders) == 25


def test_names_in_a_line_are_counted_beyond_a_few() -> None:
    assert in_short(["a", "b"], 2) == "a, b"
    assert in_short(["a", "b", "c", "d"], 2) == "a, b and 2 more"
    assert (counted(0, "slide"), counted(1, "slide"), counted(2, "slide")) == ("0 slides", "1 slide", "2 slides")


@pytest.mark.parametrize(
    "error",
    [UnknownNameError("a", "b", ["c"]), LabelError("a", ["b"]), MissingExtraError("timm", "timm", "A timm backbone")],
)
def test_errors_travel_between_processes(error: Exception) -> None:
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_missing_library_names_its_extra() -> None:
    assert "counterstain[timm]" in str(MissingExtraError("timm", "timm", "A timm backbone"))
