"""Of the three kinds of metastases: what shows them, and what does not."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from counterstain.errors import InputError
from counterstain.geometry import Box
from counterstain.synth.anatomy import GLASS, LYMPHOCYTES, STROMA, TUMOUR, Composition
from counterstain.synth.deposits import Deposit, Findings, Kind, MetastasisPlane
from counterstain.synth.look import Pixels
from counterstain.synth.scene import SceneSettings
from counterstain.synth.sowing import sow

TISSUE = Composition(tumour=0.0, nests=0.95, necrosis=0.0, lymphocytes=0.1, normal=0.2, fat=0.07, glands=0.3)
SLIDE = Box(0, 0, 1000, 900)
WIDE = Box(0, 0, 2600, 2200)
CELL_UM = 64


def scene(seed: int, slide: Box = SLIDE, mpp: float = 1.0) -> SceneSettings:
    return SceneSettings(
        seed=seed, mpp=mpp, difficulty=0.15, composition=TISSUE, region_um=600.0, tissue=slide, covered=0.6
    )


def sown(seed: int, kind: Kind, fraction: float, slide: Box = SLIDE, mpp: float = 1.0) -> MetastasisPlane:
    """The first slide of a seed that has room, for all kinds the same."""
    for attempt in range(30):
        settings = scene(seed + 100 * attempt, slide, mpp)
        findings = sow(settings, kind, fraction)
        if findings is not None:
            return MetastasisPlane(settings, findings)
    raise AssertionError(f"no room on {slide}")


def cells(image: np.ndarray, mpp: float = 1.0) -> np.ndarray:
    """(rows, side, columns, side, ...) of an image's squares of 64 um."""
    side = round(CELL_UM / mpp)
    rows, columns = image.shape[0] // side, image.shape[1] // side
    return image[: rows * side, : columns * side].reshape(rows, side, columns, side, *image.shape[2:])


def seen(kind: Kind, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, 3) mean colours of 64 um cells, (n, 8) contrasts at four sizes, both less the slide's; (n,) what is tumour."""
    box = Box(0, 0, 2400, 2000)
    plane = sown(seed, kind, 0.2, box, 0.5)
    pixels, labels = plane.render(box), plane.labels(box)
    tumour, glass = (cells(labels == number, 0.5).mean((1, 3)) for number in (0, 2))
    is_told = (glass < 0.05) & ((tumour > 0.9) | (tumour == 0))
    colour = cells(pixels.astype(float), 0.5).mean((1, 3))[is_told]
    grey = pixels.mean(2).astype(np.float32)
    blurred = [ndimage.gaussian_filter(grey, sigma) for sigma in (0.7, 1.4, 2.8, 5.6, 11.2)]
    bands = [a - b for a, b in itertools.pairwise(blurred)]
    kinds = [band**2 for band in bands] + [np.maximum(-band, 0) for band in bands]
    contrast = np.stack([np.log(cells(one, 0.5).mean((1, 3)) + 0.1) for one in kinds], -1)[is_told]
    return colour - colour.mean(0), contrast - contrast.mean(0), tumour[is_told] > 0.9


def auroc(features: np.ndarray, is_tumour: np.ndarray, groups: np.ndarray) -> float:
    """Of a linear classifier, each slide scored by one that was fitted to the others."""
    scores = np.zeros(len(is_tumour))
    for group in np.unique(groups):
        own = groups == group
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
        scores[own] = model.fit(features[~own], is_tumour[~own]).decision_function(features[own])
    return float(roc_auc_score(is_tumour, scores))


def aurocs(kind: Kind) -> tuple[float, float]:
    """How well colours, and colours with contrasts, tell cells of tumour on five slides."""
    told = [seen(kind, seed) for seed in (1, 2, 3, 5, 6)]
    groups = np.concatenate([np.full(len(one[2]), number) for number, one in enumerate(told)])
    colours, contrasts, is_tumour = (np.concatenate(column) for column in zip(*told, strict=True))
    assert is_tumour.sum() > 60
    return auroc(colours, is_tumour, groups), auroc(np.concatenate([colours, contrasts], 1), is_tumour, groups)


