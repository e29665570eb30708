import pytest
import torch

from counterstain.errors import InputError
from counterstain.methods.dsnet import DSNet as Method
from counterstain.models.bags import PoolingNetwork, PoolingSettings
from counterstain.models.dsnet import DSNet, DSNetArchitecture
from counterstain.testing.slide_networks import random_slide

SMALL = DSNetArchitecture(levels=(1,), cell_heads=3, evidence_kind="cells")
LABEL_B = torch.tensor([1])


def network(architecture: DSNetArchitecture = SMALL) -> DSNet:
    torch.manual_seed(0)
    return DSNet(128, architecture).eval()


def test_cell_heads_add_the_mean_of_what_each_says_of_the_cell_that_it_finds_most_positive() -> None:
    one, batch = network(), random_slide(7, 9, 128)
    cells_N128 = batch.features_BCHW[0].movedim(0, -1)[batch.observed_B1HW[0, 0] > 0]
    with torch.no_grad():
        whole_12 = one(batch)
        logits_NE2 = one.cell_heads.head(cells_N128).reshape(-1, 3, 2)
        best_E = (logits_NE2[..., 1] - logits_NE2[..., 0]).argmax(0)
        expected_2 = torch.stack([logits_NE2[best_E[head], head] for head in range(3)]).mean(0)
        torch.nn.init.zeros_(one.cell_heads.head.weight)
        torch.nn.init.zeros_(one.cell_heads.head.bias)
        assert len(set(best_E.tolist())) > 1
        torch.testing.assert_close((whole_12 - one(batch))[0], expected_2, rtol=1e-5, atol=1e-5)


def test_each_cell_head_learns_from_its_own_answer_alone() -> None:
    one, batch = network(), random_slide(7, 9, 128)
    logits_12, added = one.learn(batch, LABEL_B)
    assert torch.allclose(logits_12, one(batch), atol=1e-6)
    answers_E2 = one.cell_heads.answers(batch)[0]
    alone = [torch.nn.functional.cross_entropy(answer_2[None], LABEL_B) for answer_2 in answers_E2]
    assert torch.allclose(added, torch.stack(alone).mean())
    logits_12[0, 1].backward()
    assert one.cell_heads.head.weight.grad is None
    assert one.head.logits.weight.grad.any()
    added.backward()
    assert one.cell_heads.head.weight.grad.any()


def test_its_evidence_is_each_cell_s_own_log_odds() -> None:
    one, batch = network(), random_slide(7, 9, 128)
    evidence_BHW = one.evidence(batch)
    row, column = batch.observed_B1HW[0, 0].nonzero()[0].tolist()
    logits_2 = one.cell_heads.head(batch.features_BCHW[0, :, row, column]).reshape(3, 2).mean(0)
    assert torch.allclose(evidence_BHW[0, row, column], (logits_2[1] - logits_2[0]).detach(), atol=1e-5)


def test_the_published_network_has_none() -> None:
    counts = [sum(p.numel() for p in DSNet(128, one).parameters()) for one in (DSNetArchitecture(), SMALL)]
    assert counts[0] == 1_071_335
    assert not Method.presets["paper"].cell_heads
    assert Method.presets["short"].cell_heads == 8


@pytest.mark.parametrize("given", [{"cell_heads": 0}, {"cell_heads": 1, "streams": "regional"}])
def test_evidence_of_cells_is_refused_where_nothing_judges_cells(given: dict[str, object]) -> None:
    with pytest.raises(InputError, match="without cell heads"):
        DSNetArchitecture(evidence_kind="cells", **given)  # type: ignore[arg-type]


def test_pooling_classifiers_of_several_heads_are_trained_apart() -> None:
    """The gradient of each is that of a network that has it alone."""
    torch.manual_seed(0)
    batch, several = random_slide(7, 9, 16), PoolingNetwork(16, PoolingSettings("max", heads=3))
    logits_12, added = several.learn(batch, LABEL_B)
    (torch.nn.functional.cross_entropy(logits_12, LABEL_B) + added).backward()
    for head in range(3):
        alone = PoolingNetwork(16, PoolingSettings("max"))
        alone.head.load_state_dict(
            {name: value[2 * head : 2 * head + 2] for name, value in several.head.state_dict().items()}
        )
        logits_12, nothing = alone.learn(batch, LABEL_B)
        (torch.nn.functional.cross_entropy(logits_12, LABEL_B) + nothing).backward()
        torch.testing.assert_close(several.head.weight.grad[2 * head : 2 * head + 2], alone.head.weight.grad / 3)


def test_numbers_of_heads_that_there_are_not_are_refused() -> None:
    with pytest.raises(InputError, match="0 or more"):
        DSNetArchitecture(cell_heads=-1)
    with pytest.raises(InputError, match="1 or more"):
        PoolingSettings("max", heads=0)
