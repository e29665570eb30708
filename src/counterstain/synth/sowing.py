"""Where deposits and lymphoid motifs are put on a slide, and how large they must be to cover a given part of it.

Motifs are put on every slide by the same rules, whatever is planted later, and a slide without room for a ring is
refused whatever it was to hold: neither the outline of the tissue nor the amount of anything else tells a kind.

Does not know: how any of it is drawn, cohorts.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from counterstain.errors import InputError
from counterstain.synth.deposits import Deposit, Findings, Kind
from counterstain.synth.motifs import NUM_ARRANGEMENTS, Motif
from counterstain.synth.noise import OUTSIDE, Floats, Places, key_of
from counterstain.synth.scene import SceneSettings, anatomy_of

_STEP_UM = 12.0
_APART_UM = 350.0  # between the middles of motifs
_INSIDE_UM = 40.0  # how deep in the tissue the middle of anything planted lies
_BANDS = 0.75  # part of motifs that are bands; the others are follicles
_CLEAR = 0.8  # part of a place without glands and fat that lets it hold a ring
_MOST_DEPOSITS = 4
_ROUNDS = 14

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Ground:
    """A slide's tissue before anything is planted, at the nodes of a coarse grid.

    Args:
        seed: Of the slide.
        ys: um, the rows.
        xs: um, the columns.
        inside: (rows, columns) depth in the tissue, um.
        is_clear: Where neither glands nor fat lie.
    """

    seed: int
    ys: Places
    xs: Places
    inside: Floats
    is_clear: Bools

    @classmethod
    def under(cls, scene: SceneSettings) -> "_Ground":
        if scene.tissue is None:
            raise InputError("Deposits can't be planted in tissue without end. Give the area where tissue may lie.")
        area = scene.tissue.scaled(scene.mpp)
        ys, xs = np.arange(area.y, area.bottom, _STEP_UM), np.arange(area.x, area.right, _STEP_UM)
        fields = anatomy_of(scene).fields(ys, xs)
        is_clear = np.ones((len(ys), len(xs)), np.bool_)
        for field in (fields.normal, fields.fat):
            if field is not None:
                is_clear &= field < 0
        inside = np.full(is_clear.shape, OUTSIDE) if fields.glass is None else -fields.glass
        return cls(scene.seed, ys, xs, inside, is_clear)

    def random(self, name: str) -> np.random.Generator:
        return np.random.default_rng(key_of(self.seed, name))

    def clearness(self, width_um: float) -> Floats:
        """The part of a square around each node that is clear."""
        side = max(1, round(width_um / _STEP_UM))
        return np.asarray(ndimage.uniform_filter(self.is_clear.astype(np.float32), side, mode="nearest"))

    def nodes(self, is_so: Bools, random: np.random.Generator) -> npt.NDArray[np.float64]:
        """(n, 2) y and x of the nodes where something is so, in random order."""
        rows, columns = np.nonzero(is_so)
        order = random.permutation(len(rows))
        return np.stack([self.ys[rows[order]], self.xs[columns[order]]], axis=1)

    def at(self, field: Floats, motif: Motif) -> float:
        """A field at the node where a motif stands."""
        return float(field[np.searchsorted(self.ys, motif.y), np.searchsorted(self.xs, motif.x)])


def sow(scene: SceneSettings, kind: Kind, fraction: float) -> Findings | None:
    """What is planted in a slide's tissue.

    Args:
        scene: The slide, its tissue in an area.
        kind: Of its metastases.
        fraction: The part of the tissue they should cover; rings come whole, so theirs is the nearest there is room for.

    Returns:
        None where the tissue has no room for a ring, whatever the kind.
    """
    ground = _Ground.under(scene)
    motifs = _motifs(ground)
    if not motifs:
        return None
    plain = Findings("none", tuple(motifs))
    if kind == "none":
        return plain
    if kind == "layout":
        return _ringed(ground, plain, fraction)
    return _deposited(ground, replace(plain, kind=kind), fraction)


def _motifs(ground: _Ground) -> list[Motif]:
    """The first where a ring fits, the others anywhere apart from one another; none where no ring fits."""
    random = ground.random("motifs")
    first = _motif(random, 0.0, 0.0, is_first=True)
    places = ground.nodes(_holds(ground, first), random)
    if not len(places):
        return []
    taken = places[:1]
    for place in ground.nodes(ground.inside > _INSIDE_UM, random):
        if float(((taken - place) ** 2).sum(1).min()) >= _APART_UM**2:
            taken = np.concatenate([taken, place[None]])
    own = [replace(first, y=float(taken[0, 0]), x=float(taken[0, 1]))]
    return own + [_motif(random, float(y), float(x), is_first=False) for y, x in taken[1:]]


def _motif(random: np.random.Generator, y: float, x: float, *, is_first: bool) -> Motif:
    is_bands = bool(random.random() < _BANDS) or is_first
    return Motif(
        shape="bands" if is_bands else "follicle",
        x=x,
        y=y,
        radius_um=float(random.uniform(95, 110)),
        width_um=float(random.uniform(56, 64)),
        angle=float(random.uniform(0, 2 * np.pi)),
        arrangement=int(random.integers(NUM_ARRANGEMENTS)),
    )


def _holds(ground: _Ground, motif: Motif) -> Bools:
    """Where a ring of a motif's sizes lies in tissue without much else."""
    return (ground.inside >= motif.disc_um) & (ground.clearness(2 * motif.disc_um) >= _CLEAR)


