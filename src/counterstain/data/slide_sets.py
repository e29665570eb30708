"""A set of encoded slides, opened from the folders they were encoded to.

Does not know: how slides are labelled or encoded, networks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from counterstain.data.cell_files import are_cells_alike, how_chosen
from counterstain.data.diagnosis import DiagnosisSlide
from counterstain.data.encoded import LabelledSlide, SlideSet
from counterstain.data.encoded_files import FeatureHeader, read_header
from counterstain.errors import InputError, StaleResultError, listed
from counterstain.files import settings_hash
from counterstain.results import Classes


def labelled_slides(rows: Sequence[DiagnosisSlide], folder: Path) -> tuple[LabelledSlide, ...]:
    """A cohort's labelled slides, each with the folder below `folder` that it was or will be encoded to."""
    return tuple(
        LabelledSlide(
            slide_id=row.slide_id,
            patient_id=row.patient_id,
            label=row.label,
            folder=folder / row.slide_id,
            split=row.split,
            site=row.entry.site,
            scanner=row.entry.scanner,
        )
        for row in rows
    )


def open_slide_set(name: str, classes: Classes, slides: Sequence[LabelledSlide], encoder_name: str) -> SlideSet:
    """A set of slides as one encoder sees them.

    Args:
        name: What reports call it.
        classes: The background, then the positive class.
        slides: Each with the folder it was encoded to.
        encoder_name: Of the encoder.

    Raises:
        InputError: When there is no slide, or a file is damaged.
        MissingFileError: When a slide was not encoded.
        StaleResultError: When the slides were not all encoded alike.
    """
    if not slides:
        raise InputError(f"Set {name!r} has no slide. Give a table with at least one that can be encoded.")
    headers = [read_header(slide.folder, encoder_name) for slide in slides]
    chosen = [how_chosen(slide.folder) for slide in slides]
    first = headers[0]
    others = [
        f"{slide.slide_id}: {_told(header, how)}"
        for slide, header, how in zip(slides, headers, chosen, strict=True)
        if header.encoder != first.encoder or not are_cells_alike(header.cell_um, first.cell_um) or how != chosen[0]
    ]
    if others:
        raise StaleResultError(
            listed(
                f"Slides of {name!r} were encoded in different ways; {slides[0].slide_id} by {_told(first, chosen[0])}. "
                "Encode all with one encoder and one choice of cells, these again with --overwrite:",
                others,
            )
        )
    inputs = {slide.slide_id: header.inputs_hash for slide, header in zip(slides, headers, strict=True)}
    return SlideSet(name, classes, first.encoder, tuple(slides), first.cell_um, inputs, chosen[0])


def _told(header: FeatureHeader, chosen: Mapping[str, Any]) -> str:
    encoder = f"{header.encoder.name} {header.encoder.digest[:8]} in cells of {header.cell_um:g} um"
    return f"{encoder}, {told_choice(chosen)}"


def told_choice(chosen: Mapping[str, Any]) -> str:
    """In words, how cells were chosen, as `how_chosen` gives it; settings of tissue by their hash."""
    if "min_tissue" not in chosen:
        return f"chosen by {chosen.get('filter', 'nobody knows what')!r}"
    digest = settings_hash(chosen.get("tissue"))[:8]
    return f"chosen by {chosen['filter']!r} (at least {chosen['min_tissue']:g} of tissue, tissue settings {digest})"
