"""The outlines of the pieces of tissue on a slide.

Pieces are bent ellipses with a rough edge, or long thin cores, laid out so that they cover about a given part of the
slide without touching its rim.

Does not know: what the tissue is.
"""

from dataclasses import dataclass

import numpy as np

from counterstain.geometry import Box
from counterstain.synth.noise import Floats, Places, key_of, noise

_ROUGH = ((0.55, 0.09), (0.17, 0.03))  # (spacing, height) as parts of the short axis
_GAP_UM = 25.0  # of glass along the rim, at least
_CLEAR = 0.15  # of the short axis: pieces bend away this far from the rim
_FINE = ((60.0, 7.0), (16.0, 3.0), (5.0, 1.2))  # (spacing, height) in um


@dataclass(frozen=True)
class _Piece:
    """One bent ellipse, um; `bend_um` is how far its tips are off its axis."""

    x: float
    y: float
    long_um: float
    short_um: float
    angle: float
    bend_um: float

    def is_far(self, ys: Places, xs: Places) -> bool:
        """Whether no place of a grid is near enough for any roughness to reach it."""
        reach = 1.5 * self.long_um + abs(self.bend_um)
        return bool(
            xs[-1] < self.x - reach or xs[0] > self.x + reach or ys[-1] < self.y - reach or ys[0] > self.y + reach
        )

    def depth(self, ys: Places, xs: Places) -> Floats:
        across = (xs - self.x).astype(np.float32)[None, :]
        down = (ys - self.y).astype(np.float32)[:, None]
        cosine, sine = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        along = across * cosine + down * sine
        squared = (along * np.float32(1 / self.long_um)) ** 2
        beside = down * cosine - across * sine - np.float32(self.bend_um) * (squared - np.float32(0.4))
        # Fourth powers along the axis: blunter ends than an ellipse's.
        reach = squared * squared + (beside * np.float32(1 / self.short_um)) ** 2
        depth: Floats = (1 - np.power(reach, np.float32(0.4))) * np.float32(self.short_um)
        return depth


@dataclass(frozen=True)
class Pieces:
    """All pieces of a slide.

    Args:
        key: For the roughness of edges.
        pieces: At least one.
        rough_um: The size that roughness is measured by.
        area_um: No tissue reaches the rim of this box.
    """

    key: int
    pieces: tuple[_Piece, ...]
    rough_um: float
    area_um: Box

    def depth(self, ys: Places, xs: Places) -> Floats:
        """How deep inside tissue each place of a grid lies, um; negative on glass.

        Args:
            ys: um, the rows.
            xs: um, the columns.
        """
        depth = np.full((len(ys), len(xs)), -1e6, np.float32)
        for piece in self.pieces:
            if piece.is_far(ys, xs):
                continue
            np.maximum(depth, piece.depth(ys, xs), out=depth)
        edge = self._from_rim(ys, xs)
        np.minimum(depth, edge - _CLEAR * self.rough_um, out=depth)
        fine = sum(height for _, height in _FINE)
        reach = 4 * (sum(height for _, height in _ROUGH) * self.rough_um + fine)
        if float(depth.max()) < -reach or float(depth.min()) > reach:
            return depth
        for number, (spacing, height) in enumerate(_ROUGH):
            octave = noise(self.key + number, spacing * self.rough_um, ys, xs)
            depth += octave * np.float32(height * self.rough_um)
        for number, (spacing, height) in enumerate(_FINE):
            depth += noise(self.key + 7 + number, spacing, ys, xs) * np.float32(height)
        np.minimum(depth, edge - _GAP_UM, out=depth)
        return depth

    def _from_rim(self, ys: Places, xs: Places) -> Floats:
        """How far inside the area's rim each place lies, um."""
        area = self.area_um
        from_sides = np.minimum(xs - area.x, area.right - xs).astype(np.float32)
        from_ends = np.minimum(ys - area.y, area.bottom - ys).astype(np.float32)
        nearest: Floats = np.minimum(from_sides[None, :], from_ends[:, None])
        return nearest


def lay_out(seed: int, area_um: Box, covered: float) -> Pieces:
    """Lays pieces of tissue out on a slide.

    Args:
        seed: Of the slide.
        area_um: Where tissue may lie, um.
        covered: The part of the area that tissue should cover, about.
    """
    random = np.random.default_rng(key_of(seed, "pieces"))
    style = random.choice(["one", "two", "cores", "crumbs"], p=[0.4, 0.25, 0.2, 0.15])
    columns, rows, slenderness = {"one": (1, 1, 1.0), "two": (1, 2, 1.0), "cores": (1, 3, 0.8), "crumbs": (2, 3, 1.0)}[
        str(style)
    ]
    if area_um.width < area_um.height:
        columns, rows = rows, columns
    cell_width, cell_height = area_um.width / columns, area_um.height / rows
    # An outline of our shape covers about 0.84 of the rectangle around it.
    fill = min(0.95, (covered / 0.84) ** 0.5)
    pieces = []
    for row in range(rows):
        for column in range(columns):
            half_width = 0.5 * cell_width * min(0.93, fill * random.uniform(0.92, 1.12))
            half_height = 0.5 * cell_height * fill * random.uniform(0.85, 1.08) * slenderness
            spare_x, spare_y = 0.5 * cell_width - half_width, 0.5 * cell_height - half_height
            x = area_um.x + (column + 0.5) * cell_width + 0.4 * spare_x * random.uniform(-1, 1)
            y = area_um.y + (row + 0.5) * cell_height + 0.4 * spare_y * random.uniform(-1, 1)
            is_upright = half_height > half_width
            long_um, short_um = max(half_width, half_height), min(half_width, half_height)
            angle = (np.pi / 2 if is_upright else 0.0) + random.uniform(-0.25, 0.25)
            pieces.append(_Piece(x, y, long_um, short_um, angle, random.uniform(-0.5, 0.5) * short_um))
    return Pieces(key_of(seed, "outline"), tuple(pieces), min(piece.short_um for piece in pieces), area_um)
