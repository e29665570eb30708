"""The S-CAE against its published size, its mask and its gradients."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from counterstain.errors import InputError, UnknownNameError
from counterstain.models.count import count
from counterstain.models.scae import NUM_FEATURES, SCAE, SCAEEncoder, SCAESettings, percentile
from counterstain.models.weights import load_state

TINY = SCAESettings(decoder="tiny")


def size(module: nn.Module | None) -> int:
    assert module is not None
    return sum(parameter.numel() for parameter in module.parameters())


def pictures(num: int = 4, side: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(num, 3, side, side, generator=torch.Generator().manual_seed(seed))


def network(settings: SCAESettings = TINY, seed: int = 0) -> SCAE:
    torch.manual_seed(seed)
    return SCAE(settings)


def seen(settings: SCAESettings = TINY) -> SCAE:
    """A network whose threshold leaves a part of the pictures active in evaluation too."""
    whole = network(settings)
    whole(pictures())
    whole.eval()
    if whole.encoder.foreground is not None:
        whole.encoder.tau.copy_(percentile(whole.encoder.scores(pictures()).detach(), settings.rho))
    return whole


def test_it_has_the_published_number_of_parameters() -> None:
    whole = network(SCAESettings())
    assert size(whole) == 2_414_278
    assert size(whole.encoder) == 381_536


def test_each_part_has_its_number_of_parameters() -> None:
    whole = network(SCAESettings())
    encoder = whole.encoder
    assert size(encoder.stem) == 4_768
    assert size(encoder.layer1) == 6_208
    assert size(encoder.layer2) == 41_984
    assert size(encoder.foreground) == 29_024
    assert size(encoder.background) == 299_552
    assert size(whole.foreground_decoder) == 371_139
    assert size(whole.background_decoder) == 1_661_603


def test_a_tiny_decoder_changes_nothing_of_the_encoder_and_costs_little() -> None:
    paper, tiny = network(SCAESettings()), network()
    assert {name: value.shape for name, value in paper.encoder.state_dict().items()} == {
        name: value.shape for name, value in tiny.encoder.state_dict().items()
    }
    costs = {name: count(whole, 112, 112).macs / 1e6 for name, whole in (("paper", paper), ("tiny", tiny))}
    assert count(paper.encoder, 112, 112).macs / 1e6 == pytest.approx(111.5, rel=1e-3)
    assert costs["paper"] == pytest.approx(4681.5, rel=1e-3)
    assert costs["tiny"] < 150


def test_a_mixed_network_is_about_as_large_and_has_no_foreground() -> None:
    mixed = network(SCAESettings(encoding="mixed"))
    assert size(mixed) == pytest.approx(2_414_278, rel=0.03)
    assert mixed.encoder.foreground is None
    assert mixed.foreground_decoder is None
    with pytest.raises(InputError, match="no foreground"):
        mixed.encoder.mask(pictures())


def test_grids_are_a_quarter_and_a_sixteenth_of_a_picture() -> None:
    encoded = seen().encoder.encode(pictures(2, 112))
    assert encoded.foreground_BCHW is not None
    assert encoded.mask_B1HW is not None
    assert encoded.foreground_BCHW.shape == (2, 96, 28, 28)
    assert encoded.mask_B1HW.shape == (2, 1, 28, 28)
    assert encoded.background_BCHW.shape == (2, 32, 7, 7)


@pytest.mark.parametrize("decoder", ["paper", "tiny"])
@pytest.mark.parametrize("encoding", ["separated", "mixed"])
def test_reconstructions_are_as_large_as_pictures_and_sum_up(decoder: str, encoding: str) -> None:
    whole = seen(SCAESettings(encoding=encoding, decoder=decoder))  # type: ignore[arg-type]
    made = whole.reconstruct(pictures(side=48))
    assert whole(pictures(side=48)).shape == (4, 3, 48, 48)
    if made.foreground_BCHW is not None:
        assert torch.equal(made.summed, made.foreground_BCHW + made.background_BCHW)
        assert made.foreground_BCHW.shape == made.background_BCHW.shape


@pytest.mark.parametrize("side", [100, 40])
def test_pictures_of_another_multiple_are_refused(side: int) -> None:
    with pytest.raises(InputError, match="multiple of 16"):
        network()(pictures(side=side))


@pytest.mark.parametrize("rho", [80.0, 95.0, 99.5])
def test_the_active_fraction_of_a_batch_is_what_rho_leaves(rho: float) -> None:
    whole = network(replace(TINY, rho=rho, tau_momentum=0.0))
    encoded = whole.encoder.encode(pictures(8, 112))
    assert encoded.mask_B1HW is not None
    assert float(encoded.mask_B1HW.detach().mean()) == pytest.approx(1 - rho / 100, abs=2e-3)


def test_a_percentile_is_the_sorted_value_that_leaves_as_much_above() -> None:
    values = torch.randn(7, 11, generator=torch.Generator().manual_seed(2))
    ordered = sorted(values.flatten().tolist())
    for rho, place in ((1, 1), (50, 39), (90, 70), (99, 77)):
        assert float(percentile(values, rho)) == ordered[place - 1]


def test_the_first_batch_sets_the_threshold_and_others_move_it_by_a_tenth() -> None:
    encoder = network().encoder
    assert encoder.tau.isnan()
    encoder(pictures(seed=1))
    first = float(encoder.tau)
    found = float(percentile(encoder.train().scores(pictures(seed=2)).detach(), 95))
    encoder(pictures(seed=2))
    assert float(encoder.tau) == pytest.approx(0.9 * first + 0.1 * found, rel=1e-4)


def test_the_threshold_is_kept_with_the_weights_and_does_not_move_in_evaluation() -> None:
    whole = seen()
    before = float(whole.encoder.tau)
    whole(5 * pictures(seed=3))
    assert float(whole.encoder.tau) == before
    other = network(seed=1)
    load_state(other, whole.state_dict())
    assert float(other.encoder.tau) == before
    assert torch.equal(other.eval().encoder(pictures()), whole.encoder(pictures()))


def test_without_a_threshold_there_are_no_numbers_rather_than_an_empty_mask() -> None:
    encoder = network().encoder.eval()
    assert encoder(pictures())[:, :96].isnan().all()
    with pytest.raises(InputError, match="no threshold"):
        encoder.mask(pictures())


@torch.no_grad()
def test_masked_places_are_zero_after_the_gate_and_active_ones_are_not() -> None:
    whole = seen(replace(TINY, rho=60.0))
    encoded, active = whole.encoder.encode(pictures()), whole.encoder.mask(pictures())
    assert encoded.foreground_BCHW is not None
    by_place = encoded.foreground_BCHW.permute(0, 2, 3, 1)
    assert 0 < float(active.float().mean()) < 1
    assert (by_place[~active] == 0).all()
    assert (by_place[active] > 0).all()
    assert (by_place < 1).all()


@torch.no_grad()
def test_a_place_is_active_where_any_channel_exceeds_the_threshold() -> None:
    encoder = seen(replace(TINY, rho=60.0)).encoder
    assert encoder.foreground is not None
    logits = encoder.foreground(encoder.layer2(encoder.layer1(encoder.stem(pictures()))))
    expected = torch.zeros(logits.shape[0], *logits.shape[2:], dtype=torch.bool)
    for channel in range(96):
        expected |= logits[:, channel] > encoder.tau
    assert torch.equal(encoder.mask(pictures()), expected)


@torch.no_grad()
def test_an_embedding_is_the_mean_over_active_places_then_over_all() -> None:
    encoder = seen(replace(TINY, rho=60.0)).encoder
    encoded, embeddings = encoder.encode(pictures()), encoder(pictures())
    active = encoder.mask(pictures())
    assert encoded.foreground_BCHW is not None
    assert embeddings.shape == (4, 128)
    for number in range(4):
        by_place = encoded.foreground_BCHW[number].permute(1, 2, 0)[active[number]]
        torch.testing.assert_close(embeddings[number, :96], by_place.mean(0))
        torch.testing.assert_close(embeddings[number, 96:], encoded.background_BCHW[number].mean((1, 2)))


@torch.no_grad()
def test_a_cell_without_an_active_place_has_a_foreground_of_zeros_and_its_full_length() -> None:
    encoder = seen().encoder
    encoder.tau.fill_(1e6)
    embeddings = encoder(pictures())
    assert embeddings.shape == (4, 128)
    assert (embeddings[:, :96] == 0).all()
    assert (embeddings[:, 96:] > 0).all()


@torch.no_grad()
def test_encodings_of_one_network_are_parts_of_the_whole() -> None:
    whole = seen()
    parts = {}
    for encoding in ("fg", "bg"):
        parts[encoding] = SCAEEncoder(replace(TINY, encoding=encoding)).eval()  # type: ignore[arg-type]
        load_state(parts[encoding], whole.encoder.state_dict())
    together = torch.cat([parts["fg"](pictures()), parts["bg"](pictures())], 1)
    assert torch.equal(together, whole.encoder(pictures()))


@pytest.mark.parametrize("encoding", list(NUM_FEATURES))
def test_embeddings_are_as_long_as_their_encoding_says(encoding: str) -> None:
    encoder = seen(replace(TINY, encoding=encoding)).encoder  # type: ignore[arg-type]
    assert encoder(pictures()).shape == (4, encoder.num_features)


def gradient_of_mask(mode: str) -> Tensor | None:
    """Of what the scores get through the mask alone."""
    encoder = network(replace(TINY, mask=mode)).encoder  # type: ignore[arg-type]
    scores = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8).requires_grad_()
    encoder.tau.fill_(0.5)
    mask = encoder._mask(scores)
    if not mask.requires_grad:
        return None
    mask.sum().backward()  # type: ignore[no-untyped-call]
    return scores.grad


def test_a_straight_through_mask_is_hard_and_has_the_gradient_of_a_soft_one() -> None:
    encoder = network().encoder
    encoder.tau.fill_(0.5)
    scores = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    torch.testing.assert_close(encoder._mask(scores), (scores > 0.5).float())
    soft = torch.sigmoid(20 * (scores - 0.5))
    gradient = gradient_of_mask("straight_through")
    assert gradient is not None
    torch.testing.assert_close(gradient, 20 * soft * (1 - soft))


def test_a_hard_mask_has_no_gradient() -> None:
    assert gradient_of_mask("hard") is None
    whole = network(replace(TINY, mask="hard"))
    whole(pictures()).mean().backward()
    foreground = whole.encoder.foreground
    assert foreground is not None
    gradient = foreground.get_submodule("1").weight.grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 0, "what is active still learns"


@torch.no_grad()
def test_a_detection_head_has_a_soft_mask_of_its_own() -> None:
    whole = seen(replace(TINY, mask="head"))
    assert size(whole.encoder) == 381_536 + 129
    encoded = whole.encoder.encode(pictures())
    assert encoded.mask_B1HW is not None
    assert torch.equal(encoded.mask_B1HW[:, 0] > 0.5, whole.encoder.mask(pictures()))
    assert 0 < float(encoded.mask_B1HW.min()) < float(encoded.mask_B1HW.max()) < 1


@pytest.mark.parametrize("changes", [{"rho": 0.0}, {"rho": 100.0}, {"tau_momentum": 1.0}])
def test_settings_out_of_range_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(changes))):
        SCAESettings(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["encoding", "decoder", "mask"])
def test_unknown_names_are_refused(field: str) -> None:
    with pytest.raises(UnknownNameError, match=f"Unknown {field} 'hrad'"):
        SCAESettings(**{field: "hrad"})  # type: ignore[arg-type]
