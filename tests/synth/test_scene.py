import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from counterstain.errors import InputError
from counterstain.geometry import Box, Size
from counterstain.synth.anatomy import GLASS, LYMPHOCYTES, SCENE_CLASSES, STROMA, TUMOUR, WHITE, Composition
from counterstain.synth.scene import Scene, SceneSettings, blocks

WHOLE = Box(-300, -200, 640, 600)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(SceneSettings(seed=4, mpp=1.0, difficulty=0.8, region_um=400))


@pytest.fixture(scope="module")
def pixels(scene: Scene) -> np.ndarray:
    return scene.render(WHOLE)


@pytest.fixture(scope="module")
def labels(scene: Scene) -> np.ndarray:
    return scene.labels(WHOLE)


def test_the_same_settings_give_the_same_pixels(pixels: np.ndarray) -> None:
    again = Scene(SceneSettings(seed=4, mpp=1.0, difficulty=0.8, region_um=400))
    box = Box(-100, 0, 150, 120)
    assert (again.render(box) == pixels[200:320, 200:350]).all()


@settings(max_examples=12, deadline=None)
@given(x=st.integers(-300, 300), y=st.integers(-200, 350), width=st.integers(1, 90), height=st.integers(1, 90))
def test_windows_agree_wherever_they_overlap(
    scene: Scene, pixels: np.ndarray, labels: np.ndarray, x: int, y: int, width: int, height: int
) -> None:
    box = Box(x, y, width, height).intersection(WHOLE)
    inside = box.shifted(-WHOLE.x, -WHOLE.y).slices()
    assert (scene.render(box) == pixels[inside]).all()
    assert (scene.labels(box) == labels[inside]).all()


def test_another_seed_is_another_tissue(scene: Scene) -> None:
    other = Scene(SceneSettings(seed=5, mpp=1.0, difficulty=0.8, region_um=400))
    box = Box(0, 0, 200, 200)
    assert (scene.labels(box) != other.labels(box)).mean() > 0.1
    assert np.abs(scene.render(box).astype(int) - other.render(box)).mean() > 10


def test_a_scene_shows_several_tissues_in_pink_and_blue(pixels: np.ndarray, labels: np.ndarray) -> None:
    parts = np.bincount(labels.ravel(), minlength=len(SCENE_CLASSES)) / labels.size
    assert (parts[[TUMOUR, STROMA, LYMPHOCYTES]] > 0.02).all()
    red, green, blue = pixels.reshape(-1, 3).astype(float).mean(0)
    assert green < red
    assert green < blue


def test_tissues_differ_as_they_do_under_a_microscope(pixels: np.ndarray, labels: np.ndarray) -> None:
    grey = pixels.astype(float).mean(2)
    redness = pixels[..., 0].astype(float) - pixels[..., 2]
    assert grey[labels == WHITE].mean() > grey[labels == STROMA].mean() + 20
    assert grey[labels == STROMA].mean() > grey[labels == LYMPHOCYTES].mean() + 10
    assert redness[labels == STROMA].mean() > redness[labels == TUMOUR].mean() + 10


def test_labels_at_a_resolution_are_those_under_its_pixel_centres(scene: Scene, labels: np.ndarray) -> None:
    coarse = scene.labels(Box(-300, -200, 640, 600), 5.0)
    assert coarse.shape == (120, 128)
    assert (coarse == labels[2::5, 2::5]).all()


def test_a_coarser_rendering_is_the_average_of_the_fine_one(scene: Scene, pixels: np.ndarray) -> None:
    coarse = scene.render(Box(-300, -200, 320, 160), 4.0)
    expected = pixels[:160, :320].reshape(40, 4, 80, 4, 3).mean((1, 3))
    assert np.abs(coarse - expected).max() <= 1


def test_a_finer_rendering_is_interpolated(scene: Scene, pixels: np.ndarray) -> None:
    fine = scene.render(Box(-300, -200, 60, 50), 0.5)
    assert fine.shape == (100, 120, 3)
    back = np.asarray(Image.fromarray(fine).resize((60, 50), Image.Resampling.BOX))
    assert np.abs(back.astype(int) - pixels[:50, :60]).mean() < 8


def test_difficulty_changes_how_tissue_looks_and_not_what_it_is() -> None:
    easy, hard = (Scene(SceneSettings(seed=9, mpp=1.0, difficulty=value, region_um=400)) for value in (0.0, 1.0))
    box = Box(0, 0, 400, 400)
    assert (easy.labels(box) == hard.labels(box)).all()
    changed = np.abs(easy.render(box).astype(int) - hard.render(box)).max(2) > 25
    assert 0.05 < changed.mean() < 0.6


def test_islands_are_small_parts_of_a_dominant_tissue() -> None:
    """In solid tumour without lymphocytes, a hard scene shows small places that an easy one does not."""
    only = Composition(tumour=1, nests=1, necrosis=0, lymphocytes=0, normal=0, fat=0, glands=0)
    box = Box(0, 0, 500, 500)
    easy, hard = (Scene(SceneSettings(seed=2, mpp=1.0, difficulty=value, composition=only)) for value in (0.0, 1.0))
    assert (hard.labels(box) == TUMOUR).mean() > 0.99
    changed = np.abs(easy.render(box).astype(int) - hard.render(box)).max(2) > 25
    assert 0.03 < changed.mean() < 0.35


def test_patients_and_scanners_have_looks_of_their_own() -> None:
    base = Scene(SceneSettings(seed=1, patient_seed=7, scanner_seed=8, mpp=1.0))
    other = Scene(SceneSettings(seed=2, patient_seed=7, scanner_seed=8, mpp=1.0))
    assert base.look == other.look
    assert base.look != Scene(SceneSettings(seed=1, patient_seed=7, scanner_seed=9, mpp=1.0)).look


def test_outside_the_pieces_there_is_nearly_white_glass() -> None:
    scene = Scene(SceneSettings(seed=3, mpp=2.0, tissue=Box(0, 0, 600, 500), covered=0.3))
    box = Box(0, 0, 600, 500)
    pixels, labels = scene.render(box), scene.labels(box)
    assert 0.1 < (labels != GLASS).mean() < 0.5
    glass = pixels[labels == GLASS]
    assert glass.mean() > 225
    assert np.median(glass.std(axis=1)) < 8
    assert pixels[labels == STROMA].mean() < 215


def test_glass_is_rendered_without_painting_tissue() -> None:
    scene = Scene(SceneSettings(seed=3, mpp=2.0, tissue=Box(0, 0, 600, 500)))
    far = scene.render(Box(5000, 5000, 64, 48))
    assert far.shape == (48, 64, 3)
    assert far.min() > 200
    assert (scene.labels(Box(5000, 5000, 64, 48)) == GLASS).all()


def test_dust_lies_on_glass_here_and_there() -> None:
    scene = Scene(SceneSettings(seed=3, mpp=2.0, tissue=Box(0, 0, 600, 500)))
    glass = scene.render(Box(4000, 4000, 2500, 2500))
    dark = (glass.min(2) < 150).mean()
    assert 0 < dark < 1e-3


@pytest.mark.parametrize(
    ("name", "value"), [("mpp", 5.0), ("mpp", 0.01), ("difficulty", 1.1), ("covered", 0), ("region_um", 3)]
)
def test_settings_out_of_their_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name} was given as {value}"):
        SceneSettings(**{name: value})


def test_blocks_cover_a_size_once() -> None:
    count = np.zeros((70, 130), int)
    for block in blocks(Size(130, 70), 64):
        count[block.slices()] += 1
    assert (count == 1).all()
