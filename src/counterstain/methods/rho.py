"""How sparse an S-CAE's foreground is to be: as sparse as it can be while it still finds the nuclei.

Nuclei are told by their stain alone: places where there is much haematoxylin. The share of these places whose detection
score stays above a percentile falls as the percentile rises, so bisection finds the one at which it is what was wanted.

Shapes: B cells, H W rows and columns of pixels, h w of places.
Does not know: networks, training, slides.

Source: DSNet (arXiv 2109.05788), section III-B, finds rho by "binary search on each dataset" and does not say what for;
what is sought here is ours.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from counterstain.errors import InputError
from counterstain.models.scae import percentile
from counterstain.stain import separate

LOW, HIGH = 80.0, 99.5
"""Per cent between which rho is sought."""

PLACE_PX = 4
"""Pixels to a place of the foreground's grid."""

_TOLERANCE = 0.05


def haematoxylin(images_BCHW: Tensor) -> Tensor:
    """The mean amount of haematoxylin at each place of pictures.

    Args:
        images_BCHW: float RGB in [0, 1]; H and W multiples of 4.

    Returns:
        (B, H / 4, W / 4) float.
    """
    return F.avg_pool2d(separate(images_BCHW)[:, :1], PLACE_PX)[:, 0]


def is_nuclear(amounts_Bhw: Tensor) -> Tensor:
    """The places with much haematoxylin, by Otsu's threshold over all of them; bool of the same shape.

    Args:
        amounts_Bhw: As `haematoxylin` gives them, of all pictures together.
    """
    from counterstain.tissue.glass import otsu

    return amounts_Bhw > otsu(amounts_Bhw.double().cpu().numpy())


def recall(scores_Bhw: Tensor, wanted_Bhw: Tensor, rho: float) -> float:
    """The share of wanted places whose score lies above a percentile of all scores.

    Args:
        scores_Bhw: Detection scores.
        wanted_Bhw: bool of the same shape.
        rho: The percentile.

    Raises:
        InputError: When no place is wanted.
    """
    if not bool(wanted_Bhw.any()):
        raise InputError(
            "Not one place of the cells holds haematoxylin. Give cells of stained tissue, or rho as a number."
        )
    is_active = scores_Bhw > percentile(scores_Bhw, rho)
    return float(is_active[wanted_Bhw].double().mean())


def search_rho(recall_at: Callable[[float], float], wanted: float) -> float:
    """The largest rho at which the recall is still what is wanted, within a twentieth of a per cent.

    Args:
        recall_at: Recall at a rho; it never rises with rho.
        wanted: A recall.

    Returns:
        A number in [80, 99.5]; 80 where even that recalls less.
    """
    low, high = LOW, HIGH
    if recall_at(low) < wanted:
        return low
    if recall_at(high) >= wanted:
        return high
    while high - low > _TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if recall_at(middle) >= wanted else (low, middle)
    return low


@torch.no_grad()
def rho_for(scores_Bhw: Tensor, amounts_Bhw: Tensor, wanted: float) -> tuple[float, float]:
    """The rho at which detection scores recall nuclei as wanted, and the recall there.

    Args:
        scores_Bhw: Detection scores of pictures.
        amounts_Bhw: Haematoxylin at the same places.
        wanted: A recall.

    Raises:
        InputError: When no place holds haematoxylin.
    """
    nuclear_Bhw = is_nuclear(amounts_Bhw)
    rho = search_rho(lambda rho: recall(scores_Bhw, nuclear_Bhw, rho), wanted)
    return rho, recall(scores_Bhw, nuclear_Bhw, rho)
