"""TCGA's barcodes as facts: whose tissue a slide shows, which kind of sample it is, how the section was made.

    TCGA-CR-7395-01A-01-TS1    project - site - patient - sample type and vial - portion - section

Characters 14 and 15 say the sample type: 01 is a primary solid tumour, 11 the normal tissue beside one. The last part says
how the section was made and nothing of what is on it: TS, BS and MS are frozen sections, DX is a diagnostic slide from
paraffin. Diagnostic slides show tumour alone, so that beside frozen normal tissue a classifier would learn the freezing:
both classes are taken from frozen sections.

Does not know: slides, tables.

Source: the barcode pages of the TCGA wiki of the National Cancer Institute.
"""

import re
from dataclasses import dataclass

FROZEN = ("TS", "BS", "MS")
"""Sections frozen at the top, the bottom or the middle of a portion."""

_TUMOUR, _NORMAL = "01", "11"
_SAMPLES = {
    "02": "a recurrent tumour",
    "03": "blood of a leukaemia",
    "05": "an additional new primary tumour",
    "06": "a metastasis",
    "07": "an additional metastasis",
    "10": "normal blood",
    "12": "normal cells from the cheek",
    "14": "normal bone marrow",
    "20": "a control",
}
_BARCODE = re.compile(
    r"(?<![A-Z0-9])TCGA-(?P<site>[A-Z0-9]{2})-(?P<patient>[A-Z0-9]{4})-(?P<sample>\d{2})(?P<vial>[A-Z])"
    r"-(?P<portion>\d{2})-(?P<section>[A-Z]{2})(?P<number>[A-Z0-9]{1,2})?(?![A-Z0-9-])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Barcode:
    """What the barcode of a slide says.

    Args:
        patient: TCGA-XX-XXXX.
        site: Two characters for the hospital and study that gave the tissue.
        sample: Two digits: 01 a primary solid tumour, 11 solid normal tissue.
        section: TS, BS or MS for frozen sections, DX for diagnostic slides.
    """

    patient: str
    site: str
    sample: str
    section: str


def parse_barcode(name: str) -> Barcode | None:
    """The slide barcode within a file's name, as `TCGA-CR-7395-01A-01-TS1.<uuid>.svs`; None when there is none.

    Barcodes of patients, samples or molecules name no slide.
    """
    match = _BARCODE.search(name)
    if match is None:
        return None
    site, patient, sample, section = (match[part].upper() for part in ("site", "patient", "sample", "section"))
    return Barcode(f"TCGA-{site}-{patient}", site, sample, section)


def is_tumour(barcode: Barcode) -> bool:
    """The label of a slide that `refusal` says nothing against."""
    return barcode.sample == _TUMOUR


def refusal(barcode: Barcode) -> str | None:
    """Why a slide is no frozen section of primary tumour or of normal tissue; None when it is."""
    if barcode.sample not in (_TUMOUR, _NORMAL):
        what = _SAMPLES.get(barcode.sample, "another kind of sample")
        return f"sample type {barcode.sample}, {what}: neither primary tumour (01) nor normal tissue (11)"
    if barcode.section == "DX":
        return "a diagnostic slide from paraffin (DX), which tumours alone have; frozen sections are compared"
    if barcode.section not in FROZEN:
        return f"a section of unknown make ({barcode.section}); frozen ones are {', '.join(FROZEN)}"
    return None
