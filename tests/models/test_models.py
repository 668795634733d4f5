"""Backbones, the adapter, entries and their weights."""

import csv
import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from robusteval.data.datasets import Dataset, load_dataset
from robusteval.errors import (
    AttackError,
    CodeNotAllowedError,
    EntryError,
    RobustevalError,
    UnknownNameError,
    WeightsError,
)
from robusteval.models.adapter import Adapter, wrap_module
from robusteval.models.backbones import BACKBONES, CNN6, resnet110, resnet_small
from robusteval.models.entry import Entry, read_entry
from robusteval.models.loading import build_network, load_model
from robusteval.models.registry import all_entries, entry_paths, find_entry
from robusteval.types import parse_eps
from tests.helpers.entries import FACTORY, with_weights, write_entry
from tests.helpers.models import file_of
from tests.helpers.reproductions import reproduced


def test_resnet110_is_the_papers() -> None:
    network = resnet110(3)
    convolutions = [
        m for m in network.modules() if isinstance(m, nn.Conv2d) and "shortcut" not in str(m)
    ]
    shortcuts = sum(
        isinstance(m, nn.Conv2d) for n, m in network.named_modules() if ".shortcut." in n
    )
    # 1 stem + 3 stages × 12 blocks × 3 convolutions, and the classifier: 110 layers
    assert len(convolutions) - shortcuts == 109
    parameters = sum(p.numel() for p in network.parameters())
    assert 1.3e6 < parameters < 1.5e6
    layers = network.eval()(torch.rand(2, 3, 32, 32))
    assert layers["stage2"].shape == (2, 128, 16, 16)
    assert layers["pool"].shape == (2, 256)
    assert layers["fc"].shape == (2, 1024)


def test_cnn6_is_the_papers() -> None:
    network = CNN6(1)
    assert sum(isinstance(m, nn.Conv2d) for m in network.modules()) == 6
    layers = network(torch.rand(2, 1, 28, 28))
    assert {k: tuple(v.shape[1:]) for k, v in layers.items()} == {
        "conv3": (128, 3, 3),
        "fc1": (512,),
        "fc2": (64,),
    }


@pytest.mark.parametrize("name", list(BACKBONES))
def test_backbones_tell_their_channels(name: str) -> None:
    backbone = BACKBONES.get(name)(3)
    layers = backbone.eval()(torch.rand(2, 3, 32, 32))
    assert {k: v.shape[1] for k, v in layers.items()} == backbone.channels


def test_small_resnet_has_the_stated_size() -> None:
    network = resnet_small(3)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(0.34e6, rel=0.05)


def test_adapter_stays_in_eval_mode_and_frozen(pcl_digits: Adapter) -> None:
    pcl_digits.train()
    assert not any(m.training for m in pcl_digits.modules())
    assert not any(p.requires_grad for p in pcl_digits.parameters())


def test_adapters_logits_do_not_depend_on_the_batch(pcl_digits: Adapter) -> None:
    images = torch.rand(12, 1, 8, 8)
    whole = pcl_digits(images)
    single = torch.cat([pcl_digits(image[None]) for image in images])
    torch.testing.assert_close(whole, single, atol=1e-4, rtol=1e-4)


def test_adapters_gradient_against_finite_differences() -> None:
    torch.manual_seed(0)
    entry = find_entry("pcl_digits")
    model = load_model(entry).double()
    image = torch.rand(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(image).sum(), image)
    step = 1e-6
    for pixel in (0, 27, 63):
        shift = torch.zeros(64, dtype=torch.float64)
        shift[pixel] = step
        moved = [(image + s * shift.view(1, 1, 8, 8)).detach() for s in (1, -1)]
        values = [model(x).sum() for x in moved]
        difference = float(values[0] - values[1]) / (2 * step)
        assert float(gradient.flatten()[pixel]) == pytest.approx(difference, rel=1e-4, abs=1e-6)


def test_normalisation_is_inside() -> None:
    model = wrap_module(nn.Flatten(), 4, mean=[0.5], std=[0.25])
    images = torch.tensor([0.5, 0.75, 0.25, 1.0]).view(1, 1, 2, 2)
    assert model(images).tolist() == [[0.0, 1.0, -1.0, 2.0]]


