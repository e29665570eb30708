"""Where nuclei stand: hashed sites, kept by the tissue that they lie in, turned along its fibres or upright on its rim.

Does not know: cytoplasm, RGB.
"""

import numpy as np
import numpy.typing as npt

from counterstain.synth.noise import OUTSIDE, Floats, Scatter, Sites, again, key_of
from counterstain.synth.nuclei import print_stamps, stamps_of
from counterstain.synth.window import Window

_HALF_TURN = np.float32(np.pi)
_SPARED = 0.12  # of the cells of a tissue, inside a diffuse tumour
_SPARSE, _SPARSER = 0.22, 0.08  # chance of a tumour nucleus at a site in stroma, calm and inflamed


def print_cells(window: Window) -> None:
    """Prints all nuclei and lays them over the ground."""
    _print_spindles(window)
    _print_gland_nuclei(window)
    _print_lymphocytes(window)
    _print_tumour_nuclei(window)
    _print_diffuse_nuclei(window)
    _print_debris(window)
    _print_vessels(window)
    cover = np.clip(window.nuclei * np.float32(2.2), 0, 1)
    window.haematoxylin *= 1 - np.float32(0.8) * cover
    window.haematoxylin += window.nuclei
    window.eosin *= 1 - np.float32(0.62) * cover


