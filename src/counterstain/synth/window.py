"""A window of a scene while it is painted: its pixels, the fields under it, and the canvases.

Made by `paint.py`; `ground.py` lays tissues on it, `cells.py` prints nuclei.

Does not know: any tissue.
"""

from dataclasses import dataclass, field

import numpy as np

from counterstain.synth.anatomy import Fields, Lattice
from counterstain.synth.noise import Floats, Ints, Places, Scatter, Sites, key_of, noise
from counterstain.synth.nuclei import print_stamps, stamps_of
from counterstain.synth.texture import grain

REACH_UM = 14.0
"""The longest body printed reaches this far from its middle."""


@dataclass(frozen=True)
class Habit:
    """What differs from one patient's tissue to the next.

    Args:
        nuclei: Size of tumour nuclei, 0 to 1.
        dark: Part of tumour nuclei that are hyperchromatic.
        crowding: Factor on the distance between tumour nuclei.
        collagen: How dense stroma is, 0 to 1.
        angle: Of its fibres, radians.
        inflamed: Lymphocytes scattered through stroma, 0 to 1.
    """

    nuclei: float
    dark: float
    crowding: float
    collagen: float
    angle: float
    inflamed: float

    @classmethod
    def drawn(cls, seed: int) -> "Habit":
        """A patient's habit."""
        values = [float(value) for value in np.random.default_rng(key_of(seed, "habit")).uniform(0, 1, 6)]
        return cls(values[0], 0.1 + 0.5 * values[1], 0.9 + 0.25 * values[2], values[3], np.pi * values[4], values[5])


@dataclass
class Window:
    """A window while it is painted.

    Args:
        seed: Of the scene.
        difficulty: 0 to 1.
        habit: The patient's.
        mpp: um/px.
        rows: Pixel rows of the plane, consecutive.
        columns: Likewise.
        lattice: Its nodes.
        fields: Depths of tissues at the nodes, um.
        islands: Depths of islands that look like another tissue than theirs.
        along: At the nodes, the coordinate along the fibres, um.
        beside: The coordinate across them.
        vessels: Depth of small vessels in stroma.
    """

    seed: int
    difficulty: float
    habit: Habit
    mpp: float
    rows: Ints
    columns: Ints
    lattice: Lattice
    fields: Fields
    islands: dict[str, Floats]
    along: Floats
    beside: Floats
    vessels: Floats | None = None
    collagen: tuple[Floats, Floats] | None = None
    haematoxylin: Floats = field(init=False)
    eosin: Floats = field(init=False)
    nuclei: Floats = field(init=False)
    red_cells: Floats | None = None

    def __post_init__(self) -> None:
        shape = (len(self.rows), len(self.columns))
        self.haematoxylin, self.eosin, self.nuclei = (np.zeros(shape, np.float32) for _ in range(3))

    def key(self, name: str) -> int:
        """A key for one use of the scene's seed."""
        return key_of(self.seed, name)

    def nodes_um(self) -> tuple[Places, Places]:
        """Coordinates of the lattice's rows and columns."""
        step_um = self.lattice.step_px * self.mpp
        return self.lattice.rows * step_um, self.lattice.columns * step_um

    def alpha(self, depth: Floats | None, soft_um: float) -> Floats | None:
        """How far a tissue covers each pixel, 0 to 1 over a border this soft; None where it is nowhere."""
        if depth is None or float(depth.max()) <= -soft_um / 2:
            return None
        alpha = self.lattice.finer(depth)
        alpha *= np.float32(1 / soft_um)
        alpha += np.float32(0.5)
        np.clip(alpha, 0, 1, out=alpha)
        return alpha

    def lay(self, alpha: Floats, haematoxylin: Floats | float, eosin: Floats | float) -> None:
        """Paints over what is there."""
        for canvas, value in ((self.haematoxylin, haematoxylin), (self.eosin, eosin)):
            change = value - canvas
            change *= alpha
            canvas += change

    def looks(self, depth: Floats | None, island: str) -> Floats | None:
        """A tissue's depth, widened by the islands that look like it."""
        extra = self.islands.get(island)
        if extra is None:
            return depth
        return extra if depth is None else np.maximum(depth, extra)

    def grain(self, size_um: float, name: str) -> Floats:
        """Grains of a size over the window, standard deviation 1 or less."""
        texture = grain(size_um, self.mpp, round(10 * size_um))
        return texture.tiled(self.rows, self.columns, self.key(name))

    def noise(self, spacing_um: float, name: str) -> Floats:
        """Smooth noise over the window."""
        return self.lattice.finer(noise(self.key(name), spacing_um, *self.nodes_um()))

    def sites(self, name: str, pitch_um: float, jitter: float, reach_um: float = REACH_UM) -> Sites:
        """Scattered sites in the window and close around it."""
        x, y = self.columns[[0, -1]] * self.mpp, self.rows[[0, -1]] * self.mpp
        scatter = Scatter(self.key(name), pitch_um, jitter)
        return scatter.sites(x[0] - reach_um, y[0] - reach_um, x[1] + reach_um, y[1] + reach_um)

    def at(self, depth: Floats, sites: Sites) -> Floats:
        """A field of the lattice at sites."""
        return depth[self.lattice.nearest(*self._pixels(sites))]

    def directions(self, depth: Floats, sites: Sites) -> Floats:
        """The angle of a field's slope at sites, radians."""
        row, column = self.lattice.nearest(*self._pixels(sites))
        down = depth[row + 1, column] - depth[row - 1, column]
        across = depth[row, column + 1] - depth[row, column - 1]
        return np.arctan2(down, across)

    def print(self, kind: str, sites: Sites, numbers: Ints, strength: Floats | None = None) -> None:
        """Prints bodies of a kind at sites; `numbers` are stamps."""
        if kind == "red cell" and self.red_cells is None:
            self.red_cells = np.zeros_like(self.nuclei)
        canvas = self.nuclei if kind != "red cell" or self.red_cells is None else self.red_cells
        rows, columns = self._pixels(sites)
        images = stamps_of(kind, self.mpp).images
        print_stamps(canvas, images, numbers, rows - self.rows[0], columns - self.columns[0], strength)

    def _pixels(self, sites: Sites) -> tuple[Ints, Ints]:
        return np.floor(sites.y / self.mpp).astype(np.int64), np.floor(sites.x / self.mpp).astype(np.int64)