def test_models_without_prototypes_say_so(ce_digits: Adapter) -> None:
    assert ce_digits.layers == ()
    with pytest.raises(AttackError, match="no prototypes"):
        ce_digits.distances(torch.rand(2, 1, 8, 8))
    assert ce_digits.embed(torch.rand(2, 1, 8, 8)).shape == (2, 32)


def test_pcl_reads_its_softmax_and_keeps_prototypes_at_three_depths(pcl_digits: Adapter) -> None:
    assert pcl_digits.layers == ("conv3", "fc1", "fc2")
    images = torch.rand(5, 1, 8, 8)
    logits, squared = pcl_digits.logits_and_distances(images)
    torch.testing.assert_close(logits, pcl_digits(images))
    assert {k: tuple(v.shape) for k, v in squared.items()} == dict.fromkeys(
        pcl_digits.layers, (5, 10, 1)
    )
    torch.testing.assert_close(squared["fc2"], pcl_digits.distances(images))
    features = pcl_digits.embed(images)
    prototypes = pcl_digits.module.prototypes["fc2"][:, 0]
    by_hand = (features[:, None] - prototypes[None]).square().sum(2)
    torch.testing.assert_close(squared["fc2"][:, :, 0], by_hand, rtol=1e-4, atol=1e-4)


def test_every_entry_is_sound(digits) -> None:  # type: ignore[no-untyped-def]
    """Weights that are not kept, for there would be too many, stand in a paper's table."""
    entries = list(all_entries())
    sizes = [e.weights_path.stat().st_size for e in entries if isinstance(e, Entry) and e.weights]
    assert sum(sizes) < 30e6
    for entry in entries:
        assert isinstance(entry, Entry), entry
        if entry.weights is None:
            assert entry.trained is None or entry.name in reproduced()
            build_network(entry)
            continue
        model = load_model(entry)
        assert entry.trained is not None
        assert entry.weights_path.stat().st_size < 6e6
        assert not any(p.requires_grad for p in model.parameters())
        if entry.dataset == "digits":
            assert correct_of(model, digits) == entry.trained.clean_correct, entry.name
            assert entry.trained.clean_total == len(digits)
            assert entry.trained.clean_accuracy > 0.97
            assert entry.trained.seconds < 60


def test_a_file_cannot_take_another_models_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is its file's, wherever entries are looked up."""
    (tmp_path / "best.toml").write_text(file_of("ce_digits.toml").read_text())
    monkeypatch.setenv("ROBUSTEVAL_MODELS", str(tmp_path))
    errors = [found for found in all_entries() if not isinstance(found, Entry)]
    assert [str(error) for error in errors] == [
        f"{tmp_path / 'best.toml'}: name is 'ce_digits', but the file is best.toml"
    ]
    with pytest.raises(EntryError, match=r"the file is best\.toml"):
        find_entry("best")


# The zoo that the papers' methods and what they compare themselves with make.
_METHODS = [
    *("ce", "pcl", "scpl", "drp", "mpat", "gcpl", "dce", "atl", "anl"),
    *("centre", "centre_deep", "contrastive", "contrastive_deep", "triplet", "triplet_deep"),
    *("proxy_nca", "proxy_anchor"),
]
ZOO = {
    *(f"{method}{training}_digits" for method in _METHODS for training in ("", "_at")),
    "tla_at_digits",
    *(f"{method}_mnist" for method in ("ce", "pcl", "scpl", "drp", "mpat", "gcpl")),
    *(f"{method}_at_mnist" for method in ("ce", "pcl", "mpat")),
    *(f"{method}_cifar10" for method in ("ce", "pcl", "scpl", "drp", "gcpl")),
    *(f"{method}_cifar10" for method in ("ce_at", "pcl_at", "mpat_at", "mpat_fast", "mpat_free")),
    *(f"{method}_cifar10_2" for method in ("ce_at", "mpat_at")),
}


def test_the_zoo_is_whole_and_trained() -> None:
    trained = {e.name: e for e in all_entries() if isinstance(e, Entry) and e.trained is not None}
    assert set(trained) >= ZOO
    for name in ("ce_at", "pcl_at", "mpat_at", "mpat_fast", "mpat_free"):
        assert trained[f"{name}_cifar10"].trained.clean_accuracy >= 0.65  # type: ignore[union-attr]


