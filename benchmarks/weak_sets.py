"""The two sets that comparisons are run on, written from EBHI-Seg and from nothing.

    python benchmarks/weak_sets.py EBHI_SEG OUT

OUT/ebhi: patients split 60/20/20 (seed 0); 64 px training patches of training patients' images, each labelled [gland
or lesion present, other present] where it covers at least a tenth, 900 of each of the three label pairs; whole images with
masks to score on. OUT/luad: synthetic patches of 224 px in the layout of LUAD-HistoSeg, four classes, planted outliers
(stain, blur, folds; difficulty 0.7), 960 training patches and 240 each to validate and test on, of 60 patients and three
scanners.
"""

import argparse
from pathlib import Path

from counterstain.data import CropSettings, draw_weak_patches, open_masked_images
from counterstain.layouts import LAYOUTS
from counterstain.results import Classes
from counterstain.synth import PatchSetSettings, write_patch_set

CLASSES = Classes(("gland or lesion", "other"), ((205, 51, 51), (255, 165, 0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ebhi_seg", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    records = open_masked_images(options.ebhi_seg / "labels_dev.csv", root=options.ebhi_seg / "dev")
    crops = CropSettings(
        patch_px=64, min_cover=0.1, draws_per_image=128, patches_per_label=900, seed=0, mask_values=(1, 0)
    )
    draw_weak_patches(records, CLASSES, options.out / "ebhi", crops)
    synthetic = PatchSetSettings(num_train=960, num_val=240, num_test=240, num_patients=60, difficulty=0.7, seed=3)
    write_patch_set(options.out / "luad", LAYOUTS["luad_histoseg"], synthetic)


if __name__ == "__main__":
    main()