def dust(seed: int, mpp: float, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> Floats | None:
    """Specks on bare glass: (rows, columns) density, or None where there are none."""
    y, x = rows[[0, -1]] * mpp, columns[[0, -1]] * mpp
    sites = Scatter(key_of(seed, "dust"), 900.0, 1.0).sites(x[0] - 30, y[0] - 30, x[1] + 30, y[1] + 30)
    sites = sites.kept(again(sites.hashes, 3) < 0.5)
    if not len(sites):
        return None
    canvas = np.zeros((len(rows), len(columns)), np.float32)
    stamps = stamps_of("dust", mpp)
    at = [np.floor(place / mpp).astype(np.int64) for place in (sites.y, sites.x)]
    numbers = stamps.chosen(again(sites.hashes, 4))
    print_stamps(canvas, stamps.images, numbers, at[0] - rows[0], at[1] - columns[0], again(sites.hashes, 5))
    return canvas


def _print(window: Window, kind: str, sites: Sites, angle: Floats | None = None) -> None:
    """Prints a kind in any of its shapes."""
    window.print(kind, sites, stamps_of(kind, window.mpp).chosen(again(sites.hashes, 6), angle))


def _print_either(
    window: Window, kinds: tuple[str, str], sites: Sites, part: float, angle: Floats | None = None
) -> None:
    """Prints one of two kinds at each site; `part` of them the second."""
    is_second = again(sites.hashes, 5) < part
    for kind, is_kind in zip(kinds, (~is_second, is_second), strict=True):
        if is_kind.any():
            _print(window, kind, sites.kept(is_kind), None if angle is None else angle[is_kind])


def _bare(window: Window, sites: Sites) -> Floats:
    """How deep sites lie in plain stroma, outside of everything else, um; at most 40."""
    fields = window.fields
    depth = np.full(len(sites), 40, np.float32)
    elsewhere = (fields.nests, fields.normal, fields.fat, fields.necrosis, fields.lumens, fields.glass)
    for other in (*elsewhere, window.vessels):
        if other is not None:
            np.minimum(depth, -window.at(other, sites), out=depth)
    return depth


def _print_spindles(window: Window) -> None:
    """Fibroblasts, along the fibres."""
    sites = window.sites("spindles", 13.5, 1.0)
    depth = _bare(window, sites)
    if "fibres" in window.islands:
        depth = np.maximum(depth, window.at(window.islands["fibres"], sites))
    sites = sites.kept((depth > 1.5) & (again(sites.hashes, 3) < 0.42) & _is_spared(window, sites))
    if len(sites):
        angle = window.directions(window.beside, sites) + _HALF_TURN / 2
        angle += np.float32(0.35) * (again(sites.hashes, 4) - np.float32(0.5))
        _print_either(window, ("spindle", "plump"), sites, 0.22, angle)


def _print_gland_nuclei(window: Window) -> None:
    """One row along the rim, upright; the harder the scene, the more of them look like a tumour's."""
    field = window.fields.normal
    if field is None:
        return
    sites = window.sites("gland nuclei", 5.0, 0.6)
    depth = window.at(field, sites)
    is_row = (depth > 2.6) & (depth < 6.8 + 2.5 * window.difficulty)
    sites = sites.kept(is_row & (again(sites.hashes, 3) < 0.85))
    if not len(sites):
        return
    angle = window.directions(field, sites) + np.float32(0.3) * (again(sites.hashes, 4) - np.float32(0.5))
    is_atypical = again(sites.hashes, 7) < 0.8 * window.difficulty
    _print(window, "normal", sites.kept(~is_atypical), angle[~is_atypical])
    _print_atypical(window, sites.kept(is_atypical), angle[is_atypical], 0.75)


def _print_lymphocytes(window: Window) -> None:
    """Crowds of them where the tissue is theirs, and single ones through the stroma."""
    sites = window.sites("lymphocytes", 6.6, 0.75)
    few = np.float32(0.025 + 0.06 * window.habit.inflamed)
    chance = np.where(_bare(window, sites) > 2, few, np.float32(0.004))
    field = window.looks(window.fields.lymphocytes, "lymphocytes")
    if field is not None:
        chance = np.maximum(chance, np.clip(0.5 + window.at(field, sites) / 16, 0, 1) * np.float32(0.86))
    for other, margin in ((window.fields.lumens, 3), (window.fields.glass, 3), (window.fields.fat, 0)):
        if other is not None:
            chance[window.at(other, sites) > -margin] = 0
    is_kept = (again(sites.hashes, 3) < chance) & _is_spared(window, sites)
    _print_either(window, ("lymphocyte", "plasma"), sites.kept(is_kept), 0.16)


def _print_tumour_nuclei(window: Window) -> None:
    """Crowded, large and uneven; upright along the rim of a nest, as in a palisade."""
    nests = window.fields.nests
    if nests is None and "tumour" not in window.islands:
        return
    pitch = (9.4 + 1.6 * window.habit.nuclei) * window.habit.crowding
    sites = window.sites("tumour nuclei", pitch, 0.7)
    depth = _tumour_depth(window, sites)
    is_kept = (depth > 3.0) & (again(sites.hashes, 3) < 0.94)
    sites, depth = sites.kept(is_kept), depth[is_kept]
    if not len(sites):
        return
    angle = _HALF_TURN * again(sites.hashes, 4)
    if nests is not None:
        upright = window.directions(nests, sites) + np.float32(0.5) * (again(sites.hashes, 4) - np.float32(0.5))
        angle = np.where(depth < 9, upright, angle)
    _print_atypical(window, sites, angle, 0.55 + 0.45 * window.habit.nuclei)


def _is_spared(window: Window, sites: Sites) -> npt.NDArray[np.bool_]:
    """Which sites keep their own cells: all outside of a diffuse tumour, few inside."""
    if window.fields.diffuse is None:
        return np.ones(len(sites), np.bool_)
    return (window.at(window.fields.diffuse, sites) < 0) | (again(sites.hashes, 9) < _SPARED)


def _print_diffuse_nuclei(window: Window) -> None:
    """A diffuse tumour takes the places of the cells it finds: crowded in crowds of lymphocytes, sparse in stroma."""
    if window.fields.diffuse is None:
        return
    sites = window.sites("diffuse nuclei", 8.8, 0.75)
    sites = sites.kept(window.at(window.fields.diffuse, sites) > 0)
    chance = np.full(len(sites), _SPARSE + _SPARSER * window.habit.inflamed, np.float32)
    crowds = window.looks(window.fields.lymphocytes, "lymphocytes")
    if crowds is not None:
        chance = np.maximum(chance, np.clip(0.5 + window.at(crowds, sites) / 16, 0, 1))
    sites = sites.kept(again(sites.hashes, 3) < chance)
    _print_atypical(window, sites, _HALF_TURN * again(sites.hashes, 4), 0.7 + 0.3 * window.habit.nuclei)


def _tumour_depth(window: Window, sites: Sites) -> Floats:
    """How deep sites lie in what looks like tumour, um."""
    fields, islands = window.fields, window.islands
    nests = fields.nests
    depth = np.full(len(sites), OUTSIDE, np.float32) if nests is None else window.at(nests, sites)
    for name in ("fibres", "lymphocytes", "necrosis"):
        if name in islands:
            np.minimum(depth, 3 - window.at(islands[name], sites), out=depth)
    if "tumour" in islands:
        np.maximum(depth, window.at(islands["tumour"], sites), out=depth)
    for other, margin in ((fields.lumens, 3.5), (fields.necrosis, -2.0), (fields.glass, 4.0)):
        if other is not None:
            np.minimum(depth, -window.at(other, sites) - np.float32(margin), out=depth)
    return depth


def _print_atypical(window: Window, sites: Sites, angle: Floats, size: float) -> None:
    """Nuclei as tumours have them, up to a size of 0 to 1."""
    is_dark = again(sites.hashes, 7) < window.habit.dark
    for kind, is_kind in (("tumour", ~is_dark), ("dark tumour", is_dark)):
        own = sites.kept(is_kind)
        shape = np.float32(size) * again(own.hashes, 8)
        window.print(kind, own, stamps_of(kind, window.mpp).chosen(shape, angle[is_kind]))


def _print_debris(window: Window) -> None:
    """Ghosts of nuclei and dark fragments in necrosis."""
    field = window.looks(window.fields.necrosis, "necrosis")
    if field is None:
        return
    for kind, pitch, part in (("ghost", 10.5, 0.55), ("debris", 6.5, 0.42 - 0.22 * window.difficulty)):
        sites = window.sites(kind, pitch, 0.9)
        sites = sites.kept((window.at(field, sites) > 3) & (again(sites.hashes, 3) < part))
        numbers = stamps_of(kind, window.mpp).chosen(again(sites.hashes, 4))
        window.print(kind, sites, numbers, np.float32(0.5) + np.float32(0.6) * again(sites.hashes, 5))


def _print_vessels(window: Window) -> None:
    """Lining cells around small vessels, and red cells in them."""
    if window.vessels is None:
        return
    lining = window.sites("lining", 6.0, 0.9)
    depth = window.at(window.vessels, lining)
    lining = lining.kept((depth > -2.6) & (depth < -0.6) & (again(lining.hashes, 3) < 0.5))
    if len(lining):
        angle = window.directions(window.vessels, lining) + _HALF_TURN / 2
        stamps = stamps_of("spindle", window.mpp)
        window.print("spindle", lining, stamps.chosen(np.float32(0.4) * again(lining.hashes, 6), angle))
    cells = window.sites("red cells", 5.4, 0.8)
    cells = cells.kept((window.at(window.vessels, cells) > 2.2) & (again(cells.hashes, 3) < 0.8))
    if len(cells):
        _print(window, "red cell", cells)
    if window.red_cells is not None:
        np.maximum(window.eosin, window.red_cells, out=window.eosin)