def correct_of(model: Adapter, data: Dataset) -> int:
    with torch.no_grad():
        return int((model(data.images()).argmax(1) == data.labels).sum())


@pytest.mark.parametrize("name", ["gcpl_mnist", "ce_at_cifar10"])
def test_real_datas_stored_accuracies_are_plausible(name: str, shared_data: Path) -> None:
    """On 1,000 of the 10,000 test samples: within five standard errors."""
    entry = find_entry(name)
    assert entry.trained is not None
    data = load_dataset(entry.dataset, "test", shared_data).balanced_subset(1000)
    stated = entry.trained.clean_accuracy
    error = 5 * (stated * (1 - stated) / len(data)) ** 0.5
    assert correct_of(load_model(entry), data) / len(data) == pytest.approx(stated, abs=error)


def test_honest_models_keep_a_third_under_autoattack() -> None:
    """What is published of these weights: at least 35 % of 500 samples at 8/255."""
    board = Path(__file__).parents[2] / "leaderboards" / "cifar10_Linf_8_255.csv"
    with board.open(encoding="utf-8") as file:
        rows = {(row["model"], row["weights_sha256"]): row for row in csv.DictReader(file)}
    for name in ("ce_at", "pcl_at", "mpat_at", "mpat_fast", "mpat_free"):
        weights = find_entry(f"{name}_cifar10").weights
        assert weights is not None
        row = rows[f"{name}_cifar10", weights.sha256]
        assert (row["norm"], row["eps"]) == ("Linf", "8/255")
        assert int(row["samples"]) >= 500
        assert float(row["attack_autoattack"]) >= 35


def test_what_claims_algorithm_1_was_trained_by_it() -> None:
    """PCL, Section 6: clean and attacked images together, ε uniform in an interval."""
    claiming = [
        entry
        for entry in all_entries()
        if any("Ours + AdvTrain" in claim.source for claim in entry.claims)
    ]
    assert len(claiming) >= 4
    for entry in claiming:
        assert entry.training is not None
        adversarial = entry.training.adversarial
        assert adversarial is not None, entry.name
        assert adversarial.with_clean, entry.name
        low, high = map(parse_eps, adversarial.eps)
        assert low < high, entry.name


def test_an_entry_by_path_needs_no_registry(tmp_path: Path) -> None:
    path = with_weights(tmp_path)
    model = load_model(find_entry(str(path)))
    assert model(torch.rand(3, 1, 8, 8)).shape == (3, 10)


def test_a_users_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_entry(tmp_path, "mine")
    write_entry(tmp_path, "pcl_digits")
    monkeypatch.setenv("ROBUSTEVAL_MODELS", str(tmp_path))
    assert find_entry("mine").path == tmp_path / "mine.toml"
    assert find_entry("pcl_digits").path.parent == tmp_path
    assert "pcl_cifar10" in entry_paths()
    monkeypatch.setenv("ROBUSTEVAL_MODELS", str(tmp_path / "no"))
    with pytest.raises(EntryError, match="does not exist"):
        find_entry("mine")


