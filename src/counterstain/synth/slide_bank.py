"""A cohort of slides composed from real patches, by patient: no patient's images stand on two slides.

Every slide has a host, whose images are benign, and a graft: a compact region of a small part of the tissue that holds
another patient's images alone. On positive slides the graft is malignant, on negative ones benign too. So both have a
region of another patient's tissue, of the same sizes and as many images, and only what the images show tells the label.
Stain amounts are those of one host image all over the slide.

Does not know: how patches are blended, how slides are written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from counterstain.errors import InputError
from counterstain.geometry import Box, Size
from counterstain.results import Classes
from counterstain.settings import to_tree
from counterstain.synth.anatomy import Labels
from counterstain.synth.bank import Bank, BankPlane, BankSettings, Entry, Graft, open_bank
from counterstain.synth.deposits import METASTASIS_CLASSES
from counterstain.synth.look import Pixels
from counterstain.synth.metastases import ENCODER_SPLIT
from counterstain.synth.noise import key_of, noise_at
from counterstain.synth.scene import SceneSettings
from counterstain.synth.slide import SlideSettings, write_slide
from counterstain.synth.slide_set import CohortSlide, write_slide_set

_LOOK_MPP = 4.0
_LEAST_COVERED = 0.5  # part of a graft's cells that is tissue, at least
_ROUGH = 0.6  # cells by which the outline of a graft strays from a circle
_TUMOUR, _NORMAL, _GLASS = (METASTASIS_CLASSES.index(name) for name in ("tumour", "normal", "glass"))


@dataclass(frozen=True)
class SlideBankSettings:
    """What a cohort of composed slides is.

    Args:
        bank: The patches; its truth should be "label".
        malignant: The label of grafts on positive slides.
        benign: Labels of hosts, and of grafts on negative slides. Images of any other label are left out, and so are
            the benign images of patients with malignant ones.
        num_slides: Half of them positive.
        num_encoder: Further slides, likewise, of other patients.
        fractions: Smallest and largest part of the tissue that a graft covers, logarithms evenly spread.
        side_px: Smallest and largest side of a slide, likewise.
        graft_images: A patient has at least so many images to be a graft.
        mpp: um/px that is written; assumed where the patches have none.
        seed: Of everything.
        covered: The part of a slide that tissue covers, about.

    Raises:
        InputError: When the numbers can't be a cohort.
    """

    bank: BankSettings
    malignant: str = "adenocarcinoma"
    benign: tuple[str, ...] = ("normal", "polyp", "serrated_adenoma", "low_grade_in")
    num_slides: int = 60
    num_encoder: int = 6
    fractions: tuple[float, float] = (0.02, 0.25)
    side_px: tuple[int, int] = (2000, 4000)
    graft_images: int = 3
    mpp: float = 0.5
    seed: int = 0
    covered: float = 0.42

    def __post_init__(self) -> None:
        if self.bank.truth != "label" or self.bank.patient_column is None:
            raise InputError('The bank must have truth="label" and a column of patients: grafts are told by them.')
        if self.num_slides < 2 or self.num_slides % 2 or self.num_encoder % 2 or self.num_encoder < 0:
            raise InputError(f"{self.num_slides} and {self.num_encoder} slides were given; give even numbers.")
        if not 0 < self.fractions[0] <= self.fractions[1] <= 0.5:
            raise InputError(
                f"Fractions of {list(self.fractions)} were given; give parts up to 0.5, the smaller first."
            )
        if not self.bank.overlap_px < self.side_px[0] <= self.side_px[1]:
            raise InputError(f"Sides of {list(self.side_px)} px were given; the smaller first, above the overlap.")


@dataclass(frozen=True)
class ComposedSlide:
    """What a slide is composed from.

    Args:
        slide: Its row.
        number: Of the slide in the cohort.
        host: Images of its tissue.
        graft: Images of the region.
        fraction: Of the tissue that the region should cover.
        size: Level 0.
    """

    slide: CohortSlide
    number: int
    host: tuple[Entry, ...]
    graft: tuple[Entry, ...]
    fraction: float
    size: Size


class ComposedPlane:
    """A bank's plane whose truth tells the malignant graft from all other tissue.

    Args:
        plane: The patches.
        malignant: The label that is tumour.
    """

    def __init__(self, plane: BankPlane, malignant: str) -> None:
        self._plane = plane
        self._lookup = np.full(len(plane.classes), _NORMAL, np.uint8)
        self._lookup[plane.classes.index(str(plane.classes.background))] = _GLASS
        if malignant in plane.classes.names:
            self._lookup[plane.classes.index(malignant)] = _TUMOUR

    @property
    def mpp(self) -> float:
        """um/px of its pixels."""
        return self._plane.mpp

    @property
    def classes(self) -> Classes:
        """METASTASIS_CLASSES."""
        return METASTASIS_CLASSES

    def render(self, box: Box) -> Pixels:
        """(H, W, 3) uint8 RGB of a box of whole pixels."""
        return self._plane.render(box)

    def labels(self, box: Box, mpp: float | None = None) -> Labels:
        """(H, W) uint8 class at the centre of each pixel, at a resolution of its own if one is given."""
        return self._lookup[self._plane.labels(box, mpp)]


def write_slide_bank(folder: Path, settings: SlideBankSettings) -> Path:
    """Writes the cohort, or what is missing of it.

    Args:
        folder: With `cohort.csv`, `truth.csv`, `slides/`, `truth/`, `settings.json`. One that an earlier call with the
            same settings left unfinished is finished.
        settings: What the cohort is.

    Returns:
        The path of `cohort.csv`.

    Raises:
        ExistingOutputError: When the folder holds something else.
        InputError: When the bank has too few patients.
    """
    bank = open_bank(replace(settings.bank, labels=(settings.malignant, *settings.benign)))
    composed = {one.slide.slide_id: one for one in compose(settings, bank)}

    def write(slide: CohortSlide, path: Path, truth: Path) -> dict[str, object]:
        return _write(settings, bank, composed[slide.slide_id], path, truth)

    return write_slide_set(Path(folder), to_tree(settings), [one.slide for one in composed.values()], write)


def compose(settings: SlideBankSettings, bank: Bank) -> list[ComposedSlide]:
    """Deals the patients of a bank out to slides.

    Slides come in pairs, a positive and a negative one, whose grafts have as many images and are to cover as much.
    Benign grafts are patients with few images; all other benign patients are dealt out so that hosts have images alike.

    Raises:
        InputError: When there are too few patients.
    """
    random = np.random.default_rng(key_of(settings.seed, "compose"))
    pairs = (settings.num_slides + settings.num_encoder) // 2
    malignant, benign = _patients(settings, bank, random)
    bad = [entries for entries in malignant if len(entries) >= settings.graft_images][:pairs]
    good = sorted((entries for entries in benign if len(entries) >= settings.graft_images), key=len)[:pairs]
    grafting = {entries[0].patient for entries in good}
    hosting = [entries for entries in benign if entries[0].patient not in grafting]
    if min(len(bad), len(good)) < pairs or len(hosting) < 2 * pairs:
        raise InputError(
            f"{2 * pairs} slides were asked for; they need {pairs} malignant patients and {pairs} benign ones with "
            f"{settings.graft_images} images, and {2 * pairs} more benign ones. The bank has {len(bad)}, {len(good)} and "
            f"{len(hosting)}. Ask for fewer slides."
        )
    hosts = _hosts(hosting, 2 * pairs)
    places = random.permutation(2 * pairs)
    grafts = []
    for pair, (malign, harmless) in enumerate(zip(bad, random.permutation(pairs).tolist(), strict=True)):
        count = min(len(malign), len(good[harmless]))
        grafts += [(pair, True, malign[:count]), (pair, False, good[harmless][:count])]
    drawn = [(*graft, hosts[place]) for graft, place in zip(grafts, places.tolist(), strict=True)]
    return _numbered(settings, drawn, random)


def _patients(
    settings: SlideBankSettings, bank: Bank, random: np.random.Generator
) -> tuple[list[list[Entry]], list[list[Entry]]]:
    """Malignant images and benign ones, patient by patient in random order; no patient has both."""
    by_patient: dict[str, list[Entry]] = {}
    for place in random.permutation(len(bank.entries)).tolist():
        by_patient.setdefault(bank.entries[place].patient, []).append(bank.entries[place])
    kept = [[entry for entry in entries if entry.label == settings.malignant] for entries in by_patient.values()]
    malignant = [entries for entries in kept if entries]
    ill = {entries[0].patient for entries in malignant}
    benign = [
        [entry for entry in entries if entry.label in settings.benign]
        for patient, entries in by_patient.items()
        if patient not in ill
    ]
    return malignant, [entries for entries in benign if entries]


def _hosts(patients: Sequence[list[Entry]], count: int) -> list[list[Entry]]:
    """Patients dealt out to hosts, those with many images first, each to the host with fewest."""
    hosts: list[list[Entry]] = [[] for _ in range(count)]
    for entries in sorted(patients, key=len, reverse=True):
        min(hosts, key=len).extend(entries)
    return hosts


def _numbered(
    settings: SlideBankSettings,
    drawn: Sequence[tuple[int, bool, list[Entry], list[Entry]]],
    random: np.random.Generator,
) -> list[ComposedSlide]:
    """Slides with names in random order; sizes and fractions alike on positive and negative ones."""
    pairs = len(drawn) // 2
    sizes = {is_bad: _spread(settings.side_px, pairs, random) for is_bad in (True, False)}
    fractions = _spread(settings.fractions, pairs, random)
    composed = []
    for number, place in enumerate(random.permutation(len(drawn)).tolist()):
        pair, is_bad, graft, host = drawn[place]
        side, stretch = sizes[is_bad][pair], float(np.exp(random.uniform(-0.1, 0.1)))
        low, high = settings.side_px
        width, height = (round(min(max(length, low), high)) for length in (side * stretch, side / stretch))
        name = f"C{number + 1:03d}"
        slide = CohortSlide(
            slide_id=name,
            patient_id=name,
            label="tumour" if is_bad else "normal",
            split=ENCODER_SPLIT if pair < settings.num_encoder // 2 else "",
            site="site 1",
            scanner="scanner 1",
            mpp=settings.mpp,
        )
        composed.append(ComposedSlide(slide, number, tuple(host), tuple(graft), fractions[pair], Size(width, height)))
    return composed


def _spread(ends: tuple[float, float], count: int, random: np.random.Generator) -> list[float]:
    """Numbers whose logarithms are spread evenly between two ends, in random order."""
    parts = (random.permutation(count) + random.uniform(0, 1, count)) / max(count, 1)
    spread: list[float] = np.exp(np.log(ends[0]) + np.log(ends[1] / ends[0]) * parts).tolist()
    return spread


def composed_plane(settings: SlideBankSettings, bank: Bank, one: ComposedSlide) -> tuple[ComposedPlane, float]:
    """What a slide shows, and the part of its tissue that the graft covers."""
    scene = SceneSettings(
        seed=key_of(settings.seed, f"composed {one.number}"),
        mpp=settings.mpp,
        tissue=Box.whole(one.size),
        covered=settings.covered,
    )
    own = replace(bank, entries=(*one.host, *one.graft))
    patients = frozenset(entry.patient for entry in one.graft)
    bare = BankPlane(own, scene, Graft(patients, frozenset()))
    cells, part = _graft_cells(_tissue_of_cells(bare, one.size), one.fraction, scene.seed)
    return ComposedPlane(BankPlane(own, scene, Graft(patients, cells)), settings.malignant), part


def _tissue_of_cells(plane: BankPlane, size: Size) -> npt.NDArray[np.float64]:
    """(rows, columns) how much of each cell of the plane from the origin on is tissue, 0 to 1."""
    half = plane.bank.settings.overlap_px // 2
    pitch = plane.pitch
    glass = plane.classes.index(str(plane.classes.background))
    rows, columns = -(-size.height // pitch.height), -(-size.width // pitch.width)
    covered = np.zeros((rows, columns))
    for row in range(rows):
        for column in range(columns):
            cell = Box(column * pitch.width + half, row * pitch.height + half, pitch.width, pitch.height)
            covered[row, column] = (plane.labels(cell, _LOOK_MPP) != glass).mean()
    return covered


def _graft_cells(
    tissue: npt.NDArray[np.float64], fraction: float, seed: int
) -> tuple[frozenset[tuple[int, int]], float]:
    """A compact region of cells that cover a part of the tissue, at least one; and that part."""
    random = np.random.default_rng(key_of(seed, "graft"))
    rows, columns = np.nonzero(tissue >= _LEAST_COVERED)
    middle = int(random.integers(len(rows)))
    off = np.hypot(rows - rows[middle], columns - columns[middle])
    off += _ROUGH * noise_at(key_of(seed, "graft rough"), 1.7, rows.astype(np.float64), columns.astype(np.float64))
    off[middle] = -10
    order = np.argsort(off)
    reached = np.cumsum(tissue[rows[order], columns[order]]) / tissue.sum()
    count = int(np.argmin(np.abs(reached - fraction))) + 1
    taken = zip(rows[order[:count]].tolist(), columns[order[:count]].tolist(), strict=True)
    return frozenset(taken), float(reached[count - 1])


def _write(settings: SlideBankSettings, bank: Bank, one: ComposedSlide, path: Path, truth: Path) -> dict[str, object]:
    plane, part = composed_plane(settings, bank, one)
    areas = write_slide(path, SlideSettings(size=one.size, mpp=settings.mpp, seed=one.number), truth, plane).areas_mm2
    return {
        "tumour_fraction": round(areas["tumour"] / (areas["tumour"] + areas["normal"]), 6),
        "graft_fraction": round(part, 6),
        "tumour mm2": round(areas["tumour"], 6),
        "normal mm2": round(areas["normal"], 6),
        "graft patient": one.graft[0].patient,
        "graft labels": " ".join(sorted({entry.label for entry in one.graft})),
        "graft images": len(one.graft),
        "host patients": " ".join(sorted({entry.patient for entry in one.host})),
        "host images": len(one.host),
    }