@pytest.mark.slow
def test_texture_metastases_have_the_colour_of_the_tissue_around_and_another_texture() -> None:
    by_colour, by_contrast = aurocs("texture")
    assert abs(by_colour - 0.5) < 0.12
    assert by_contrast > 0.9


@pytest.mark.slow
def test_ordinary_metastases_differ_in_colour_too() -> None:
    assert min(aurocs("both")) > 0.75


@pytest.fixture(scope="module")
def texture() -> tuple[MetastasisPlane, Pixels, Pixels]:
    """A slide with metastases seen in the texture alone, its pixels, and those without tumour cells."""
    plane = sown(1, "texture", 0.2)
    without = MetastasisPlane(plane.settings, plane.findings.without())
    return plane, plane.render(SLIDE), without.render(SLIDE)


def test_colours_are_those_without_tumour_cells_cell_by_cell(texture: tuple[MetastasisPlane, Pixels, Pixels]) -> None:
    plane, *pixels = texture
    shown, wanted = (cells(one.astype(float)).mean((1, 3)) for one in pixels)
    is_tumour = cells(plane.labels(SLIDE) == 0).mean((1, 3)) > 0.9
    assert is_tumour.sum() > 5
    assert np.abs(shown - wanted)[is_tumour].max() < 9
    assert np.abs(shown - wanted)[is_tumour].mean() < 2


def test_far_from_texture_metastases_nothing_is_changed(texture: tuple[MetastasisPlane, Pixels, Pixels]) -> None:
    plane, shown, wanted = texture
    off_um = ndimage.distance_transform_edt(plane.labels(SLIDE) != 0)
    np.testing.assert_array_equal(shown[off_um > 60], wanted[off_um > 60])
    assert (shown != wanted)[off_um == 0].any()


def test_windows_agree_where_they_overlap(texture: tuple[MetastasisPlane, Pixels, Pixels]) -> None:
    plane, shown, _ = texture
    labels = plane.labels(SLIDE)
    rows, columns = np.nonzero(labels == 0)
    window = Box(int(columns.mean()) - 90, int(rows.mean()) - 70, 181, 143)
    difference = shown[window.slices()].astype(int) - plane.render(window).astype(int)
    assert np.abs(difference).max() <= 1
    np.testing.assert_array_equal(labels[window.slices()], plane.labels(window))


@pytest.mark.parametrize("kind", ["texture", "both"])
def test_deposits_cover_what_was_asked_for(kind: Kind) -> None:
    labels = sown(4, kind, 0.07, WIDE).labels(WIDE, 4.0)
    assert (labels == 0).sum() / (labels != 2).sum() == pytest.approx(0.07, rel=0.05)


@pytest.mark.parametrize("kind", ["texture", "both"])
def test_truth_tells_deposits_with_all_inside_them_and_never_glass(kind: Kind) -> None:
    plane = sown(1, kind, 0.15, WIDE)
    labels, tissues = plane.labels(WIDE, 2.0), plane.tissues(WIDE, 2.0)
    np.testing.assert_array_equal(labels == 2, tissues == GLASS)
    assert (labels[tissues == TUMOUR] == 0).mean() > 0.97
    assert (tissues[labels == 0] == TUMOUR).mean() > 0.4


