"""Training of the S-CAE, its run folder, the encoder made of it, and the search for rho."""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from counterstain.data.encoder_patches import DrawnCells, DrawSettings
from counterstain.errors import InputError, MissingFileError, StaleResultError, UnknownNameError
from counterstain.files import read_json
from counterstain.methods import model_digest
from counterstain.methods.rho import HIGH, LOW, haematoxylin, is_nuclear, recall, rho_for, search_rho
from counterstain.methods.scae import (
    PRESETS,
    TRAINING,
    SCAEConfig,
    active_share,
    images_of,
    is_far_from_rho,
    little_learned,
    load_scae,
    scae_encoder,
    train_scae,
)
from counterstain.models.encoders import PatchEncoder
from counterstain.testing.processes import exit_code
from counterstain.training import TrainSettings
from counterstain.training.fit import read_losses

SIDE = 32
CONFIG = SCAEConfig(decoder="tiny", rho=90.0)
SETTINGS = TrainSettings(epochs=2, batch_size=8, seed=3)
PINK, VIOLET = (225, 150, 190), (85, 60, 140)


def nuclei(num: int, seed: int = 0) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Pink cells with violet discs, and where these are."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    is_disc = np.zeros((num, SIDE, SIDE), bool)
    for cell in is_disc:
        for y, x in random.integers(4, SIDE - 4, (3, 2)):
            cell |= (rows - y) ** 2 + (columns - x) ** 2 < 12
    pixels = np.where(is_disc[..., None], VIOLET, PINK) + random.integers(-12, 13, (num, SIDE, SIDE, 3))
    return pixels.clip(0, 255).astype(np.uint8), is_disc


def drawn(num: int = 48, seed: int = 0) -> DrawnCells:
    pixels, _ = nuclei(num, seed)
    corners = np.zeros((num, 2), np.int64)
    return DrawnCells(pixels, np.zeros(num, np.int32), corners, ("s.svs",), (f"{seed}",), DrawSettings(input_px=SIDE))


@pytest.fixture(scope="module")
def cells() -> DrawnCells:
    return drawn()


