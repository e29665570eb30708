"""What tissues are made of between their nuclei: collagen, cytoplasm, mucin, fat, smudge, vessels, lumens.

Each function lays one tissue on a window with a soft border, in densities of haematoxylin and eosin.

Does not know: nuclei, RGB.
"""

import numpy as np

from counterstain.synth.anatomy import GLAND_WALL_UM, Lattice
from counterstain.synth.noise import Discs, Floats, Scatter, again, noise
from counterstain.synth.texture import clefts, fibres
from counterstain.synth.window import Window


def lay_grounds(window: Window) -> None:
    """Lays all tissues, from the bottom up; glass comes last, after the nuclei."""
    window.eosin[:], window.haematoxylin[:] = _collagen(window)
    _lay_vessels(window)
    _lay_glands(window)
    _lay_fat(window)
    _lay_lymphocytes(window)
    _lay_tumour(window)
    _lay_fibrous_islands(window)
    _lay_necrosis(window)
    _lay_lumens(window)


def cut_edge(window: Window) -> None:
    """Takes everything away where the tissue ends."""
    alpha = window.alpha(window.fields.glass, 1.5)
    if alpha is not None:
        window.lay(alpha, 0.0, 0.0)


def _collagen(window: Window) -> tuple[Floats, Floats]:
    """Eosin and haematoxylin of stroma: wavy bundles, parted by clefts where they are loose."""
    if window.collagen is not None:
        return window.collagen
    along, beside = window.lattice.finer(window.along), window.lattice.finer(window.beside)
    dense = 0.2 * window.noise(55.0, "collagen") + 0.1 * window.noise(14.0, "collagen too")
    dense += np.float32(0.3 + 0.5 * window.habit.collagen)
    np.clip(dense, 0, 1, out=dense)
    texture = fibres(window.mpp).flowing(along, beside)
    eosin = (0.40 + 0.30 * dense) * (1 + (0.34 - 0.12 * dense) * texture)
    eosin += 0.035 * window.grain(1.3, "fibrils")
    opening = clefts(window.mpp).flowing(along + 311, beside) + 0.35 * texture
    opening -= 0.55 + 1.7 * dense
    opening *= 2.5
    np.clip(opening, 0, 0.96, out=opening)
    eosin *= 1 - opening
    np.maximum(eosin, 0.02, out=eosin)
    window.collagen = eosin, 0.04 + 0.09 * eosin
    return window.collagen


def _lay_vessels(window: Window) -> None:
    """Small vessels in stroma: a wall and a hole. To the truth they are stroma."""
    sites = window.sites("vessels", 92.0, 0.9, 60.0)
    sites = sites.kept(again(sites.hashes, 3) < 0.4)
    if not len(sites):
        return
    ys, xs = window.nodes_um()
    uniform = [again(sites.hashes, number) for number in (4, 5, 6)]
    discs = Discs(sites, 3.5 + 9 * uniform[0] ** 2, 1 + 2.2 * uniform[1], np.float32(np.pi) * uniform[2])
    vessels = discs.depth(ys, xs, 12) + noise(window.key("vessels rough"), 6.0, ys, xs) * np.float32(0.7)
    for other in (window.fields.nests, window.fields.normal, window.fields.fat, window.fields.necrosis):
        if other is not None:
            np.minimum(vessels, -other - 9, out=vessels)
    wall = window.alpha(vessels + np.float32(2.4), 2.0)
    if wall is None:
        return
    window.vessels = vessels
    window.lay(wall * np.float32(0.8), 0.14, 0.62 + 0.05 * window.grain(1.6, "vessel"))
    hole = window.alpha(vessels, 1.2)
    if hole is not None:
        window.lay(hole, 0.0, 0.03)


def _lay_glands(window: Window) -> None:
    """Normal glands: a membrane, a wall that grows paler inwards with mucin, a dark brush along the lumen."""
    alpha = window.alpha(window.fields.normal, 2.5)
    if alpha is None or window.fields.normal is None:
        return
    inner = np.clip(window.lattice.finer(window.fields.normal) * np.float32(1 / GLAND_WALL_UM), 0, 1)
    mucin = np.clip(inner * 1.6 - 0.6, 0, 1) * np.float32(1 - 0.8 * window.difficulty)
    texture = window.grain(1.6, "gland")
    membrane = np.exp(-(((inner - 0.02) * np.float32(GLAND_WALL_UM / 1.3)) ** 2)) + 0.7 * np.exp(
        -(((1 - inner) * 9) ** 2)
    )
    eosin = 0.40 - 0.22 * mucin + 0.05 * texture + 0.16 * membrane
    window.lay(alpha, 0.27 - 0.1 * mucin + 0.03 * texture + 0.06 * membrane, eosin)


