"""Data: patches with weak labels, masks to score against, splits by patient, cohorts of slides."""

from counterstain.data.augment import Augment, AugmentSettings
from counterstain.data.cohorts import Cohort, CohortSlide, Dropped, open_cohort, read_cohort
from counterstain.data.crops import CropSettings, draw_weak_patches, open_masked_images
from counterstain.data.images import (
    IMAGE_SUFFIXES,
    MaskCoding,
    image_size,
    read_flags,
    read_image,
    read_mask,
    write_image,
    write_mask,
)
from counterstain.data.labels import Label, parse_label, parse_labels
from counterstain.data.patches import LAYOUT_NAMES, open_patches
from counterstain.data.records import SPLITS, PatchDataset, PatchRecord, patient_code, patient_codes, shared_patients
from counterstain.data.splits import FRACTIONS, refuse_shared_patients, split_by_patient, split_patients
from counterstain.data.table import default_colors
from counterstain.data.tumour import is_positive, tumour_class, tumour_classes
from counterstain.data.tumour_folders import digestpath_slide
from counterstain.data.weak import WeakPatches, WeakSettings

__all__ = [
    "Augment",
    "AugmentSettings",
    "Cohort",
    "CohortSlide",
    "CropSettings",
    "Dropped",
    "FRACTIONS",
    "IMAGE_SUFFIXES",
    "LAYOUT_NAMES",
    "Label",
    "MaskCoding",
    "PatchDataset",
    "PatchRecord",
    "SPLITS",
    "WeakPatches",
    "WeakSettings",
    "default_colors",
    "digestpath_slide",
    "draw_weak_patches",
    "image_size",
    "is_positive",
    "open_cohort",
    "open_masked_images",
    "open_patches",
    "parse_label",
    "parse_labels",
    "patient_code",
    "patient_codes",
    "read_cohort",
    "read_flags",
    "read_image",
    "read_mask",
    "refuse_shared_patients",
    "shared_patients",
    "split_by_patient",
    "split_patients",
    "tumour_class",
    "tumour_classes",
    "write_image",
    "write_mask",
]
