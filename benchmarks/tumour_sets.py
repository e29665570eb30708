"""The two tumour sets that comparisons are run on, written from EBHI-Seg and from nothing.

python benchmarks/tumour_sets.py EBHI_SEG OUT
"""

import argparse
from pathlib import Path

from counterstain.data import open_masked_images
from counterstain.data.tumour_windows import WindowSettings, cut_tumour_windows
from counterstain.results import Classes
from counterstain.synth import TumourSetSettings, write_tumour_set

CLASSES = Classes(("other", "gland or lesion"), ((255, 165, 0), (205, 51, 51)), background="other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ebhi_seg", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    records = open_masked_images(options.ebhi_seg / "labels_dev.csv", root=options.ebhi_seg / "dev")
    cut_tumour_windows(records, CLASSES, options.out / "ebhi", WindowSettings(window_px=48, enlarged=2, seed=0))
    write_tumour_set(options.out / "synthetic", TumourSetSettings(seed=3))


if __name__ == "__main__":
    main()
