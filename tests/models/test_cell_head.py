import pytest
import torch

from counterstain.errors import InputError
from counterstain.methods.dsnet import DSNet as Method
from counterstain.models.bags import PoolingNetwork, PoolingSettings
from counterstain.models.dsnet import DSNet, DSNetArchitecture
from counterstain.testing.slide_networks import random_slide

SMALL = DSNetArchitecture(levels=(1,), cell_head=True, evidence_kind="cells")


def network(architecture: DSNetArchitecture = SMALL) -> DSNet:
    torch.manual_seed(0)
    return DSNet(128, architecture).eval()


def test_the_cell_head_adds_what_it_says_of_the_most_positive_cell() -> None:
    one, batch = network(), random_slide(7, 9, 128)
    twin = PoolingNetwork(128, PoolingSettings("max"))
    twin.load_state_dict(one.cell_head.state_dict())
    with torch.no_grad():
        whole, cells = one(batch), twin(batch)
        torch.nn.init.zeros_(one.cell_head.head.weight)
        torch.nn.init.zeros_(one.cell_head.head.bias)
        assert torch.allclose(whole - one(batch), cells, atol=1e-6)
        assert torch.equal(torch.isnan(twin.evidence(batch)), torch.isnan(one.evidence(batch)))


def test_the_cell_head_is_trained_on_its_own_answer_alone() -> None:
    one, batch = network(), random_slide(7, 9, 128)
    labels_B = torch.tensor([1])
    logits_B2, added = one.learn(batch, labels_B)
    assert torch.allclose(logits_B2, one(batch), atol=1e-6)
    alone = torch.nn.functional.cross_entropy(one.cell_head(batch), labels_B)
    assert torch.allclose(added, alone)
    logits_B2[0, 1].backward()
    assert one.cell_head.head.weight.grad is None
    assert one.head.logits.weight.grad.any()
    added.backward()
    assert one.cell_head.head.weight.grad.any()


def test_its_evidence_is_each_cell_s_own_log_odds() -> None:
    one, batch = network(), random_slide(7, 9, 128)
    evidence_BHW = one.evidence(batch)
    row, column = batch.observed_B1HW[0, 0].nonzero()[0].tolist()
    logits_2 = one.cell_head.head(batch.features_BCHW[0, :, row, column])
    assert torch.allclose(evidence_BHW[0, row, column], (logits_2[1] - logits_2[0]).detach(), atol=1e-5)


def test_the_published_network_has_none() -> None:
    counts = [sum(p.numel() for p in DSNet(128, one).parameters()) for one in (DSNetArchitecture(), SMALL)]
    assert counts[0] == 1_071_335
    assert not Method.presets["paper"].cell_head
    assert Method.presets["short"].cell_head


@pytest.mark.parametrize("given", [{"cell_head": False}, {"cell_head": True, "streams": "regional"}])
def test_evidence_of_cells_is_refused_where_nothing_judges_cells(given: dict[str, object]) -> None:
    with pytest.raises(InputError, match="without a cell head"):
        DSNetArchitecture(evidence_kind="cells", **given)  # type: ignore[arg-type]
