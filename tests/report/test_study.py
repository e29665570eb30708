from dataclasses import replace
from pathlib import Path

import pytest

from counterstain.errors import InputError, MissingFileError, UnknownNameError
from counterstain.recipes.studies import STUDIES, study_file
from counterstain.report.slide_study import is_slide_study
from counterstain.report.study import read_study

SMALL = """
reference = "plain"
[training]
epochs = 3
[methods.sshr]
preset = "small"
[methods.sshr.settings]
learning_rate = 2e-3
[[variants]]
name = "plain"
settings = { semantic = false, context = false }
[[variants]]
name = "both, longer"
training = { epochs = 4 }
"""


STARTING = """
metric = "tumour_f1"
reference = "teacher"
[methods.fusion_kd]
preset = "small"
[[variants]]
name = "teacher"
settings = { max_rounds = 0 }
[[variants]]
name = "student"
starts_from = "teacher"
[[variants]]
name = "student's student"
starts_from = "student"
[[variants]]
name = "plain"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_variant_s_own_settings_win_over_its_method_s_and_these_over_the_preset_s(tmp_path: Path) -> None:
    plain, both = read_study(written(tmp_path, SMALL)).variants
    assert (plain.config.backbone, plain.config.learning_rate, plain.config.semantic) == ("tiny", 2e-3, False)
    assert (both.config.semantic, both.training.epochs, plain.training.epochs) == (True, 4, 3)
    assert both.folder == "both__longer"


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ('reference = "plain"', 'reference = "plan"', UnknownNameError, "Did you mean 'plain'"),
        ("[training]", "[trainings]", UnknownNameError, "Did you mean 'training'"),
        ("semantic =", "semantics =", UnknownNameError, "Did you mean 'semantic'"),
        ('preset = "small"', 'preset = "smalls"', UnknownNameError, "Did you mean 'small'"),
        ('preset = "small"', 'presets = "small"', UnknownNameError, "Did you mean 'preset'"),
        ('name = "both, longer"', 'name = "plain"', InputError, "a name of its own"),
        ('name = "plain"\n', "", InputError, "has no name"),
        ("epochs = 3", "epochs = 0", InputError, "'epochs'"),
        ("epochs = 3", "seed = 3", InputError, "--seeds"),
        ('name = "plain"', 'name = "+"', InputError, "a letter or a digit"),
        ('name = "plain"', "name = 3", InputError, "a text was expected"),
        ("settings = { semantic = false, context = false }", "settings = 3", InputError, "a table was expected"),
        ('[methods.sshr]\npreset = "small"', "[methods]\nmulti_stage = 3\n[methods.sshr]", InputError, "a table was"),
    ],
)
def test_what_a_study_can_t_mean_is_refused(
    tmp_path: Path, old: str, new: str, error: type[Exception], message: str
) -> None:
    assert old in SMALL
    with pytest.raises(error, match=message):
        read_study(written(tmp_path, SMALL.replace(old, new, 1)))


def test_a_study_can_be_narrowed_and_keeps_its_reference(tmp_path: Path) -> None:
    study = read_study(written(tmp_path, SMALL))
    part = study.only(("both, longer",))
    assert [one.name for one in part.variants] == ["plain", "both, longer"]
    assert part.name == "study_part"  # the whole study's table is not replaced
    assert [one.name for one in study.only(("plain",)).variants] == ["plain"]
    with pytest.raises(UnknownNameError, match="both, longer"):
        study.only(("both",))


def test_a_study_names_its_metric_and_who_starts_from_whom(tmp_path: Path) -> None:
    study = read_study(written(tmp_path, STARTING))
    assert (study.metric, read_study(written(tmp_path, SMALL)).metric) == ("tumour_f1", "mean_iou")
    assert [one.starts_from for one in study.variants] == [None, "teacher", "student", None]


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ('"tumour_f1"', '"tumor_f1"', UnknownNameError, "Did you mean 'tumour_f1'"),
        ('"tumour_f1"', "1", InputError, "a text was expected"),
        ('starts_from = "teacher"', 'starts_from = "teachers"', UnknownNameError, "Did you mean 'teacher'"),
        ('starts_from = "teacher"', 'starts_from = "plain"', UnknownNameError, "earlier variant for 'student'"),
        ('starts_from = "teacher"', 'starts_from = "student"', UnknownNameError, "earlier variant for 'student'"),
        ('starts_from = "student"', 'starts_from = "student"\nmethod = "sshr"', InputError, "no setting 'teacher_run'"),
        ('name = "plain"', 'name = "plain"\nwithout = ["weightss"]', UnknownNameError, "Did you mean 'weights'"),
        (
            'starts_from = "student"',
            'starts_from = "student"\nsettings = { teacher_run = "runs/a" }',
            InputError,
            "one of both",
        ),
    ],
)
def test_a_metric_or_start_that_there_is_not_is_refused(
    tmp_path: Path, old: str, new: str, error: type[Exception], message: str
) -> None:
    assert old in STARTING
    with pytest.raises(error, match=message):
        read_study(written(tmp_path, STARTING.replace(old, new, 1)))


def test_a_narrowed_study_keeps_what_its_variants_start_from(tmp_path: Path) -> None:
    study = replace(read_study(written(tmp_path, STARTING)), reference="plain")
    assert [one.name for one in study.only(("student's student",)).variants] == [
        "teacher",
        "student",
        "student's student",
        "plain",
    ]
    assert [one.name for one in study.only(()).variants] == ["plain"]


def test_files_that_lie_elsewhere_are_put_into_every_variant_that_takes_them(tmp_path: Path) -> None:
    study = read_study(written(tmp_path, SMALL)).with_settings({"weights": tmp_path / "w.npz"})
    assert {one.config.weights for one in study.variants} == {tmp_path / "w.npz"}
    with pytest.raises(InputError, match="--second-weights"):
        study.with_settings({"second_weights": tmp_path / "w.npz"})


def test_a_variant_may_go_without_a_file_of_the_command_line(tmp_path: Path) -> None:
    apart = SMALL + '\n[[variants]]\nname = "another backbone"\nwithout = ["weights"]\n'
    study = read_study(written(tmp_path, apart)).with_settings({"weights": tmp_path / "w.npz"})
    given = {one.name: one.config.weights for one in study.variants}
    assert given.pop("another backbone") is None
    assert set(given.values()) == {tmp_path / "w.npz"}


@pytest.mark.parametrize("name", [name for name, path in STUDIES.items() if not is_slide_study(path)])
def test_every_packaged_study_can_be_read_and_says_where_its_figures_are(name: str) -> None:
    study = read_study(study_file(name))
    head = study_file(name).read_text(encoding="utf-8").split("title =")[0]
    assert study.reference in [one.name for one in study.variants]
    assert len(study.variants) > 1
    assert f"--study {name} " in head
    assert "docs/results.md" in head or "arXiv" in head


def test_a_study_is_a_file_or_a_known_name(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL)
    assert study_file(str(path)) == path
    with pytest.raises(UnknownNameError, match="Did you mean 'ablation_ebhi'"):
        study_file("ablation_ebh")
    with pytest.raises(MissingFileError):
        read_study(tmp_path / "gone.toml")