def ringed(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tissues of the same slide with rings and without."""
    return tuple(sown(seed, kind, 0.2, WIDE).tissues(WIDE, 8.0) for kind in ("layout", "none"))


def histogram(tissues: np.ndarray) -> np.ndarray:
    """(8,) how often the cells on tissue have each part of lymphocytes."""
    side = CELL_UM // 8
    rows, columns = tissues.shape[0] // side, tissues.shape[1] // side
    parts = tissues[: rows * side, : columns * side].reshape(rows, side, columns, side)
    is_told = (parts != GLASS).mean((1, 3)) > 0.95
    counts = np.histogram((parts == LYMPHOCYTES).mean((1, 3))[is_told], 8, (0, 1))[0]
    return counts / counts.sum()


def num_centres(tissues: np.ndarray) -> int:
    """Stretches of something else that lymphocytes enclose, of the size of a ring's centre."""
    labels, count = ndimage.label(ndimage.binary_erosion(tissues != LYMPHOCYTES, iterations=2))
    sizes = ndimage.sum_labels(np.ones_like(labels), labels, np.arange(1, count + 1)) * 64
    return int(((sizes > 2000) & (sizes < 25_000)).sum())


def test_layout_metastases_change_the_arrangement_and_not_what_cells_hold() -> None:
    pairs = [ringed(seed) for seed in range(10)]
    ill, well = ([histogram(pair[side]) for pair in pairs] for side in (0, 1))
    scores = [np.abs(a - b).sum() / 2 for a, b in zip(ill, well, strict=True)]
    others = [np.abs(a - b).sum() / 2 for a, b in itertools.pairwise(well)]
    assert np.mean(scores) < 0.3 * np.mean(others)
    is_ill = [1] * 10 + [0] * 10
    for part in range(8):
        assert abs(roc_auc_score(is_ill, [one[part] for one in (*ill, *well)]) - 0.5) < 0.2
    centres = [num_centres(one) for side in (0, 1) for one in (pair[side] for pair in pairs)]
    assert roc_auc_score(is_ill, centres) > 0.85


def test_layout_metastases_hold_no_tumour_cells_and_are_told_as_discs() -> None:
    plane = sown(2, "layout", 0.2, WIDE)
    labels, tissues = plane.labels(WIDE, 4.0), plane.tissues(WIDE, 4.0)
    assert not (tissues == TUMOUR).any()
    rings = [motif for motif in plane.findings.motifs if motif.shape == "ring"]
    area_um2 = sum(np.pi * motif.disc_um**2 for motif in rings)
    assert len(rings) >= 1
    assert (labels == 0).sum() * 16 == pytest.approx(area_um2, rel=0.05)
    assert (tissues[labels == 0] == LYMPHOCYTES).mean() > 0.4
    assert (tissues[labels == 0] == STROMA).mean() > 0.1


def test_every_kind_starts_from_the_same_motifs() -> None:
    found = {kind: sow(scene(3), kind, 0.05) for kind in ("none", "both", "texture", "layout")}
    places = {kind: [(motif.x, motif.y) for motif in findings.motifs] for kind, findings in found.items() if findings}
    assert len(places) == 4
    assert all(own == places["none"] for own in places.values())
    shapes = {kind: {motif.shape for motif in findings.motifs} for kind, findings in found.items() if findings}
    assert "ring" in shapes["layout"]
    assert not any("ring" in shapes[kind] for kind in ("none", "both", "texture"))


def test_tissue_without_room_for_a_ring_is_refused_whatever_the_kind() -> None:
    thin = scene(1, Box(0, 0, 1600, 240))
    assert sow(thin, "none", 0.0) is None
    assert sow(thin, "both", 0.1) is None


def test_tissue_without_end_is_refused() -> None:
    with pytest.raises(InputError, match="without end"):
        sow(replace(scene(1), tissue=None), "none", 0.0)


def test_a_deposit_has_the_area_of_its_disc_about() -> None:
    places = np.arange(0.0, 1000.0, 4.0)
    depths = [Deposit(500.0, 480.0, 150.0, 1.6, 0.3).depth(seed, places, places) for seed in range(6)]
    areas = [float((depth > 0).sum()) * 16 for depth in depths]
    assert np.mean(areas) == pytest.approx(np.pi * 150**2, rel=0.15)
    assert (Findings("none", ()).footprint(0, places, places) < 0).all()
