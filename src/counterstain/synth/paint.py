"""From anatomy to stain densities: grounds, nuclei, and the planted difficulty.

Tissues are painted over one another with soft borders, each in two densities: haematoxylin and eosin. Then nuclei are
printed: candidates stand at hashed sites, and a tissue keeps those that lie in it.

Difficulty plants what weak labels are bad at. Islands look like another tissue than the one they belong to: a cluster
of lymphocytes in tumour, fibres in epithelium, a necrotic smudge in stroma. And tissues come to look alike close by and
differ in their surroundings only: the nuclei of normal glands grow as large and dark as a tumour's, necrosis gets fibres.

Does not know: RGB, files.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from counterstain.synth.anatomy import Fields, Lattice
from counterstain.synth.cells import dust, print_cells
from counterstain.synth.ground import cut_edge, lay_grounds
from counterstain.synth.noise import Discs, Floats, Ints, Places, Scatter, again, key_of, noise
from counterstain.synth.window import REACH_UM, Habit, Window

_ISLANDS = ("lymphocytes", "fibres", "necrosis", "tumour")
_ISLAND_PITCH_UM = 125.0
_NODE_UM = (2.0, 4.0)  # nodes of the lattice stand this far apart, at least and at most


class Tissues(Protocol):
    """What says where tissues lie."""

    def fields(self, ys: Places, xs: Places) -> Fields:
        """Depths at the nodes of a lattice whose rows and columns lie at these coordinates, um."""


@dataclass(frozen=True)
class Painter:
    """Paints one scene.

    Args:
        seed: Of the scene.
        mpp: um/px of the pixels.
        anatomy: Where tissues lie.
        difficulty: 0 to 1.
        habit: The patient's.
    """

    seed: int
    mpp: float
    anatomy: Tissues
    difficulty: float
    habit: Habit

    @property
    def step_px(self) -> int:
        """Pixels between the nodes of the lattice."""
        return max(1, round(min(max(_NODE_UM[0], 4 * self.mpp), _NODE_UM[1]) / self.mpp))

    def fields(self, lattice: Lattice) -> Fields:
        """Depths of tissues at the nodes of a lattice."""
        step_um = lattice.step_px * self.mpp
        return self.anatomy.fields(lattice.rows * step_um, lattice.columns * step_um)

    def densities(self, rows: Ints, columns: Ints) -> tuple[Floats, Floats] | None:
        """Optical densities of haematoxylin and eosin.

        Args:
            rows: Pixel rows of the plane, consecutive.
            columns: Likewise.

        Returns:
            Two (rows, columns) float32 images, or None where all is bare glass.
        """
        margin = int(np.ceil(REACH_UM / (self.step_px * self.mpp))) + 3
        lattice = Lattice.under(rows, columns, self.step_px, margin)
        fields = self.fields(lattice)
        if fields.bed is None:
            specks = dust(self.seed, self.mpp, rows, columns)
            return None if specks is None else (specks, np.float32(0.4) * specks)
        step_um = lattice.step_px * self.mpp
        ys, xs = lattice.rows * step_um, lattice.columns * step_um
        along, beside = self._flow(fields, ys, xs)
        window = Window(
            self.seed,
            self.difficulty,
            self.habit,
            self.mpp,
            rows,
            columns,
            lattice,
            fields,
            self._islands(fields, ys, xs),
            along,
            beside,
        )
        lay_grounds(window)
        print_cells(window)
        cut_edge(window)
        return window.haematoxylin, window.eosin

    def _key(self, name: str) -> int:
        return key_of(self.seed, name)

    def _flow(self, fields: Fields, ys: Places, xs: Places) -> tuple[Floats, Floats]:
        """Coordinates (um) along the fibres and across them; fibres bend around nests, glands and fat."""
        cosine, sine = np.cos(self.habit.angle), np.sin(self.habit.angle)
        along = (xs[None, :] * cosine + ys[:, None] * sine).astype(np.float32)
        beside = (ys[:, None] * cosine - xs[None, :] * sine).astype(np.float32)
        along += noise(self._key("flow along"), 90.0, ys, xs) * np.float32(40)
        for spacing, height in ((190.0, 75.0), (70.0, 17.0), (24.0, 4.0), (9.0, 0.9)):
            beside += noise(self._key(f"flow {spacing}"), spacing, ys, xs) * np.float32(height)
        for field in (fields.nests, fields.normal, fields.fat):
            if field is not None:
                # Nothing beyond 40 um: there a field may be absent from one window and present in another.
                beside -= (np.clip(field, -40, 0) + 40) * np.float32(0.9)
        return along, beside

    def _islands(self, fields: Fields, ys: Places, xs: Places) -> dict[str, Floats]:
        """Depths (um) of islands that look like another tissue; they keep out of lumens and fat."""
        if self.difficulty <= 0:
            return {}
        reach = 90.0
        scatter = Scatter(self._key("islands"), _ISLAND_PITCH_UM, 0.95)
        sites = scatter.sites(xs[0] - reach, ys[0] - reach, xs[-1] + reach, ys[-1] + reach)
        sites = sites.kept(again(sites.hashes, 3) < 0.85 * self.difficulty)
        kinds = (again(sites.hashes, 4) * len(_ISLANDS)).astype(np.int64)
        found = {}
        for number, name in enumerate(_ISLANDS):
            own = sites.kept(kinds == number)
            if not len(own):
                continue
            uniform = [again(own.hashes, count) for count in (5, 6, 7)]
            discs = Discs(own, 13 + 15 * uniform[0], 1 + 0.8 * uniform[1], np.float32(np.pi) * uniform[2])
            depth = discs.depth(ys, xs, 30) + noise(self._key("islands rough"), 11.0, ys, xs) * np.float32(3)
            for other in (fields.lumens, fields.fat):
                if other is not None:
                    np.minimum(depth, -other, out=depth)
            found[name] = depth
        return found