def test_unknown_names_list_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="pcl_digits"):
        find_entry("pcl_digit")
    with pytest.raises(EntryError, match="does not exist"):
        find_entry("somewhere/model.toml")


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("[head]\ncolour = 3\n", "colour"),
        ('[weights]\nfile = "x.pt"\nsha256 = "' + "0" * 64 + '"\n', "no pickle"),
        ('[weights]\nfile = "x.safetensors"\nsha256 = "abc"\n', "sha256"),
        ('[head]\nsimilarity = "l3"\n', "similarity"),
        ('[head]\nreading = "nearest_prototype"\n', "layers"),
        ('[[claims]]\nattack = "pgd"\naccuracy = 320\n', "accuracy"),
        ('[[claims]]\nattack = "pgd"\naccuracy = 32\neps = "big"\n', "big"),
        ('[[claims]]\nattack = "pgd"\naccuracy = 0.8\n', "did you mean 80.*percent.*0.8 %"),
        ('[[claims]]\nattack = "pgd"\naccuracy = 1\n', "did you mean 100"),
        ('[[claims]]\nattack = "pgd"\naccuracy = "big %"\n', "accuracy"),
        ('[[claims]]\nattack = "pgd"\naccuracy = "101 %"\n', "accuracy"),
        ("= 3", "TOML"),
    ],
)
def test_broken_entries_name_the_file_and_the_field(tmp_path: Path, extra: str, said: str) -> None:
    path = write_entry(tmp_path, extra=extra)
    with pytest.raises(EntryError, match=said) as caught:
        read_entry(path)
    assert "tiny.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "accuracy"),
    [("0", 0), ("1.01", 1.01), ('"0.28 %"', 0.28), ('"1%"', 1), ("100", 100)],
)
def test_little_accuracy_is_claimed_with_its_sign(
    tmp_path: Path, written: str, accuracy: float
) -> None:
    extra = f'[[claims]]\nattack = "pgd"\naccuracy = {written}\n'
    entry = read_entry(write_entry(tmp_path, extra=extra))
    assert entry.claims[0].accuracy == accuracy
    # As a run's record holds it.
    assert Entry(**entry.model_dump(mode="json")).claims == entry.claims


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("cnn6", "cnn7"), "cnn6"),
        (("kernel_size = 3", "kernel = 3"), "kernel_size"),
        (('"cnn6"', '"cnn6"\n[head]\nlayers = ["stage9"]\n[head.x]'), "head.x|stage9"),
        (('"digits"', '"digist"'), "digits"),
        (("hidden = [8, 8]", "hidden = [8]"), "hidden"),
        (("mean = [0.3]\nstd = [0.4]", "mean = [0.3, 0.3]\nstd = [0.4, 0.4]"), "2 values"),
    ],
)
def test_architectures_that_cannot_be_built(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    path = write_entry(tmp_path)
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(RobustevalError, match=said):
        build_network(read_entry(path))


def test_altered_missing_and_unfitting_weights(tmp_path: Path) -> None:
    path = with_weights(tmp_path)
    weights = tmp_path / "tiny.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(WeightsError, match="altered"):
        load_model(read_entry(path))
    weights.unlink()
    with pytest.raises(WeightsError, match="can't be read"):
        load_model(read_entry(path))
    weights.write_bytes(good)
    path.write_text(path.read_text().replace("widths = [4, 4, 4]", "widths = [4, 4, 5]"))
    with pytest.raises(WeightsError, match="don't fit"):
        load_model(read_entry(path))
    with pytest.raises(WeightsError, match="no weights"):
        load_model(read_entry(write_entry(tmp_path, "bare")))


def test_weights_that_are_no_safetensors(tmp_path: Path) -> None:
    path = write_entry(tmp_path)
    content = b"\x80\x04pickle"
    (tmp_path / "tiny.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    path.write_text(
        path.read_text() + f'[weights]\nfile = "tiny.safetensors"\nsha256 = "{digest}"\n'
    )
    with pytest.raises(WeightsError, match="not a safetensors"):
        load_model(read_entry(path))


def test_weights_stay_in_their_folder(tmp_path: Path) -> None:
    path = write_entry(
        tmp_path, extra='[weights]\nfile = "../../x.safetensors"\nsha256 = "' + "0" * 64 + '"\n'
    )
    assert read_entry(path).weights_path == tmp_path / "x.safetensors"


def test_code_runs_only_with_permission(tmp_path: Path) -> None:
    path = tmp_path / "foreign.toml"
    path.write_text(FACTORY)
    with pytest.raises(CodeNotAllowedError, match="--allow-code"):
        load_model(read_entry(path))
    model = load_model(read_entry(path), allow_code=True)
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(model(images), images.flatten(1))
    path.write_text(FACTORY.replace("torch.nn:Flatten", "torch.nn:Nothing"))
    with pytest.raises(EntryError, match="has no function"):
        load_model(read_entry(path), allow_code=True)


def test_weights_are_stored_in_float16() -> None:
    from safetensors import safe_open

    path = file_of("pcl_digits.safetensors")
    with safe_open(path, "pt") as stream:
        assert {str(stream.get_tensor(k).dtype) for k in stream.keys()} == {"torch.float16"}  # noqa: SIM118
