"""Synthetic histology: seeded tissue, patch sets, slides and cohorts with their truth; also from a bank of real patches.

A scene is a plane of tissue that is a pure function of its settings: `anatomy` says where tissues lie, `paint` turns that
into stain densities, `look` into RGB. `patches`, `slide` and `cohort` write what others read, in the formats and layouts of
real data. Nothing made here is evidence about real tissue.

Does not know: how slides and datasets are read.
"""

from counterstain.synth.anatomy import SCENE_CLASSES, Composition
from counterstain.synth.bank import Bank, BankPlane, BankSettings, open_bank
from counterstain.synth.cohort import CohortSettings, write_cohort
from counterstain.synth.look import Look
from counterstain.synth.metastases import MetastasesSettings, write_metastases
from counterstain.synth.patches import PatchSetSettings, write_patch_set
from counterstain.synth.scene import Plane, Scene, SceneSettings
from counterstain.synth.slide import SlideSettings, write_slide
from counterstain.synth.slide_bank import SlideBankSettings, write_slide_bank
from counterstain.synth.truth import LAYOUT_NAMES, SlideTruth
from counterstain.synth.tumour import TUMOUR_CLASSES, TumourSetSettings, metastasis_slide, write_tumour_set

__all__ = [
    "LAYOUT_NAMES",
    "SCENE_CLASSES",
    "TUMOUR_CLASSES",
    "Bank",
    "BankPlane",
    "BankSettings",
    "CohortSettings",
    "Composition",
    "Look",
    "MetastasesSettings",
    "PatchSetSettings",
    "Plane",
    "Scene",
    "SceneSettings",
    "SlideBankSettings",
    "SlideSettings",
    "SlideTruth",
    "TumourSetSettings",
    "metastasis_slide",
    "open_bank",
    "write_cohort",
    "write_metastases",
    "write_patch_set",
    "write_slide",
    "write_slide_bank",
    "write_tumour_set",
]
