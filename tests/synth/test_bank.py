from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from counterstain.errors import InputError, LabelError, MissingFileError, UnknownNameError
from counterstain.geometry import Box, Size
from counterstain.synth.bank import BankPlane, BankSettings, open_bank
from counterstain.synth.scene import SceneSettings

OVERLAP = 8


def plane_of(folder: Path, scene: SceneSettings | None = None, **changes: object) -> BankPlane:
    settings = BankSettings(folder / "table.csv", overlap_px=OVERLAP, **changes)  # type: ignore[arg-type]
    return BankPlane(open_bank(settings), scene or SceneSettings(seed=2))


def test_windows_agree_wherever_they_overlap(bank_folder: Path) -> None:
    plane = plane_of(bank_folder)
    whole, labels = plane.render(Box(-100, -50, 400, 300)), plane.labels(Box(-100, -50, 400, 300))
    for x, y, width, height in ((0, 0, 100, 90), (-77, 13, 41, 200), (250, 200, 50, 50)):
        inside = Box(x + 100, y + 50, width, height).slices()
        assert (plane.render(Box(x, y, width, height)) == whole[inside]).all()
        assert (plane.labels(Box(x, y, width, height)) == labels[inside]).all()


def test_inside_a_cell_the_patch_is_untouched(bank_folder: Path) -> None:
    plane = plane_of(bank_folder, is_harmonised=False)
    cell = plane.render(Box(3 * 40 + OVERLAP, 2 * 40 + OVERLAP, 32, 32))
    sources = []
    for path in sorted((bank_folder / "images").iterdir()):
        with Image.open(path) as image:
            sources.append(np.asarray(image.convert("RGB")))
    turned = [np.rot90(source, turns)[:, ::way] for source in sources for turns in range(4) for way in (1, -1)]
    matches = [(cell == source[OVERLAP:40, OVERLAP:40]).all() for source in turned]
    assert sum(matches) == 1


def test_neighbours_are_blended_without_a_jump(bank_folder: Path, tmp_path: Path) -> None:
    for number, value in enumerate((60, 180)):
        Image.new("RGB", (40, 40), (value, value, value)).save(tmp_path / f"{number}.png")
    pd.DataFrame({"image": ["0.png", "1.png"], "label": ["a", "a"], "patient": ["p", "q"]}).to_csv(
        tmp_path / "table.csv", index=False
    )
    plane = BankPlane(
        open_bank(BankSettings(tmp_path / "table.csv", truth="label", overlap_px=10, is_harmonised=False)),
        SceneSettings(seed=1),
    )
    values = plane.render(Box(0, 0, 600, 400))[..., 0].astype(int)
    assert set(np.unique(values)) >= {60, 180}
    assert values.min() == 60
    assert values.max() == 180
    assert np.abs(np.diff(values, axis=1)).max() <= 13


def test_truth_comes_from_the_masks_turned_as_the_images(bank_folder: Path) -> None:
    plane = plane_of(bank_folder)
    labels = plane.labels(Box(0, 0, 800, 600))
    assert plane.classes.names == ("other tissue", "gland or lesion", "glass")
    assert set(np.unique(labels)) == {0, 1}
    # A foreground is 30 of 40 px wide, in about half of the cells
    assert 0.1 < (labels == 1).mean() < 0.6


def test_truth_can_be_the_images_labels(bank_folder: Path) -> None:
    plane = plane_of(bank_folder, truth="label")
    labels = plane.labels(Box(0, 0, 400, 400), 2.0)
    assert plane.classes.names == ("gland", "stroma", "glass")
    assert labels.shape == (100, 100)
    assert set(np.unique(labels)) == {0, 1}


def test_labels_at_a_resolution_are_those_under_its_pixel_centres(bank_folder: Path) -> None:
    plane = plane_of(bank_folder, SceneSettings(seed=2, mpp=0.5))
    assert (plane.labels(Box(5, 7, 300, 200), 2.5) == plane.labels(Box(5, 7, 300, 200))[2::5, 2::5]).all()


def test_labels_change_slowly_over_the_plane(bank_folder: Path) -> None:
    labels = plane_of(bank_folder, truth="label").labels(Box(0, 0, 2000, 2000), 10.0)
    assert (labels[:, 1:] == labels[:, :-1]).mean() > 0.8


def test_pieces_lie_on_glass(bank_folder: Path) -> None:
    scene = SceneSettings(seed=2, mpp=0.5, tissue=Box(0, 0, 900, 700), covered=0.3)
    plane = plane_of(bank_folder, scene)
    box = Box(0, 0, 900, 700)
    pixels, labels = plane.render(box), plane.labels(box)
    is_glass = labels == plane.classes.index("glass")
    assert 0.4 < is_glass.mean() < 0.95
    assert pixels[is_glass].mean() > 238
    assert pixels[~is_glass].mean() < 220
    assert (plane.render(Box(5000, 5000, 30, 30)) == 243).all()


