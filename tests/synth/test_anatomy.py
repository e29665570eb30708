import numpy as np
import pytest

from counterstain.errors import InputError
from counterstain.synth.anatomy import (
    GLASS,
    LYMPHOCYTES,
    NECROSIS,
    NORMAL,
    SCENE_CLASSES,
    STROMA,
    TUMOUR,
    WHITE,
    Anatomy,
    Composition,
    Lattice,
    labels_of,
)


def labels(seed: int, composition: Composition, count: int = 300, step_um: float = 8.0) -> np.ndarray:
    lattice = Lattice.under(np.arange(count), np.arange(count), 1)
    fields = Anatomy(seed, composition, 700.0, None).fields(lattice.rows * step_um, lattice.columns * step_um)
    return labels_of(fields, lattice)


def test_a_scene_holds_every_tissue() -> None:
    found = np.bincount(labels(1, Composition()).ravel(), minlength=7) / 300**2
    for number in (TUMOUR, STROMA, LYMPHOCYTES, NECROSIS, NORMAL, WHITE):
        assert found[number] > 0.005, SCENE_CLASSES.names[number]
    assert found[GLASS] == 0


@pytest.mark.parametrize(
    ("composition", "absent"),
    [
        (Composition(tumour=0), (TUMOUR, NECROSIS)),
        (Composition(necrosis=0), (NECROSIS,)),
        (Composition(lymphocytes=0), (LYMPHOCYTES,)),
        (Composition(normal=0), (NORMAL,)),
        (Composition(fat=0, glands=0, normal=0), (WHITE, NORMAL)),
        (Composition(tumour=1), (NORMAL,)),
    ],
    ids=str,
)
def test_what_is_not_asked_for_is_not_there(composition: Composition, absent: tuple[int, ...]) -> None:
    found = labels(2, composition)
    assert not np.isin(found, absent).any()
    assert (found == STROMA).any()


def test_more_tumour_gives_more_tumour() -> None:
    parts = [(labels(3, Composition(tumour=part)) == TUMOUR).mean() for part in (0.1, 0.4, 0.9)]
    assert parts[0] < 0.6 * parts[1] < 0.6 * parts[2]


def test_parts_outside_of_one_are_refused() -> None:
    with pytest.raises(InputError, match=r"Composition fat was given as 1\.5"):
        Composition(fat=1.5)


def test_a_lattice_gives_the_field_at_its_nodes_and_lines_between() -> None:
    lattice = Lattice.under(np.arange(3, 40), np.arange(-20, 25), 4)
    field = (10.0 * lattice.rows[:, None] + lattice.columns[None, :]).astype(np.float32)
    rows, columns = (np.arange(3, 40) + 0.5) / 4, (np.arange(-20, 25) + 0.5) / 4
    assert np.allclose(lattice.finer(field), 10 * rows[:, None] + columns[None, :], atol=1e-4)


def test_labels_of_single_pixels_are_those_of_the_whole() -> None:
    anatomy = Anatomy(5, Composition(), 500.0, None)
    rows, columns = np.arange(-50, 170), np.arange(30, 260)
    whole = Lattice.under(rows, columns, 4)
    sparse = Lattice.under(rows[3::17], columns[::13], 4)
    of_whole = labels_of(anatomy.fields(whole.rows * 4.0, whole.columns * 4.0), whole)
    of_sparse = labels_of(anatomy.fields(sparse.rows * 4.0, sparse.columns * 4.0), sparse)
    assert len(np.unique(of_whole)) > 2
    assert (of_sparse == of_whole[3::17, ::13]).all()


def test_nodes_nearest_to_pixels_are_found() -> None:
    lattice = Lattice.under(np.arange(0, 64), np.arange(0, 64), 4, margin=3)
    rows, columns = lattice.nearest(np.array([0, 5, 63]), np.array([2, 10, 40]))
    assert lattice.rows[rows].tolist() == [0, 1, 16]
    assert lattice.columns[columns].tolist() == [1, 3, 10]
