import pytest

from counterstain.data.tcga import FROZEN, Barcode, is_tumour, parse_barcode, refusal


def barcode(text: str) -> Barcode:
    parsed = parse_barcode(text)
    assert parsed is not None
    return parsed


def test_a_barcode_says_patient_site_sample_and_section() -> None:
    assert barcode("TCGA-CR-7395-01A-01-TS1") == Barcode("TCGA-CR-7395", "CR", "01", "TS")


@pytest.mark.parametrize(
    "name",
    [
        "TCGA-CR-7395-11A-01-TS1.0b0b0a5e-1c1d-4c8e-9a52-5d8f2b6a7c11.svs",
        "slides/tcga-cr-7395-11a-01-ts1.svs",
        "LUSC_TCGA-CR-7395-11A-01-TSA_x.svs",
        "TCGA-CR-7395-11A-01-TS",
    ],
)
def test_a_barcode_is_found_within_a_files_name(name: str) -> None:
    assert barcode(name) == Barcode("TCGA-CR-7395", "CR", "11", "TS")


@pytest.mark.parametrize(
    "name",
    ["slide_17.svs", "TCGA-CR-7395", "TCGA-CR-7395-01A", "TCGA-CR-7395-01A-11D-2012-08", "TCGA-CR-739-01A-01-TS1", ""],
)
def test_barcodes_of_patients_samples_and_molecules_name_no_slide(name: str) -> None:
    assert parse_barcode(name) is None


def test_the_sample_type_is_the_label_and_the_section_is_not() -> None:
    for section in FROZEN:
        for sample, expected in (("01A", True), ("11A", False), ("01B", True)):
            frozen = barcode(f"TCGA-22-4591-{sample}-01-{section}1")
            assert refusal(frozen) is None
            assert is_tumour(frozen) is expected


def test_diagnostic_slides_are_refused_for_both_classes() -> None:
    for sample in ("01Z", "11A"):
        assert "from paraffin (DX)" in (refusal(barcode(f"TCGA-22-4591-{sample}-00-DX1.uuid.svs")) or "")


@pytest.mark.parametrize(
    ("sample", "word"), [("02A", "recurrent"), ("06A", "metastasis"), ("10A", "blood"), ("99A", "99")]
)
def test_other_samples_are_refused_by_their_name(sample: str, word: str) -> None:
    assert word in (refusal(barcode(f"TCGA-22-4591-{sample}-01-TS1")) or "")


def test_a_section_nobody_knows_is_refused() -> None:
    assert "unknown make (QX)" in (refusal(barcode("TCGA-22-4591-01A-01-QX1")) or "")


def test_the_site_is_that_of_the_tissue() -> None:
    assert [barcode(f"TCGA-{site}-4591-01A-01-TS1").site for site in ("22", "CR", "A7")] == ["22", "CR", "A7"]
