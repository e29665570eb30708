"""Metastases of three kinds in one tissue: seen everywhere, seen in the texture alone, seen in the layout alone.

All kinds start from the same tissue: stroma with crowds of lymphocytes, follicles and bent bands of them, glands, fat.
- both: nests of tumour as `anatomy` draws them, which also differ in colour.
- texture: tumour cells take the places of the tissue's own. Whatever colour that makes, light is then scaled so that the
  mean over some 30 um is that of the tissue without them: `MetastasisPlane` renders both and divides.
- layout: no tumour cells; pairs of lymphoid bands are closed to rings around pale centres (`motifs`).

Does not know: how many deposits a slide gets, files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import ndimage

from counterstain.geometry import Box
from counterstain.results import Classes
from counterstain.synth.anatomy import GLASS, Anatomy, Fields, Labels
from counterstain.synth.look import Pixels
from counterstain.synth.motifs import Motif, claimed_depth, motif_depth, ringed_depth
from counterstain.synth.noise import OUTSIDE, Floats, Places, key_of, noise
from counterstain.synth.scene import Scene, SceneSettings, anatomy_of, blocks, sampled

Kind = Literal["none", "both", "texture", "layout"]

METASTASIS_CLASSES = Classes(
    ("tumour", "normal", "glass"), ((213, 94, 0), (0, 114, 178), (255, 255, 255)), background="glass"
)
"""What the truth of a slide with deposits tells: the outlines of deposits with all that lies inside, the tissue around."""

_TUMOUR, _NORMAL, _GLASS = range(3)
_ROUGH = ((0.6, 0.16), (0.2, 0.05))  # (spacing, height) of a deposit's outline as parts of its radius
_HIGHEST = 3.7  # noise never exceeds it
_FAR_UM = 100.0  # a deposit this far off changes nothing
_BLOCK_PX = 512
_MATCH_UM, _MATCH_REACH = 14.0, 2.5  # standard deviation over which colours are matched, and where it is cut off
_MOST_GAIN = 0.6  # part by which light is changed at most
_WHITE_GREEN, _WHITE_SOFT = 220.0, 20.0  # green of the palest stain, and over how much it fades in


@dataclass(frozen=True)
class Deposit:
    """One metastasis, um: a rough, bent disc."""

    x: float
    y: float
    radius_um: float
    long: float
    angle: float

    def depth(self, seed: int, ys: Places, xs: Places) -> Floats:
        """How deep each place of a grid lies in it, um; negative outside."""
        across = (xs - self.x).astype(np.float32)[None, :]
        down = (ys - self.y).astype(np.float32)[:, None]
        cosine, sine = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        along, beside = across * cosine + down * sine, down * cosine - across * sine
        # An ellipse of the area of a disc.
        stretch = np.float32(self.long**0.5)
        depth: Floats = np.float32(self.radius_um) - np.hypot(along / stretch, beside * stretch)
        highest = sum(height for _, height in _ROUGH) * self.radius_um * _HIGHEST
        if float(depth.max()) < -highest - _FAR_UM:
            return depth
        for spacing, height in _ROUGH:
            key = key_of(seed, f"deposit {spacing}")
            depth += noise(key, spacing * self.radius_um, ys, xs) * np.float32(height * self.radius_um)
        return depth


@dataclass(frozen=True)
class Findings:
    """What is planted in a slide's tissue.

    Args:
        kind: Of the metastases; "none" has no deposits and no rings.
        motifs: Lymphoid tissue in shapes.
        deposits: Where tumour cells are, for "both" and "texture".
    """

    kind: Kind
    motifs: tuple[Motif, ...]
    deposits: tuple[Deposit, ...] = ()

    def footprint(self, seed: int, ys: Places, xs: Places) -> Floats:
        """How deep each place lies in a metastasis, with all that lies inside its outline; um."""
        if self.kind == "layout":
            return ringed_depth(self.motifs, ys, xs)
        depth = np.full((len(ys), len(xs)), OUTSIDE, np.float32)
        for deposit in self.deposits:
            np.maximum(depth, deposit.depth(seed, ys, xs), out=depth)
        return depth

    def without(self) -> "Findings":
        """The same tissue without tumour cells."""
        return replace(self, kind="none", deposits=())


class SownTissues:
    """The tissues of a scene with findings planted in them.

    Args:
        anatomy: The tissues without tumour.
        findings: What is planted.
    """

    def __init__(self, anatomy: Anatomy, findings: Findings) -> None:
        self._anatomy, self._findings = anatomy, findings

    def fields(self, ys: Places, xs: Places) -> Fields:
        """Depths at the nodes of a lattice."""
        plain = self._anatomy.fields(ys, xs)
        if plain.bed is None:
            return plain
        plain = replace(plain, lymphocytes=self._lymphoid(plain, ys, xs))
        footprint = self._findings.footprint(self._anatomy.seed, ys, xs)
        if self._findings.kind == "both":
            return self._with_nests(plain, footprint, ys, xs)
        if self._findings.kind == "texture":
            return replace(plain, diffuse=_outside(footprint, plain.normal, plain.fat, plain.lumens))
        return plain

    def _lymphoid(self, plain: Fields, ys: Places, xs: Places) -> Floats:
        shapes = _outside(motif_depth(self._findings.motifs, self._anatomy.seed, ys, xs), plain.normal, plain.fat)
        if plain.lymphocytes is None:
            return shapes
        crowds = np.minimum(plain.lymphocytes, -claimed_depth(self._findings.motifs, ys, xs))
        return np.maximum(crowds, shapes)

    def _with_nests(self, plain: Fields, bed: Floats, ys: Places, xs: Places) -> Fields:
        nests = self._anatomy.nests(bed, ys, xs)
        own = self._anatomy.lumens(nests, None, ys, xs)
        lumens = None if plain.lumens is None else _outside(plain.lumens, bed)
        if own is not None:
            lumens = own if lumens is None else np.maximum(lumens, own)
        return replace(
            plain,
            bed=bed,
            nests=nests,
            lumens=lumens,
            normal=None if plain.normal is None else _outside(plain.normal, bed + np.float32(10)),
            fat=None if plain.fat is None else _outside(plain.fat, bed + np.float32(4)),
            lymphocytes=None if plain.lymphocytes is None else _outside(plain.lymphocytes, nests),
        )


def _outside(field: Floats, *others: Floats | None) -> Floats:
    """A field kept out of other tissues; a new array."""
    field = field.copy()
    for other in others:
        if other is not None:
            np.minimum(field, -other, out=field)
    return field


class MetastasisPlane:
    """Tissue with findings that can be rendered in windows.

    Args:
        settings: Of the scene; its composition should hold no tumour.
        findings: What is planted.
    """

    def __init__(self, settings: SceneSettings, findings: Findings) -> None:
        self.settings, self.findings = settings, findings
        anatomy = anatomy_of(settings)
        self._scene = Scene(settings, SownTissues(anatomy, findings))
        self._without = Scene(settings, SownTissues(anatomy, findings.without()))

    @property
    def mpp(self) -> float:
        """um/px of its pixels."""
        return self.settings.mpp

    @property
    def classes(self) -> Classes:
        """METASTASIS_CLASSES."""
        return METASTASIS_CLASSES

    def tissues(self, box: Box, mpp: float | None = None) -> Labels:
        """(H, W) uint8, the scene's own classes (SCENE_CLASSES) at the centre of each pixel."""
        return self._scene.labels(box, mpp)

    def labels(self, box: Box, mpp: float | None = None) -> Labels:
        """(H, W) uint8 class at the centre of each pixel, at a resolution of its own if one is given."""
        rows, columns = sampled(box, self.mpp, mpp)
        labels = np.where(self.tissues(box, mpp) == GLASS, _GLASS, _NORMAL).astype(np.uint8)
        if self.findings.kind != "none":
            footprint = self._footprint((rows + 0.5) * self.mpp, (columns + 0.5) * self.mpp)
            labels[(footprint > 0) & (labels == _NORMAL)] = _TUMOUR
        return labels

    def render(self, box: Box) -> Pixels:
        """(H, W, 3) uint8 RGB of a box of whole pixels."""
        if self.findings.kind != "texture":
            return self._scene.render(box)
        pixels = np.empty((*box.size.shape, 3), np.uint8)
        for part in blocks(box.size, _BLOCK_PX):
            pixels[part.slices()] = self._matched(part.shifted(box.x, box.y))
        return pixels

    def _footprint(self, ys: Places, xs: Places) -> Floats:
        return self.findings.footprint(self.settings.seed, ys, xs)

    def _matched(self, box: Box) -> Pixels:
        """Pixels whose mean over the reach of a Gaussian is that of the same tissue without tumour cells."""
        margin = int(np.ceil(_MATCH_REACH * _MATCH_UM / self.mpp)) + 1
        wide = box.grown(margin)
        coarse = 16
        ys, xs = (np.arange(start, end + coarse, coarse) * self.mpp for start, end in _spans(wide))
        if float(self._footprint(ys, xs).max()) < -_FAR_UM:
            return self._scene.render(box)
        shown, wanted = (scene.render(wide).astype(np.float32) for scene in (self._scene, self._without))
        sigma = (_MATCH_UM / self.mpp, _MATCH_UM / self.mpp, 0)
        # What is white stays white: glass at the edge and holes take no part in the change.
        is_stained = np.clip((_WHITE_GREEN - shown[..., 1:2]) / _WHITE_SOFT, 0, 1)
        blurred = (shown, wanted, shown * is_stained)
        means = [ndimage.gaussian_filter(one, sigma, truncate=_MATCH_REACH) for one in blurred]
        shown += shown * is_stained * np.clip((means[1] - means[0]) / np.maximum(means[2], 1), -_MOST_GAIN, _MOST_GAIN)
        inner = slice(margin, -margin)
        return np.asarray(np.clip(np.rint(shown[inner, inner]), 0, 255), np.uint8)


def _spans(box: Box) -> Sequence[tuple[int, int]]:
    return (round(box.y), round(box.bottom)), (round(box.x), round(box.right))