def _lay_fat(window: Window) -> None:
    """Fat cells: white, round, with thin walls between them."""
    alpha = window.alpha(window.fields.fat, 4)
    if alpha is None:
        return
    fine = Lattice.under(window.rows, window.columns, max(1, round(1.0 / window.mpp)))
    step_um = fine.step_px * window.mpp
    ys, xs = fine.rows * step_um, fine.columns * step_um
    first, second = Scatter(window.key("fat cells"), 58.0, 0.75).around(ys, xs).two_nearest()
    wall = second - first + 1.2 * noise(window.key("fat walls"), 9.0, ys, xs)
    # Fat cells are round where three meet: what lies far from all of them is filled.
    wall = np.minimum(wall, 0.6 * (52 - first))
    septum = np.clip(1.7 - fine.finer(wall) * np.float32(1 / 2.4), 0, 1)
    window.lay(alpha, 0.05 * septum, septum * (0.5 + 0.06 * window.grain(1.6, "fat")))


def _lay_lymphocytes(window: Window) -> None:
    alpha = window.alpha(window.looks(window.fields.lymphocytes, "lymphocytes"), 16)
    if alpha is not None:
        window.lay(alpha * np.float32(0.75), 0.16, 0.26 + 0.06 * window.grain(5.0, "lymphocytes"))


def _lay_tumour(window: Window) -> None:
    """Basophilic cytoplasm, and beside nests here and there a thin bright cleft: they shrink in fixation."""
    nests = window.fields.nests
    alpha, island = window.alpha(nests, 2.2), window.alpha(window.islands.get("tumour"), 5.0)
    if alpha is None and island is None:
        return
    texture, cloud = window.grain(1.4, "tumour"), window.grain(6.0, "tumour cloud")
    haematoxylin, eosin = 0.30 + 0.05 * texture + 0.04 * cloud, 0.42 + 0.05 * texture + 0.04 * cloud
    gap = None if nests is None else window.alpha(nests + np.float32(3.2), 2.0)
    if gap is not None:
        window.lay(gap * np.clip(window.noise(22.0, "gaps") - 0.6, 0, 1), 0.0, 0.02)
    for cover in (alpha, island):
        if cover is not None:
            window.lay(cover, haematoxylin, eosin)


def _lay_fibrous_islands(window: Window) -> None:
    alpha = window.alpha(window.islands.get("fibres"), 5.0)
    if alpha is not None:
        eosin, haematoxylin = _collagen(window)
        window.lay(alpha, haematoxylin, eosin)


def _lay_necrosis(window: Window) -> None:
    """Smudged eosin with small holes; the harder the scene, the more it is streaked like collagen."""
    alpha = window.alpha(window.looks(window.fields.necrosis, "necrosis"), 14)
    if alpha is None:
        return
    smudge, texture = window.grain(9.0, "smudge"), window.grain(2.2, "necrosis")
    eosin = 0.66 + 0.10 * smudge + 0.09 * texture
    haematoxylin = 0.12 + 0.05 * smudge + 0.02 * texture
    if window.difficulty > 0:
        alike = np.float32(0.6 * window.difficulty)
        own_eosin, own_haematoxylin = _collagen(window)
        eosin += (own_eosin - eosin) * alike
        haematoxylin += (own_haematoxylin - haematoxylin) * alike
    solid = 1 - np.clip((window.grain(5.0, "holes") - 1.9) * 2, 0, 0.9)
    window.lay(alpha, haematoxylin * solid, eosin * solid)


def _lay_lumens(window: Window) -> None:
    alpha = window.alpha(window.fields.lumens, 1.6)
    if alpha is not None:
        secretion = np.clip(0.1 * window.grain(12.0, "secretion") - 0.04, 0, 0.3)
        window.lay(alpha, 0.25 * secretion, secretion)
