"""Every slide network takes the same exam."""

from counterstain.models.bags import ABMIL, CLAM, ABMILSettings, CLAMSettings, PoolingNetwork, PoolingSettings
from counterstain.models.dsnet import DSNet, DSNetArchitecture
from counterstain.models.slide_network import SlideNetwork
from counterstain.models.slide_resnet import (
    CompressedResNet,
    CompressedResNetSettings,
    ThumbnailResNet,
    ThumbnailResNetSettings,
)
from counterstain.models.transmil import TransMIL, TransMILSettings
from counterstain.testing.slide_networks import SlideNetworkContract


class TestDSNet(SlideNetworkContract):
    learning_steps = 15

    def build(self) -> SlideNetwork:
        return DSNet(self.num_features)


class TestDSNetAsPublished(TestDSNet):
    def build(self) -> SlideNetwork:
        return DSNet(self.num_features, DSNetArchitecture(propagation="uhrig"))


class TestMeanPooling(SlideNetworkContract):
    learning_rate = 0.1

    def build(self) -> SlideNetwork:
        return PoolingNetwork(self.num_features, PoolingSettings("mean"))


class TestMaxPooling(SlideNetworkContract):
    learning_rate, learning_steps = 0.1, 150  # one cell a slide learns at a time

    def build(self) -> SlideNetwork:
        return PoolingNetwork(self.num_features, PoolingSettings("max"))


class TestABMIL(SlideNetworkContract):
    def build(self) -> SlideNetwork:
        return ABMIL(self.num_features, ABMILSettings(width=16, hidden=8, dropout=0.1))


class TestBareAttention(SlideNetworkContract):
    def build(self) -> SlideNetwork:
        return ABMIL(self.num_features, ABMILSettings(width=16, hidden=8, evidence="attention"))


class TestSingleBranchCLAM(SlideNetworkContract):
    def build(self) -> SlideNetwork:
        return CLAM(self.num_features, CLAMSettings(width=16, hidden=8, num_picked=3))


class TestMultiBranchCLAM(SlideNetworkContract):
    def build(self) -> SlideNetwork:
        return CLAM(self.num_features, CLAMSettings(True, width=16, hidden=8, num_picked=3, exclusive=True))


class TestTransMIL(SlideNetworkContract):
    learning_steps = 20

    def build(self) -> SlideNetwork:
        return TransMIL(self.num_features, TransMILSettings(width=16, heads=2, landmarks=8))


class TestPartsOfTransMIL(SlideNetworkContract):
    learning_steps = 20

    def build(self) -> SlideNetwork:
        return TransMIL(self.num_features, TransMILSettings(width=16, heads=2, landmarks=8, evidence="parts"))


class TestTransMILOnTheGrid(SlideNetworkContract):
    learning_steps = 20

    def build(self) -> SlideNetwork:
        return TransMIL(self.num_features, TransMILSettings(width=16, heads=2, landmarks=8, positions="grid"))


class TestThumbnailResNet(SlideNetworkContract):
    learning_steps = 8

    def build(self) -> SlideNetwork:
        return ThumbnailResNet(ThumbnailResNetSettings("resnet18", thumbnail_px=70))


class TestCompressedResNet(SlideNetworkContract):
    learning_steps = 8

    def build(self) -> SlideNetwork:
        return CompressedResNet(self.num_features, CompressedResNetSettings("resnet18", grid_cells=70))