@pytest.fixture(scope="module")
def run(cells: DrawnCells, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that nobody killed."""
    folder = tmp_path_factory.mktemp("scae") / "run"
    train_scae(cells, folder, CONFIG, SETTINGS)
    return folder


def pictures(num: int = 4, seed: int = 9) -> Tensor:
    return images_of(torch.from_numpy(nuclei(num, seed)[0]))


def test_presets_learn_as_published_but_for_what_a_cpu_cannot() -> None:
    paper = PRESETS["paper"]
    assert next(iter(PRESETS)) == "paper"
    assert (paper.learning_rate, paper.momentum, paper.weight_decay) == (0.03, 0.8, 1e-5)
    assert (paper.optimizer, paper.optimiser.nesterov, paper.decoder) == ("sgd", True, "paper")
    assert (TRAINING["paper"].epochs, TRAINING["paper"].batch_size) == (6, 8)
    assert PRESETS["small"].decoder == "tiny"
    assert set(TRAINING) == set(PRESETS)


def test_a_run_folder_holds_what_repeats_and_shows_it(run: Path, cells: DrawnCells) -> None:
    names = ["config.toml", "run.json", "model.safetensors", "model.json", "losses.csv", "training.json"]
    assert all((run / name).exists() for name in names)
    description = read_json(run / "model.json")
    assert description["method"] == "scae"
    assert description["input_px"] == SIDE
    assert description["provenance"]["data"]["cells"] == len(cells)
    assert description["provenance"]["data"]["names"] == ["s.svs"]
    assert len(read_losses(run / "losses.csv")) == 2 * 6
    with Image.open(run / "figures" / "reconstruction.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_an_encoder_that_learned_too_little_to_keep_to_rho_is_told_of(
    cells: DrawnCells, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = train_scae(cells, tmp_path, CONFIG, SETTINGS)  # twelve steps
    said = capsys.readouterr().err
    share = active_share(network, cells.pixels_NPP3)
    assert share is not None
    assert is_far_from_rho(share, 90.0)
    assert f"may have learned too little: {little_learned(share, 90.0)}. Look at" in said
    assert "reconstruction.png" in said


def test_the_active_share_is_that_of_the_middling_cell(run: Path, cells: DrawnCells) -> None:
    network = load_scae(run)
    with torch.inference_mode():
        scores = network.encoder.scores(images_of(torch.from_numpy(cells.pixels_NPP3))).flatten(1)
    tau = float(torch.quantile(scores, 0.9))
    network.encoder.tau.fill_(tau)
    by_cell = sorted(float((of_cell > tau).float().mean()) for of_cell in scores)
    share = active_share(network, cells.pixels_NPP3)
    assert share is not None
    assert share == pytest.approx(by_cell[23])  # torch's median of an even number is the lower one
    assert not is_far_from_rho(share, 90.0)


def test_an_encoder_that_keeps_to_rho_is_not_told_of() -> None:
    assert little_learned(0.1, 90.0) is None
    assert little_learned(None, 90.0) is None
    assert little_learned(0.0, 90.0) == "0.0 % of an ordinary cell's places are active, rho 90 asks for 10 %"


@pytest.mark.parametrize(("share", "is_far"), [(0.03, True), (0.04, False), (0.1, False), (0.29, False), (0.31, True)])
def test_far_from_rho_is_a_factor_of_three(share: float, is_far: bool) -> None:
    assert is_far_from_rho(share, 90.0) == is_far


def test_training_lowers_the_reconstruction_loss(run: Path) -> None:
    losses = [loss for _, loss in read_losses(run / "losses.csv")]
    assert np.mean(losses[-3:]) < 0.5 * losses[0]


@torch.no_grad()
def test_an_encoder_keeps_the_contract_and_gives_what_the_network_gives(run: Path) -> None:
    encoder = scae_encoder(run)
    assert isinstance(encoder, PatchEncoder)
    assert (encoder.spec.name, encoder.spec.num_features, encoder.spec.input_px) == ("scae", 128, SIDE)
    assert encoder.spec.licence == "yours: trained here"
    embeddings = encoder(pictures())
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, load_scae(run).encoder(pictures()))
    tau = float(encoder.encoder.tau)
    assert torch.equal(encoder.train()(pictures()), embeddings)
    assert float(encoder.encoder.tau) == tau


@torch.no_grad()
def test_encodings_of_one_run_are_other_encoders(run: Path) -> None:
    whole, foreground, background = scae_encoder(run), scae_encoder(run, "fg"), scae_encoder(run, "bg")
    together = torch.cat([foreground(pictures()), background(pictures())], 1)
    torch.testing.assert_close(together, whole(pictures()))
    assert [one.spec.name for one in (whole, foreground, background)] == ["scae", "scae_fg", "scae_bg"]
    assert len({one.spec.digest for one in (whole, foreground, background)}) == 3
    assert scae_encoder(run).spec == whole.spec
    with pytest.raises(InputError, match="no 'mixed'"):
        scae_encoder(run, "mixed")


def test_a_mixed_encoding_is_trained_like_the_others(cells: DrawnCells, tmp_path: Path) -> None:
    train_scae(cells, tmp_path, replace(CONFIG, encoding="mixed"), replace(SETTINGS, epochs=1))
    encoder = scae_encoder(tmp_path)
    assert (encoder.spec.name, encoder.spec.num_features) == ("scae_mixed", 128)
    with pytest.raises(InputError, match="no 'fg'"):
        scae_encoder(tmp_path, "fg")
    with pytest.raises(InputError, match="no mask"):
        train_scae(cells, tmp_path / "searched", replace(CONFIG, encoding="mixed", rho="search"), SETTINGS)


def test_a_finished_run_is_loaded_and_one_of_other_cells_or_settings_refused(run: Path, cells: DrawnCells) -> None:
    before = model_digest(run)
    again = train_scae(cells, run, CONFIG, replace(SETTINGS, num_workers=1))
    assert not again.training
    assert model_digest(run) == before
    with pytest.raises(StaleResultError, match="other settings or data"):
        train_scae(drawn(seed=1), run, CONFIG, SETTINGS)
    with pytest.raises(StaleResultError, match="other settings or data"):
        train_scae(cells, run, replace(CONFIG, rho=95.0), SETTINGS)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL to send")
def test_a_killed_training_ends_like_an_uninterrupted_one(cells: DrawnCells, tmp_path: Path) -> None:
    settings, killed = replace(SETTINGS, epochs=3), tmp_path / "killed"
    script = tmp_path / "train.py"
    script.write_text(
        "import importlib, os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from test_scae import CONFIG, drawn\n"
        "from counterstain.methods.scae import train_scae\n"
        "from counterstain.training import TrainSettings\n"
        "fitting = importlib.import_module('counterstain.training.fit')\n"
        "save = fitting._save_checkpoint\n"
        "def die(*given):\n"
        "    save(*given)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "fitting._save_checkpoint = die\n"
        f"train_scae(drawn(), Path({str(killed)!r}), CONFIG, {settings!r})\n"
    )
    assert exit_code(script) == -signal.SIGKILL, "it was not killed"
    assert not (killed / "model.json").exists()
    train_scae(cells, killed, CONFIG, settings)
    train_scae(cells, tmp_path / "whole", CONFIG, settings)
    assert model_digest(killed) == model_digest(tmp_path / "whole")
    assert read_losses(killed / "losses.csv") == read_losses(tmp_path / "whole" / "losses.csv")


def test_what_is_no_run_of_an_s_cae_is_refused(tmp_path: Path, cells: DrawnCells) -> None:
    with pytest.raises(MissingFileError, match="comes before them"):
        load_scae(tmp_path)
    small = replace(cells, pixels_NPP3=cells.pixels_NPP3[:, :30, :30])
    with pytest.raises(InputError, match="multiple of 16"):
        train_scae(small, tmp_path, CONFIG, SETTINGS)
    with pytest.raises(InputError, match="Lower --batch-size"):
        train_scae(drawn(4), tmp_path / "few", CONFIG, SETTINGS)


@pytest.mark.parametrize(
    "changes",
    [
        {"rho": 0.0},
        {"learning_rate": 0.0},
        {"recall": 1.0},
        {"pilot_epochs": 0},
        {"tau_momentum": -0.1},
        {"momentum": 0.0},
        {"weight_decay": -1e-5},
        {"poly_power": -0.9},
        {"warmup_steps": -1},
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(changes))):
        SCAEConfig(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["encoding", "decoder", "mask", "optimizer"])
def test_unknown_names_are_refused(field: str) -> None:
    with pytest.raises(UnknownNameError, match=f"Unknown {field} 'papr'"):
        SCAEConfig(**{field: "papr"})  # type: ignore[arg-type]


def test_the_other_optimiser_has_no_momentum_to_look_ahead_along() -> None:
    assert SCAEConfig().optimiser.nesterov
    assert not SCAEConfig(optimizer="adamw", momentum=0.0).optimiser.nesterov


def test_places_with_haematoxylin_are_where_nuclei_were_drawn() -> None:
    pixels, is_disc = nuclei(6)
    found = is_nuclear(haematoxylin(images_of(torch.from_numpy(pixels)))).numpy()
    covered = is_disc.reshape(6, 8, 4, 8, 4).mean((2, 4))
    assert found[covered > 0.75].all()
    assert not found[covered == 0].any()


def test_bisection_finds_the_last_rho_that_recalls_enough() -> None:
    assert search_rho(lambda rho: float(rho <= 91.3), 0.8) == pytest.approx(91.3, abs=0.05)
    assert search_rho(lambda rho: float(rho <= 91.3), 0.8) <= 91.3
    assert search_rho(lambda _: 0.0, 0.8) == LOW
    assert search_rho(lambda _: 1.0, 0.8) == HIGH


def test_the_rho_of_perfect_scores_leaves_four_fifths_of_the_nuclei() -> None:
    amounts = torch.zeros(10, 10, 10)
    amounts.view(-1)[:100] = torch.linspace(1.0, 2.0, 100)
    rho, recalled = rho_for(amounts + 0.0, amounts, 0.8)
    assert rho == pytest.approx(92.0, abs=0.06)
    assert recalled == pytest.approx(0.8, abs=0.01)
    assert recall(amounts, amounts > 0.5, 95.0) == pytest.approx(0.5)
    with pytest.raises(InputError, match="haematoxylin"):
        rho_for(amounts, torch.zeros_like(amounts), 0.8)


def test_a_search_trains_a_pilot_once_and_the_run_at_what_it_found(cells: DrawnCells, tmp_path: Path) -> None:
    network = train_scae(cells, tmp_path, replace(CONFIG, rho="search", recall=0.3), SETTINGS)
    found = read_json(tmp_path / "rho.json")
    assert LOW <= found["rho"] <= HIGH
    assert read_json(tmp_path / "model.json")["rho"] == found["rho"] == network.settings.rho
    assert load_scae(tmp_path).settings.rho == found["rho"]
    assert not (tmp_path / "pilot").exists()
    assert len(read_losses(tmp_path / "losses.csv")) == 2 * 6


@pytest.mark.slow
def test_the_mask_of_the_small_preset_finds_drawn_nuclei(tmp_path: Path) -> None:
    """Of active places, most hold a nucleus; by chance it would be a fifth of them."""
    network = train_scae(drawn(400), tmp_path, PRESETS["small"], replace(TRAINING["small"], epochs=6))
    pixels, is_disc = nuclei(64, seed=5)
    active = network.encoder.mask(images_of(torch.from_numpy(pixels))).numpy()
    covered = is_disc.reshape(64, 8, 4, 8, 4).any((2, 4))
    assert covered.mean() < 0.4
    assert covered[active].mean() > 0.8