def test_harmonised_patches_have_one_white_and_one_stain(bank_folder: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number, (low, high, white) in enumerate(((40, 120, 200), (120, 220, 250))):
        pixels = random.integers(low, high, (40, 40, 3)).astype(np.uint8)
        pixels[:12] = white
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    pd.DataFrame({"image": ["0.png", "1.png"], "label": ["a", "b"]}).to_csv(tmp_path / "table.csv", index=False)
    means = {}
    for is_harmonised in (False, True):
        settings = BankSettings(
            tmp_path / "table.csv", truth="label", patient_column=None, overlap_px=0, is_harmonised=is_harmonised
        )
        plane = BankPlane(open_bank(settings), SceneSettings(seed=1))
        pixels, labels = plane.render(Box(0, 0, 800, 800)).astype(float), plane.labels(Box(0, 0, 800, 800))
        means[is_harmonised] = pixels[labels == 0].mean() - pixels[labels == 1].mean()
    assert abs(means[False]) > 50
    assert abs(means[True]) < 25


def test_parts_of_a_bank_share_no_patient(bank_folder: Path) -> None:
    bank = open_bank(BankSettings(bank_folder / "table.csv", overlap_px=8))
    parts = [{entry.patient for entry in bank.part(number, 4).entries} for number in range(4)]
    assert set.union(*parts) == {entry.patient for entry in bank.entries}
    assert sum(map(len, parts)) == 6
    with pytest.raises(InputError, match="6 patients can't be split into 7 parts"):
        bank.part(0, 7)


def test_only_wanted_labels_are_taken(bank_folder: Path) -> None:
    bank = open_bank(BankSettings(bank_folder / "table.csv", labels=("gland",), overlap_px=8))
    assert {entry.label for entry in bank.entries} == {"gland"}
    assert bank.patch == Size(48, 48)


def test_patches_need_not_be_square(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 50, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    pd.DataFrame({"image": ["a.png"], "label": ["a"], "patient": ["p"]}).to_csv(tmp_path / "table.csv", index=False)
    plane = BankPlane(
        open_bank(BankSettings(tmp_path / "table.csv", truth="label", overlap_px=6)), SceneSettings(seed=1)
    )
    assert plane.render(Box(0, 0, 120, 80)).shape == (80, 120, 3)


def test_what_is_wrong_with_a_table_is_said(bank_folder: Path, tmp_path: Path) -> None:
    table = bank_folder / "table.csv"
    with pytest.raises(MissingFileError, match="the table of a bank"):
        open_bank(BankSettings(tmp_path / "none.csv"))
    with pytest.raises(UnknownNameError, match="Did you mean 'image'"):
        open_bank(BankSettings(table, image_column="imag"))
    with pytest.raises(InputError, match="lists no image of the labels"):
        open_bank(BankSettings(table, labels=("fat",)))
    with pytest.raises(LabelError, match="names files that are not there") as caught:
        open_bank(BankSettings(table, folder=tmp_path))
    assert len(caught.value.offenders) == 24
    with pytest.raises(InputError, match="less than half"):
        open_bank(BankSettings(table, overlap_px=24))


def test_images_of_another_size_or_damaged_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    Image.new("RGB", (30, 40)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"no image")

    def rendered(*names: str) -> None:
        pd.DataFrame({"image": names, "label": ["x"] * len(names)}).to_csv(tmp_path / "table.csv", index=False)
        settings = BankSettings(
            tmp_path / "table.csv", truth="label", patient_column=None, overlap_px=4, is_harmonised=False
        )
        BankPlane(open_bank(settings), SceneSettings(seed=1)).render(Box(0, 0, 600, 600))

    with pytest.raises(InputError, match="others of its bank"):
        rendered("a.png", "b.png")
    with pytest.raises(InputError, match=r"c\.png of the bank can't be read"):
        rendered("a.png", "c.png")


def test_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    Image.new("L", (30, 40)).save(tmp_path / "m.png")
    pd.DataFrame({"image": ["a.png"], "mask": ["m.png"], "label": ["x"], "patient": ["p"]}).to_csv(
        tmp_path / "table.csv", index=False
    )
    plane = BankPlane(open_bank(BankSettings(tmp_path / "table.csv", overlap_px=4)), SceneSettings(seed=1))
    with pytest.raises(InputError, match="its image is"):
        plane.labels(Box(0, 0, 50, 50))


def test_real_biopsies_make_a_plane(real_data: Path) -> None:
    folder = real_data / "ebhi_seg"
    bank = open_bank(BankSettings(folder / "labels_dev.csv", folder / "dev"))
    assert bank.patch == Size(224, 224)
    assert len(bank.entries) == 1335
    plane = BankPlane(bank, SceneSettings(seed=3))
    pixels, labels = plane.render(Box(0, 0, 500, 400)), plane.labels(Box(0, 0, 500, 400))
    assert {0, 1} <= set(np.unique(labels))
    assert 40 < pixels.mean() < 230
