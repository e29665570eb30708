import numpy as np
import pytest
from scipy import ndimage

from counterstain.synth.motifs import NUM_ARRANGEMENTS, Motif, Shape, claimed_depth, motif_depth, ringed_depth

STEP_UM = 2.0
PLACES = np.arange(-400.0, 400.0, STEP_UM)


def motif(shape: Shape, arrangement: int = 0, angle: float = 0.4) -> Motif:
    return Motif(shape, 3.0, -5.0, radius_um=102.0, width_um=60.0, angle=angle, arrangement=arrangement)


def smooth(one: Motif) -> np.ndarray:
    across, down = (PLACES - one.x).astype(np.float32)[None, :], (PLACES - one.y).astype(np.float32)[:, None]
    return one.depth(across, down) > 0


def contents(is_lymphoid: np.ndarray) -> np.ndarray:
    """The parts of 64 um cells that are lymphoid, over all places that a cell may have; those with any."""
    parts = ndimage.uniform_filter(is_lymphoid.astype(float), round(64 / STEP_UM), mode="constant")
    return parts[parts > 0.02]


def enclosed_um(is_lymphoid: np.ndarray) -> float:
    """Radius of the largest disc of something else that lymphoid tissue encloses."""
    inside = ndimage.binary_fill_holes(is_lymphoid) & ~is_lymphoid
    return float(ndimage.distance_transform_edt(inside).max()) * STEP_UM


@pytest.mark.parametrize("arrangement", range(NUM_ARRANGEMENTS))
def test_a_pair_of_bands_has_the_area_of_a_ring(arrangement: int) -> None:
    ring = np.pi * ((102 + 30) ** 2 - (102 - 30) ** 2)
    assert smooth(motif("ring")).sum() * STEP_UM**2 == pytest.approx(ring, rel=0.01)
    assert smooth(motif("bands", arrangement)).sum() * STEP_UM**2 == pytest.approx(ring, rel=0.04)


def test_a_follicle_has_the_area_of_a_ring() -> None:
    assert smooth(motif("follicle")).sum() == pytest.approx(smooth(motif("ring")).sum(), rel=0.01)


def test_cells_of_bands_hold_what_cells_of_rings_hold() -> None:
    ring, follicle = contents(smooth(motif("ring"))), contents(smooth(motif("follicle")))
    bands = np.concatenate([contents(smooth(motif("bands", number))) for number in range(NUM_ARRANGEMENTS)])
    wanted, got, filled = (np.histogram(one, 8, (0, 1))[0] / len(one) for one in (ring, bands, follicle))
    assert np.abs(wanted - got).sum() / 2 < 0.04
    assert np.abs(wanted - filled).sum() / 2 > 0.2


def test_only_a_ring_encloses_more_than_a_cleft() -> None:
    assert enclosed_um(smooth(motif("ring"))) == pytest.approx(102 - 30, abs=2 * STEP_UM)
    assert enclosed_um(smooth(motif("follicle"))) == 0
    assert all(enclosed_um(smooth(motif("bands", number))) < 15 for number in range(NUM_ARRANGEMENTS))


def test_windows_agree_where_they_overlap() -> None:
    motifs = [motif("ring"), Motif("bands", 250.0, 100.0, 100.0, 60.0, 1.0, 1)]
    whole = motif_depth(motifs, 7, PLACES, PLACES)
    part = motif_depth(motifs, 7, PLACES[60:300], PLACES[90:200])
    near = whole[60:300, 90:200] > -40
    assert near.any()
    np.testing.assert_array_equal(part[near], whole[60:300, 90:200][near])


def test_a_ring_is_counted_with_its_centre_and_claims_more_than_it_fills() -> None:
    ring = motif("ring")
    filled = ringed_depth([ring, motif("follicle")], PLACES, PLACES) > 0
    assert filled.sum() * STEP_UM**2 == pytest.approx(np.pi * ring.disc_um**2, rel=0.01)
    assert (claimed_depth([ring], PLACES, PLACES) > 0)[filled].all()
    assert not (ringed_depth([motif("bands")], PLACES, PLACES) > 0).any()
