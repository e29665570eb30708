"""Every published layout passes the contract; a new one is three lines here."""

from counterstain.layouts import LAYOUTS
from counterstain.testing.datasets import PatchLayoutContract


class TestLuadHistoSeg(PatchLayoutContract):
    layout = LAYOUTS["luad_histoseg"]
    train_stem, truth_stem = "{patient}-{number}-27920", "{patient}-{number}-46781"
    patients = ("1031280", "385277", "416392")


class TestBcssWsss(PatchLayoutContract):
    layout = LAYOUTS["bcss_wsss"]
    train_stem = "{patient}-DX1_xmin45749_ymin25055_MPP-0.2500+{number}"
    truth_stem = train_stem
    patients = ("TCGA-A1-A0SK", "TCGA-A2-A04Q", "TCGA-GM-A3XL")


class TestWsss4Luad(PatchLayoutContract):
    layout = LAYOUTS["wsss4luad"]
    train_stem, truth_stem = "{patient}-{number}-11698", "{number:02d}"
    patients = ("1003370", "unknown", "unknown")


def test_no_published_layout_is_left_out() -> None:
    examined = {TestLuadHistoSeg.layout.name, TestBcssWsss.layout.name, TestWsss4Luad.layout.name}
    assert examined == set(LAYOUTS)
