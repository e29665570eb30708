"""Tumour / no tumour windows: cut from images whose masks are known, labelled by what the masks say they contain.

The other class of two is cut out of the same images: a negative window is a place where the mask is empty. Windows of both
labels have one size and, as far as there are places, the same patients in the same numbers, so that neither tells the
label. Masks go with the windows of val and test and nowhere else; the labels are **simulated from masks**.

Does not know: which dataset it is given, networks.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from counterstain.data.crops import CropSettings, read_class_mask
from counterstain.data.images import read_image, write_image, write_mask
from counterstain.data.patches import open_patches
from counterstain.data.records import PatchDataset, PatchRecord
from counterstain.data.splits import FRACTIONS, Fractions, split_by_patient
from counterstain.data.table import TABLE, class_file_text
from counterstain.errors import InputError
from counterstain.files import refuse_overwrite, write_json, write_text
from counterstain.log import progress
from counterstain.results import UNCOVERED, Classes

_CLOSE = 0.05  # a part of a window this close to the one wanted will do
_EMPTY_TRIES = 300
_FLAT = 5.0  # grey levels to the next pixel: glass and mucus change less, tissue that is in focus more
_BLANK = 0.5  # a window with so much that is flat shows hardly any tissue


@dataclass(frozen=True)
class WindowSettings:
    """How windows are cut.

    Args:
        window_px: Width and height on the image.
        enlarged: Windows are written so many times larger (bicubic; masks by repeating pixels).
        num_train: Windows with labels.
        num_val: Windows with labels and masks, half of them positive.
        num_test: Likewise.
        neg_pos_ratio: Negative windows for each positive one, of the training windows.
        min_fraction: The part of a positive window that the mask covers, at least; windows between none and this are never
            written.
        max_fraction: At most. Between the two, parts are evenly spread.
        max_blank: The part of the negative windows that may show hardly any tissue.
        draws_per_image: Places of positive windows tried on each image.
        fractions: Of patients in train, val and test.
        seed: Of the split and of the places.

    Raises:
        InputError: When the numbers can't be windows.
    """

    window_px: int = 48
    enlarged: int = 1
    num_train: int = 480
    num_val: int = 160
    num_test: int = 240
    neg_pos_ratio: float = 2.0
    min_fraction: float = 0.05
    max_fraction: float = 0.95
    max_blank: float = 0.05
    draws_per_image: int = 64
    fractions: Fractions = FRACTIONS
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.num_train, self.num_val, self.num_test) < 2:
            raise InputError("Give at least 2 windows for each of train, val and test: a positive and a negative one.")
        if not 0 < self.min_fraction < self.max_fraction <= 1:
            raise InputError(
                f"Parts from {self.min_fraction} to {self.max_fraction} were asked for; give 0 < min_fraction < "
                "max_fraction <= 1."
            )
        if self.neg_pos_ratio <= 0 or self.window_px < 2 or self.enlarged < 1:
            raise InputError("Give neg_pos_ratio above 0, window_px of 2 or more, and enlarged of 1 or more.")

    def numbers(self, split: str) -> tuple[int, int]:
        """How many negative and positive windows a split has."""
        total = {"train": self.num_train, "val": self.num_val, "test": self.num_test}[split]
        ratio = self.neg_pos_ratio if split == "train" else 1.0
        num_positive = min(max(1, round(total / (1 + ratio))), total - 1)
        return total - num_positive, num_positive


@dataclass(frozen=True, slots=True)
class Window:
    """A place on an image.

    Args:
        record: The image.
        draw: Which of the image's it was.
        x: Its left column.
        y: Its upper row.
        part: The part of it that the mask covers.
        is_blank: Whether it shows hardly any tissue; told of negative ones alone.
    """

    record: PatchRecord
    draw: int
    x: int
    y: int
    part: float
    is_blank: bool = False

    def is_far(self, other: "Window", px: int) -> bool:
        """Whether another window is on another image or at least so far off, along rows or columns."""
        return self.record is not other.record or abs(self.x - other.x) >= px or abs(self.y - other.y) >= px


def cut_tumour_windows(
    records: Sequence[PatchRecord], classes: Classes, out: Path, settings: WindowSettings | None = None
) -> PatchDataset:
    """Makes a tumour set of images with masks, and opens it.

    Args:
        records: Images with masks of 0 and 1 and with patients.
        classes: Two: what 0 and 1 mean; the first is the background.
        out: The folder to make.
        settings: How windows are cut.

    Raises:
        ExistingOutputError: When a dataset is there already.
        SplitError: When there are too few patients.
        InputError: When an image is smaller than a window or has no mask, a mask holds other values, there are too few
            windows of a label, or the classes are not such two.
    """
    settings = settings or WindowSettings()
    if len(classes) != 2 or classes.background != classes.names[0]:
        raise InputError(f"Classes {classes.names} were given; two were expected, the first of them the background.")
    refuse_overwrite(out / TABLE)
    splits = split_by_patient(records, settings.fractions, settings.seed)
    note = f"Labels are simulated from masks: windows of {settings.window_px} px, negative where the mask is empty."
    dataset = PatchDataset(out.name, classes, UNCOVERED, None, white_is_background=False, notes=(note,))
    rows = [["image", "split", "patient", "mask", *classes.names]]
    for split, own in splits.items():
        rows += _write_windows(choose_windows(own, *settings.numbers(split), settings), split, classes, out, settings)
    write_text(out / "classes.toml", class_file_text(dataset))
    write_json(out / "simulated.json", {"what": note, "settings": asdict(settings)})
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(out / TABLE, text.getvalue())  # last: a folder with a table is a whole dataset
    return open_patches(out, "table")


def choose_windows(
    records: Sequence[PatchRecord], num_negative: int, num_positive: int, settings: WindowSettings
) -> list[Window]:
    """Negative windows, images sharing alike, then positive windows of the same patients with parts evenly spread.

    Raises:
        InputError: As `cut_tumour_windows`.
    """
    negatives, positives = _find_windows(records, settings)
    rng = np.random.default_rng([settings.seed, len(records)])
    negatives = _shared_alike(negatives, num_negative, settings, rng)
    wanted = [negatives[place].record.patient for place in rng.permutation(num_negative)]
    parts = rng.permutation(np.linspace(settings.min_fraction, settings.max_fraction, num_positive)).tolist()
    by_patient: dict[str, list[Window]] = defaultdict(list)
    for window in positives:
        by_patient[window.record.patient].append(window)
    chosen: list[Window] = []
    for number, part in enumerate(parts):
        own = by_patient[wanted[number % num_negative]]
        chosen.append(_nearest(own, part, chosen, settings) or _nearest_or_refuse(positives, part, chosen, settings))
    return [*negatives, *chosen]


def _shared_alike(
    negatives: Sequence[Window], number: int, settings: WindowSettings, rng: np.random.Generator
) -> list[Window]:
    """So many of the windows, the first of every image before the second of any, and few blank ones."""
    mixed = sorted((negatives[place] for place in rng.permutation(len(negatives))), key=lambda window: window.draw)
    max_blank = int(settings.max_blank * number)
    blank = [id(window) for window in mixed if window.is_blank][max_blank:]
    kept = [window for window in mixed if id(window) not in blank][:number]
    if len(kept) < number:
        raise InputError(
            f"{number} windows without a pixel of the mask, {max_blank} of them blank, were asked for; {len(kept)} were "
            "found. Lower the numbers or window_px."
        )
    return kept


def _nearest(own: Sequence[Window], part: float, chosen: Sequence[Window], settings: WindowSettings) -> Window | None:
    """The window with a part nearest to one, away from those chosen; None where there is none close."""
    for window in sorted(own, key=lambda window: abs(window.part - part)):
        if abs(window.part - part) > _CLOSE:
            return None
        if all(window.is_far(other, settings.window_px // 2) for other in chosen):
            return window
    return None


def _nearest_or_refuse(
    windows: Sequence[Window], part: float, chosen: Sequence[Window], settings: WindowSettings
) -> Window:
    window = _nearest(windows, part, chosen, settings)
    if window is None:
        raise InputError(f"No window is left of which the mask covers about {part:.0%}. Lower the numbers.")
    return window


def _find_windows(records: Sequence[PatchRecord], settings: WindowSettings) -> tuple[list[Window], list[Window]]:
    """All negative windows at least half a window apart, and positive ones at random places, of every image.

    Each image has a generator of its own, seeded by (seed, position).
    """
    negatives, positives = [], []
    with progress("Looking for windows", len(records), "images") as counter:
        for position, record in enumerate(records):
            mask = read_class_mask(record, 2, CropSettings())
            parts, unknown = (_parts(record, mask == value, settings.window_px) for value in (1, UNCOVERED))
            parts[unknown > 0] = np.nan  # equal to nothing and in no range: a window must be known to its last pixel
            rng = np.random.default_rng([settings.seed, position])
            negatives += _empty(record, parts, settings.window_px, rng)
            fits = (parts >= settings.min_fraction) & (parts <= settings.max_fraction)
            places = rng.permutation(np.argwhere(fits))[: settings.draws_per_image].tolist()
            positives += [Window(record, n, x, y, float(parts[y, x])) for n, (y, x) in enumerate(places)]
            counter.advance()
    return negatives, positives


def _empty(record: PatchRecord, parts: npt.NDArray[np.float64], side: int, rng: np.random.Generator) -> list[Window]:
    """Negative windows of an image, at least half a window apart."""
    found: list[Window] = []
    for y, x in rng.permutation(np.argwhere(parts == 0))[:_EMPTY_TRIES].tolist():
        window = Window(record, len(found), x, y, 0.0)
        if all(window.is_far(other, side // 2) for other in found):
            found.append(window)
    if not found:
        return []
    grey = read_image(record.image).mean(2)
    return [replace(window, is_blank=_is_blank(grey[window.y :, window.x :][:side, :side])) for window in found]


def _is_blank(grey: npt.NDArray[np.float64]) -> bool:
    steps = np.maximum(np.abs(np.diff(grey, axis=0))[:, 1:], np.abs(np.diff(grey, axis=1))[1:])
    return bool((steps <= _FLAT).mean() > _BLANK)


def _parts(record: PatchRecord, mask: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.float64]:
    """(rows, columns): the part of each window that the mask covers, by summed areas."""
    if min(mask.shape) < side:
        raise InputError(f"'{record.image}' is {mask.shape[1]} x {mask.shape[0]} px, less than a window of {side} px.")
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    sums[1:, 1:] = mask.cumsum(0).cumsum(1)
    parts: npt.NDArray[np.float64] = (
        sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    ) / side**2
    return parts


def _write_windows(
    windows: Iterable[Window], split: str, classes: Classes, out: Path, settings: WindowSettings
) -> list[list[str]]:
    """Writes windows, and masks unless they are to be learned from; the table's rows."""
    (out / split / "mask" if split != "train" else out / split).mkdir(parents=True, exist_ok=True)
    rows, side, times = [], settings.window_px, settings.enlarged
    for number, window in enumerate(windows):
        place = np.s_[window.y : window.y + side, window.x : window.x + side]
        pixels = read_image(window.record.image)[place]
        large = Image.fromarray(pixels).resize((side * times, side * times), Image.Resampling.BICUBIC)
        image, mask = f"{split}/{number:05d}.png", ""
        write_image(out / image, np.asarray(large))
        if split != "train":
            mask = f"{split}/mask/{number:05d}.png"
            truth = read_class_mask(window.record, 2, CropSettings())[place]
            write_mask(out / mask, truth.repeat(times, 0).repeat(times, 1), classes.colors)
        label = ("0", "1") if window.part > 0 else ("1", "0")
        rows.append([image, split, window.record.patient, mask, *label])
    return rows
