"""Published patch datasets as facts: classes in their order, palettes, folders, file names, resolution.

Class order and palette differ from one to the next (necrosis is class 1 in one and class 3 in another), so nothing else
may know them. `synth` writes these layouts, `data` reads them.

Does not know: how to read or write a file.
"""

import re
from dataclasses import dataclass

from counterstain.errors import UnknownNameError
from counterstain.results import Classes


@dataclass(frozen=True)
class PatchLayout:
    r"""The folders, names and palette of a patch dataset whose training labels stand in the file names.

    Args:
        name: As users type it.
        classes: In the order of the label's digits and of the mask's values.
        mask_ignore: The mask value that scoring leaves out: white background.
        mask_ignore_color: Its entry in the palette.
        train_folders: Names the training folder goes by in the published archives, best first.
        val_folders: Likewise.
        test_folders: Likewise.
        image_folders: Names of the folder of images inside a split; "" when they lie in the split itself.
        label_format: `str.format` pattern that writes a label's digits, e.g. "[{0} {1}]".
        patient_pattern: Regular expression on the file's stem whose first group is the patient; None where the names
            carry no patient.
        patch_px: The usual width and height; None when it varies.
        mpp: Nominal um/px of the patches; None when unpublished.
        white_is_background: Whether white areas count as background in pseudo-masks and maps.
        source: Where these facts stand.
        background_folder: A folder beside `mask` whose files are not 0 where scoring leaves a pixel out; None where the
            dataset has none.
    """

    name: str
    classes: Classes
    mask_ignore: int
    mask_ignore_color: tuple[int, int, int]
    train_folders: tuple[str, ...]
    val_folders: tuple[str, ...]
    test_folders: tuple[str, ...]
    image_folders: tuple[str, ...]
    label_format: str
    patient_pattern: str | None
    patch_px: int | None
    mpp: float | None
    white_is_background: bool
    source: str
    background_folder: str | None = None

    def label_suffix(self, label: tuple[int, ...]) -> str:
        """The digits of a label as this dataset writes them at the end of a file's stem."""
        return self.label_format.format(*label)

    def patient(self, stem: str) -> str | None:
        """The patient in a file's stem; None where the name carries none."""
        match = re.match(self.patient_pattern, stem) if self.patient_pattern else None
        return match.group(1) if match else None


LUAD_HISTOSEG = PatchLayout(
    name="luad_histoseg",
    classes=Classes(
        ("tumour epithelium", "necrosis", "lymphocytes", "tumour-associated stroma"),
        ((205, 51, 51), (0, 255, 0), (65, 105, 225), (255, 165, 0)),
    ),
    mask_ignore=4,
    mask_ignore_color=(255, 255, 255),
    train_folders=("train", "training"),
    val_folders=("val", "valid", "validation"),
    test_folders=("test", "testing"),
    image_folders=("", "img"),
    label_format="-[{0} {1} {2} {3}]",
    patient_pattern=r"(\d+)-",
    patch_px=224,
    mpp=1.0,
    white_is_background=True,
    source="Han et al. 2022 (Medical Image Analysis 80:102487), Readme.txt of the archive; 10x, nominally 1 um/px",
)

BCSS_WSSS = PatchLayout(
    name="bcss_wsss",
    classes=Classes(
        ("tumour", "stroma", "lymphocytic infiltrate", "necrosis"),
        ((255, 0, 0), (0, 255, 0), (0, 0, 255), (153, 0, 255)),
    ),
    mask_ignore=4,
    mask_ignore_color=(255, 255, 255),
    train_folders=("train", "training"),
    val_folders=("val", "valid", "validation"),
    test_folders=("test", "testing"),
    image_folders=("", "img"),
    label_format="[{0}{1}{2}{3}]",
    patient_pattern=r"(TCGA-\w\w-\w{4})",
    patch_px=224,
    mpp=None,
    white_is_background=False,
    source="Han et al. 2022, Readme.txt of the archive; Amgad et al. 2019; file names say 0.25 um/px of the source images",
)

WSSS4LUAD = PatchLayout(
    name="wsss4luad",
    classes=Classes(("tumour", "stroma", "normal"), ((0, 64, 128), (64, 128, 0), (243, 152, 0))),
    mask_ignore=3,
    mask_ignore_color=(255, 255, 255),
    train_folders=("1.training", "train", "training"),
    val_folders=("2.validation", "val", "valid", "validation"),
    test_folders=("3.testing", "test", "testing"),
    image_folders=("", "img"),
    label_format="-[{0}, {1}, {2}]",
    patient_pattern=r"(\d+)-",
    patch_px=None,
    mpp=1.0,
    white_is_background=True,
    source="Han et al. 2022 (arXiv 2204.06455); 10x, nominally 1 um/px; validation and test names carry no patient",
    background_folder="background-mask",
)

LAYOUTS = {layout.name: layout for layout in (LUAD_HISTOSEG, BCSS_WSSS, WSSS4LUAD)}


def find_layout(name: str) -> PatchLayout:
    """A layout by its name.

    Raises:
        UnknownNameError: When there is none of that name.
    """
    if name not in LAYOUTS:
        raise UnknownNameError("dataset layout", name, LAYOUTS)
    return LAYOUTS[name]
