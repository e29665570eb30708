"""Networks: images in, feature maps, class activation maps or scores out.

Backbones by name, what methods put on top of them, weights loaded with an audit, and counting. Importing this room takes
torch alone.

Does not know: data, losses, training, methods.
"""

from counterstain.models.backbones import BACKBONES, Backbone, build_backbone, load_backbone_weights
from counterstain.models.classifier import CamClassifier
from counterstain.models.count import Count, count
from counterstain.models.deeplab import DeepLabSettings, DeepLabV3Plus
from counterstain.models.groups import ParameterGroups
from counterstain.models.hfrm import HFRM
from counterstain.models.sshr import SSHRNetwork, SSHRNetworkSettings
from counterstain.models.weights import Audit, digest, load_state, read_state, write_state

__all__ = [
    "BACKBONES",
    "Backbone",
    "build_backbone",
    "load_backbone_weights",
    "Audit",
    "load_state",
    "read_state",
    "write_state",
    "digest",
    "HFRM",
    "SSHRNetwork",
    "SSHRNetworkSettings",
    "ParameterGroups",
    "CamClassifier",
    "DeepLabV3Plus",
    "DeepLabSettings",
    "Count",
    "count",
]