def _ringed(ground: _Ground, findings: Findings, fraction: float) -> Findings:
    """Bands closed to rings, those next to one another."""
    motifs = list(findings.motifs)
    clear = ground.clearness(2 * motifs[0].disc_um)
    fits = [
        number
        for number, motif in enumerate(motifs)
        if motif.shape == "bands"
        and ground.at(ground.inside, motif) >= motif.disc_um
        and ground.at(clear, motif) >= _CLEAR
    ]
    random = ground.random("rings")
    anchor = motifs[fits[int(random.integers(len(fits)))]]
    fits.sort(key=lambda number: np.hypot(motifs[number].x - anchor.x, motifs[number].y - anchor.y))
    wanted_um2 = fraction * _tissue_um2(ground)
    count = min(max(1, round(wanted_um2 / (np.pi * anchor.disc_um**2))), len(fits))
    for number in fits[:count]:
        motifs[number] = replace(motifs[number], shape="ring")
    return Findings("layout", tuple(motifs))


def _deposited(ground: _Ground, findings: Findings, fraction: float) -> Findings:
    """Deposits of uneven sizes that together cover the part of the tissue."""
    random = ground.random("deposits")
    count = int(random.integers(1, _MOST_DEPOSITS + 1))
    is_open = (ground.inside > _INSIDE_UM) & (ground.clearness(150.0) >= 0.6)
    places = ground.nodes(is_open if is_open.sum() >= count else ground.inside > 0, random)[:count]
    wanted_um2 = fraction * _tissue_um2(ground)
    sizes = np.exp(random.normal(0, 0.35, len(places)))
    deposits = [
        Deposit(float(x), float(y), float(size), float(random.uniform(1, 1.8)), float(random.uniform(0, np.pi)))
        for (y, x), size in zip(places, sizes, strict=True)
    ]
    low, high = 0.3, 6.0  # factors on the radius that would do if deposits were apart and in tissue
    even = float(np.sqrt(wanted_um2 / (np.pi * (sizes**2).sum())))
    for _ in range(_ROUNDS):
        middle = (low * high) ** 0.5
        is_small = _covered_um2(ground, _scaled(findings, deposits, middle * even)) < wanted_um2
        low, high = (middle, high) if is_small else (low, middle)
    return _scaled(findings, deposits, (low * high) ** 0.5 * even)


def _scaled(findings: Findings, deposits: list[Deposit], factor: float) -> Findings:
    return replace(findings, deposits=tuple(replace(one, radius_um=factor * one.radius_um) for one in deposits))


def _covered_um2(ground: _Ground, findings: Findings) -> float:
    is_deposit = findings.footprint(ground.seed, ground.ys, ground.xs) > 0
    return float((is_deposit & (ground.inside > 0)).sum()) * _STEP_UM**2


def _tissue_um2(ground: _Ground) -> float:
    return float((ground.inside > 0).sum()) * _STEP_UM**2
