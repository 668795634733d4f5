"""Losses by hand, the loop's promises, and trainings that really learn."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from robusteval import stops
from robusteval.data.datasets import Dataset, load_dataset
from robusteval.data.readers import Shape
from robusteval.errors import RobustevalError, TrainingError
from robusteval.evidence.judge import state_digest
from robusteval.hardware import hardware_name
from robusteval.models.entry import read_entry
from robusteval.models.entry_tables import Adversarial, Training
from robusteval.models.loading import build_network, load_model
from robusteval.models.network import PrototypeNetwork
from robusteval.models.registry import find_entry
from robusteval.training import baselines, pcl  # noqa: F401 - they register their recipes
from robusteval.training.adversarial import craft
from robusteval.training.batches import batches, random_crop
from robusteval.training.checkpoint import read_checkpoint, write_checkpoint
from robusteval.training.loop import Trainer, accuracy_of
from robusteval.training.losses import bounded_conformity, prototype_conformity
from robusteval.training.recipe import RECIPES
from robusteval.training.schedule import make_optimizer, scale_learning_rates
from robusteval.training.speed import Speed, choose_speed
from robusteval.training.train import train
from tests.helpers.entries import TRAINING, write_entry
from tests.helpers.processes import forked, started

FEATURES = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
CENTRES = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
LABELS = torch.tensor([0, 2])


def test_prototype_conformity_by_hand() -> None:
    """Eq. 5.  Sample 0: 1 − ½[(4 + 9) + (17 + 16)] = −22; sample 1: 4 − ½[58]."""
    assert float(prototype_conformity(FEATURES, LABELS, CENTRES)) == pytest.approx((-22 - 25) / 2)


def test_prototype_conformitys_gradient_is_eq_6() -> None:
    features = FEATURES.double().requires_grad_()
    centres = CENTRES.double()
    (2 * prototype_conformity(features, LABELS, centres)).backward()  # the batch mean undone
    for i, y in enumerate(LABELS.tolist()):
        others = [j for j in range(3) if j != y]
        pushed = sum((FEATURES[i] - CENTRES[j] for j in others), torch.zeros(2)) / 2
        expected = 2 * (FEATURES[i] - CENTRES[y] - pushed)
        torch.testing.assert_close(features.grad[i], expected.double())


def test_prototype_conformity_is_affine_so_unbounded() -> None:
    """Why the authors bound it: along a line of features the loss is a straight line."""
    values = [
        float(prototype_conformity(s * FEATURES.double(), LABELS, CENTRES.double()))
        for s in (0.0, 1.0, 2.0)
    ]
    assert values[2] - values[1] == pytest.approx(values[1] - values[0])


def test_bounded_conformity_by_hand() -> None:
    far = torch.tensor([[1.0, 1.0], [5.0, 0.0], [0.0, 0.0]])
    # attraction: mean(1, 4); repulsion: 16 and 1 of sample 0, 2 and 29 of sample 1
    expected = 2.5 - 0.01 * (16 + 1 + 2 + 29) / 4
    loss = bounded_conformity(FEATURES, LABELS, CENTRES, far, 0.01)
    assert float(loss) == pytest.approx(expected)


@pytest.mark.parametrize("which", [prototype_conformity, bounded_conformity])
def test_conformity_gradients_against_finite_differences(which) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    features, centres, far = (
        torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (5, 4, 4)
    )
    labels = torch.tensor([0, 1, 2, 3, 1])
    extra = () if which is prototype_conformity else (far,)

    def loss(*parts: torch.Tensor) -> torch.Tensor:
        return which(parts[0], labels, *parts[1:])

    assert torch.autograd.gradcheck(loss, (features, centres, *extra), eps=1e-6, atol=1e-6)


def settings(**changes: object) -> Training:
    base = {"recipe": "ce", "epochs": 3, "batch_size": 64, "lr": 0.03, "validation": 100}
    return Training(**{**base, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def parts() -> tuple[Dataset, Dataset]:
    return load_dataset("digits", "train").balanced_subset(500).split_off(100)


def trainer(
    chosen: Training, parts: tuple[Dataset, Dataset], name: str = "pcl_digits", commit: str = ""
) -> Trainer:
    torch.manual_seed(chosen.seed)
    network = build_network(find_entry(name))
    recipe = RECIPES.get(chosen.recipe)(network, chosen)
    return Trainer(network, recipe, parts[0], parts[1], chosen, commit=commit)


PCL = {"recipe": "pcl", "warmup_epochs": 1, "options": {"centres": "class_means", "tau": 0.1}}


def test_a_killed_training_ends_where_it_would_have_ended(
    parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    chosen = settings(**PCL)
    whole = trainer(chosen, parts)
    logs = list(whole.fit(tmp_path / "whole"))
    killed = trainer(chosen, parts).fit(tmp_path / "killed")
    next(killed)
    next(killed)
    del killed
    resumed = trainer(chosen, parts)
    rest = list(resumed.fit(tmp_path / "killed"))
    assert [line.epoch for line in rest] == [3, 4]
    assert [line.loss for line in rest] == [line.loss for line in logs[2:]]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_a_checkpoint_of_other_settings_is_refused(
    parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    next(trainer(settings(), parts).fit(tmp_path / "c"))
    with pytest.raises(TrainingError, match="other settings"):
        next(trainer(settings(lr=0.01), parts).fit(tmp_path / "c"))
    (tmp_path / "c").write_bytes(b"broken")
    with pytest.raises(TrainingError, match="broken"):
        next(trainer(settings(), parts).fit(tmp_path / "c"))


def test_a_loss_that_is_not_finite_stops_with_the_last_good_epoch(
    parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    running = trainer(settings(), parts)
    epochs = running.fit(tmp_path / "c")
    next(epochs)
    good = read_checkpoint(tmp_path / "c")[0]
    running.recipe.loss = lambda network, layers, labels, epoch: (  # type: ignore[method-assign]
        network.logits(layers).sum() * math.nan,
        network.logits(layers),
    )
    with pytest.raises(TrainingError, match="nan in epoch 2"):
        next(epochs)
    kept = read_checkpoint(tmp_path / "c")[0]
    assert all(torch.equal(kept[k], good[k]) for k in good)
    assert all(torch.isfinite(v).all() for v in kept.values())


def test_a_gradient_that_is_not_finite_stops_before_its_step(
    parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    """Zero under a root: the loss is finite, its slope isn't."""
    running = trainer(settings(), parts)
    running.recipe.loss = lambda network, layers, labels, epoch: (  # type: ignore[method-assign]
        (0 * network.logits(layers)).sum().sqrt(),
        network.logits(layers),
    )
    with pytest.raises(TrainingError, match="gradient became nan in epoch 1, batch 1"):
        next(running.fit(tmp_path / "c"))
    assert not (tmp_path / "c").exists()
    assert all(torch.isfinite(p).all() for p in running.network.parameters())


def test_a_last_step_too_far_is_no_good_epoch(
    parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    """Nothing after an epoch's last batch would see what its step did."""
    running = trainer(settings(), parts)
    running.recipe.end_epoch = lambda network, *_: [  # type: ignore[method-assign]
        p.data.mul_(1e30) for p in network.parameters()
    ]
    with pytest.raises(TrainingError, match="logits became NaN or infinite in epoch 1"):
        next(running.fit(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_a_training_says_where_it_was_made(parts: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    """Of each epoch, not of the process that came last: a finished one adds nothing."""
    first = trainer(settings(), parts, commit="one")
    next(first.fit(tmp_path / "c"))
    second = trainer(settings(), parts, commit="two")
    list(second.fit(tmp_path / "c"))
    finished = trainer(settings(), parts, commit="three")
    assert list(finished.fit(tmp_path / "c")) == []
    assert finished.state.commits == ["one", "two"]
    assert finished.state.hardware == hardware_name()
    assert finished.state.date


def test_the_best_epoch_is_kept(parts: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    running = trainer(settings(epochs=6, lr=0.05), parts)
    logs = list(running.fit(tmp_path / "c"))
    best = max(line.validation_accuracy for line in logs)
    assert accuracy_of(running.network, parts[1]) == best


def test_checkpoints_go_through_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "c"
    tensors = {"a": torch.arange(6.0).view(2, 3).t()}
    write_checkpoint(path, tensors, {"epoch": 3})
    back, state = read_checkpoint(path)
    assert torch.equal(back["a"], tensors["a"])
    assert state == {"epoch": 3}


def test_schedules(parts: tuple[Dataset, Dataset]) -> None:
    chosen = settings(warmup_epochs=5, epochs=10, lr=0.1, warmup_lr=0.4)
    running = trainer(chosen, parts)
    optimizer = make_optimizer(running.network, running.recipe, chosen)

    def rate(epoch: float) -> float:
        scale_learning_rates(optimizer, chosen, epoch)
        return float(optimizer.param_groups[0]["lr"])

    assert rate(1.0) == pytest.approx(0.4)  # the first stage's peak, at a fifth of it
    assert rate(7.0) == pytest.approx(0.1)  # the second stage's
    assert rate(4.99) < 0.001
    assert rate(14.99) < 0.001
    steps = settings(schedule="steps", epochs=10, milestones=[4, 8], lr=0.1)
    optimizer = make_optimizer(running.network, running.recipe, steps)
    rates = []
    for epoch in (0, 3.9, 4, 8):
        scale_learning_rates(optimizer, steps, epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001])
    later = settings(schedule="steps", warmup_epochs=5, epochs=10, milestones=[4, 8], lr=0.1)
    rates = []
    for epoch in (4.5, 8.9, 9, 13):  # milestones are those of each stage
        scale_learning_rates(optimizer, later, epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01, 0.1, 0.01, 0.001])
    cyclic = settings(schedule="cyclic", epochs=10, lr=0.1)
    optimizer = make_optimizer(running.network, running.recipe, cyclic)
    rates = []
    for epoch in (0, 2.5, 5, 7.5, 10):
        scale_learning_rates(optimizer, cyclic, epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.0001, 0.05, 0.1, 0.05, 0.0001])


def test_centres_learn_at_their_own_rate(parts: tuple[Dataset, Dataset]) -> None:
    chosen = settings(recipe="pcl", options={"tau": 0.1, "centre_lr": 0.5})
    running = trainer(chosen, parts)
    groups = running.optimizer.param_groups
    assert [g["lr"] for g in groups] == pytest.approx([0.03, 5.0, 1e-4 / 1e-5])
    assert groups[1]["momentum"] == groups[1]["weight_decay"] == 0
    prototypes = {id(p) for p in running.network.prototypes.values()}
    assert {id(p) for p in groups[1]["params"]} == prototypes
    assert not prototypes & {id(p) for p in groups[0]["params"]}


def test_class_means_start_the_centres(parts: tuple[Dataset, Dataset]) -> None:
    """Where joint training begins; epochs of cross-entropy before it leave them as made."""
    running, data = trainer(settings(**PCL), parts), parts[0]
    network = running.network
    made = {name: centres.clone() for name, centres in network.prototypes.items()}
    running.recipe.start_epoch(network, data, 0)
    assert all(torch.equal(network.prototypes[name], made[name]) for name in made)
    running.recipe.start_epoch(network, data, 1)
    network.eval()
    with torch.no_grad():
        layers = network.supervised_features(network.activations(data.images()))
    assert layers.keys() == made.keys()
    for name, features in layers.items():
        of = torch.nn.functional.one_hot(data.labels, 10).double()
        means = (of.T @ features.double()) / of.sum(0)[:, None]
        torch.testing.assert_close(
            network.prototypes[name][:, 0].data, means.float(), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [({"recipe": "pcl", "options": {"tua": 1.0}}, "tua"), ({"recipe": "plc"}, "pcl")],
)
def test_bad_settings_are_named(
    options: Mapping[str, object], said: str, parts: tuple[Dataset, Dataset]
) -> None:
    with pytest.raises(RobustevalError, match=said):
        trainer(settings(**options), parts)


def test_pcl_needs_prototypes(parts: tuple[Dataset, Dataset]) -> None:
    with pytest.raises(TrainingError, match="layers"):
        trainer(settings(recipe="pcl"), parts, "ce_digits")


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_crafted_images_raise_the_loss_within_eps(
    attack: str, parts: tuple[Dataset, Dataset]
) -> None:
    chosen = settings(**PCL)
    network = load_model(find_entry("pcl_digits")).module.train()
    recipe = RECIPES.get("pcl")(network, chosen)
    images, labels = parts[1].images(), parts[1].labels
    how = {"steps": 10, "step_size": 0.25} if attack == "pgd" else {}
    spec = Adversarial(attack=attack, eps=("0.05", "0.2"), **how)  # type: ignore[arg-type]

    def crafted(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return craft(network, recipe, images, labels, spec, 1, generator)

    found = crafted(0)
    moved = (found - images).abs().flatten(1).amax(1)
    assert float(moved.min()) >= 0.05 - 1e-6
    assert float(moved.max()) <= 0.2 + 1e-6
    assert float(moved.std()) > 0.02  # ε differs from image to image
    assert found.min() >= 0
    assert found.max() <= 1
    assert network.training  # the mode it came in
    assert torch.equal(found, crafted(0))
    network.eval()
    with torch.no_grad():
        before, _ = recipe.loss(network, network.activations(images), labels, 1)
        after, _ = recipe.loss(network, network.activations(found), labels, 1)
    assert after > 1.5 * before


def test_batches_cover_everything_once_and_follow_the_seed(parts: tuple[Dataset, Dataset]) -> None:
    def labels(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return torch.cat([y for _, y in batches(parts[0], 64, (), 4, generator)]).tolist()

    assert sorted(labels(0)) == sorted(parts[0].labels.tolist())
    assert labels(0) == labels(0) != labels(1)


def test_crops_shift_and_pad_with_zeros() -> None:
    images = torch.arange(1.0, 17).view(1, 1, 4, 4).repeat(200, 1, 1, 1)
    crops = random_crop(images, 1, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images[:1], (1,) * 4)
    possible = {
        padded[0, 0, i : i + 4, j : j + 4].numpy().tobytes() for i in range(3) for j in range(3)
    }
    assert {c[0].numpy().tobytes() for c in crops} == possible


@pytest.mark.parametrize("recipe", ["ce", "pcl"])
def test_train_writes_weights_and_fills_in_the_entry(recipe: str, tmp_path: Path) -> None:
    head = '[head]\nlayers = ["fc1", "fc2"]\n' if recipe == "pcl" else ""
    extra = head + TRAINING.format(recipe=recipe, epochs=15, warmup=0 if recipe == "ce" else 8)
    options = '[training.options]\ntau = 0.1\ncentres = "class_means"\n' if head else ""
    path = write_entry(tmp_path, extra="# a comment of the author's\n" + extra + options)
    path.write_text(
        path.read_text().replace("[4, 4, 4]", "[8, 16, 16]").replace("[8, 8]", "[32, 16]")
    )
    seen: list[int] = []
    trained = train(
        read_entry(path), work_dir=tmp_path / "w", on_epoch=lambda line: seen.append(line.epoch)
    )
    entry = read_entry(path)
    assert entry.trained == trained
    assert "# a comment of the author's" in path.read_text()
    assert seen == list(range(1, len(seen) + 1))
    logged = [
        json.loads(r) for r in (tmp_path / "w" / "tiny" / "log.jsonl").read_text().splitlines()
    ]
    assert [row["epoch"] for row in logged] == seen
    assert trained.clean_accuracy > 0.6
    model = load_model(entry)
    test = load_dataset("digits")
    correct = int((model(test.images()).argmax(1) == test.labels).sum())
    assert correct == trained.clean_correct  # the accuracy is the stored weights'
    again = train(read_entry(path), work_dir=tmp_path / "w")  # finished: nothing to do
    assert again.clean_correct == trained.clean_correct


def tiny_training(folder: Path) -> list[str]:
    """The command that trains a small entry in a folder of its own."""
    extra = TRAINING.format(recipe="ce", epochs=6, warmup=0)
    entry = write_entry(folder, extra=extra)
    return ["train", str(entry), "--work-dir", str(folder / "work")]


def test_a_training_killed_in_mid_epoch_gives_the_same_weights(tmp_path: Path) -> None:
    """SIGKILL once an epoch's line is out and the next is under way; nothing finished is redone."""
    folders = [tmp_path / name for name in ("whole", "killed")]
    whole, killed = (tiny_training(folder) for folder in folders if folder.mkdir() is None)
    assert forked(*whole).returncode == 0
    process, until = started(*killed), time.monotonic() + 300
    while "epoch 2/6" not in "".join(process.told()):
        assert time.monotonic() < until, process.told()
        time.sleep(0.005)
    process.kill()
    resumed = forked(*killed)
    assert resumed.returncode == 0
    assert "epoch 1/6" not in resumed.stdout + resumed.stderr
    assert "epoch 3/6" in resumed.stdout + resumed.stderr
    first, second = (load_file(folder / "tiny.safetensors") for folder in folders)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_interrupted_training_says_what_is_kept(
    parts: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    entry = write_entry(tmp_path, extra=TRAINING.format(recipe="ce", epochs=2, warmup=0))
    short = trainer(settings(), parts, "ce_digits")
    monkeypatch.setattr("robusteval.training.train._prepared", lambda *_: (short, parts[1]))
    total = short.settings.total_epochs
    for progress, kept in (
        (stop, f"none of {total} epochs was finished, so nothing is kept"),
        (lambda *_: None, f"1 of {total} epochs are done and kept; the same command does the rest"),
    ):
        short.progress = progress
        with pytest.raises(KeyboardInterrupt) as stopped:
            train(entry, work_dir=tmp_path / "work", on_epoch=stop)
        assert stops.said(stopped.value) == [kept]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({(False, False): 1.0, (True, False): 0.5}, Speed(True, False)),
        ({(False, False): 1.0, (True, False): 0.95}, Speed(False, False)),
        ({(False, False): 9.0, (True, False): 6.0, (True, True): 2.0}, Speed(True, True)),
        ({(False, False): 9.0, (True, False): 6.0, (True, True): 5.9}, Speed(True, False)),
        ({(False, False): 9.0, (True, False): 8.9, (False, True): 2.0}, Speed(False, True)),
    ],
)
def test_the_fastest_way_is_chosen_where_it_pays(
    seconds: dict[tuple[bool, bool], float], expected: Speed
) -> None:
    """100 steps of made-up seconds; compiling must save more than it costs."""
    entry = find_entry("ce_mnist")
    data = load_dataset("digits", "train").take(torch.arange(50))
    info = replace(data.info, shape=Shape(1, 28, 28))
    data = replace(data, info=info, pixels=torch.zeros(50, 1, 28, 28))
    network = build_network(entry)
    before = state_digest(network)

    def stopwatch(trial: PrototypeNetwork, images: torch.Tensor, bfloat16: bool) -> float:
        assert trial is not network
        return seconds[bfloat16, trial.backbone._compiled_call_impl is not None]

    chosen = settings(epochs=100, batch_size=50)
    assert choose_speed(network, data, chosen, stopwatch) == expected
    assert state_digest(network) == before
    assert choose_speed(network, load_dataset("digits"), chosen, stopwatch) == Speed()


def test_bfloat16_training_learns_like_float32(
    parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    """At a learning rate at which float32 is steady: at 0.03 its own accuracy jumps by a quarter,
    and where it lands is the processor's rounding."""
    accuracies = []
    for bfloat16 in (False, True):
        running = trainer(settings(epochs=16, lr=0.01), parts)
        running.speed = Speed(bfloat16)
        list(running.fit(tmp_path / str(bfloat16)))
        accuracies.append(accuracy_of(running.network, parts[1]))
    assert min(accuracies) > 0.85
    assert abs(accuracies[0] - accuracies[1]) < 0.1


def test_only_training_steps_are_compiled(
    parts: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mode and batch size is compiled anew, up to a limit: validation must not use it up."""
    compiled = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append({len(i) for i in inputs if isinstance(i, torch.Tensor) and i.dim() == 4})
        return graph.forward

    def compile_by_it(module: torch.nn.Module, dynamic: bool) -> None:
        inner = torch.compile(module._call_impl, backend=backend, dynamic=dynamic)
        module._compiled_call_impl = inner  # type: ignore[assignment]

    monkeypatch.setattr(torch.nn.Module, "compile", compile_by_it)
    crafted = Adversarial(attack="fast", eps=("0.1", "0.1"), with_clean=False)
    running = trainer(settings(adversarial=crafted), parts, "ce_digits")
    running.speed = Speed(compiled=True)
    lines = list(running.fit(tmp_path / "c"))
    assert lines[-1].loss < lines[0].loss
    assert len(compiled) == 4  # crafting and training, whole batches of 64 and the last of 16


def test_compiling_is_left_out_where_a_training_goes_on_without_a_compiler(
    parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    """bfloat16 stays, for the rounding; a checkpoint says nothing of this machine's compiler."""
    running = trainer(settings(), parts, "ce_digits")
    running.speed = Speed(bfloat16=True, compiled=True)
    running._save(tmp_path / "c")
    resumed = trainer(settings(), parts, "ce_digits")
    resumed._resume(tmp_path / "c")
    assert resumed.speed == Speed(bfloat16=True, compiled=False)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('dataset = "digits"', 'dataset = "digits"\nclasses = 12', "classes is 12, digits has 10"),
        ('name = "cnn6"', 'name = "lenet"', "can't take images of digits"),
    ],
)
def test_a_network_that_does_not_fit_its_data_is_not_trained(
    before: str, after: str, said: str, tmp_path: Path
) -> None:
    path = write_entry(tmp_path, extra=TRAINING.format(recipe="ce", epochs=1, warmup=0))
    text = path.read_text().replace(before, after)
    if "lenet" in after:
        text = "\n".join(
            line for line in text.splitlines() if line.split(" ")[0] not in UNKNOWN_TO_LENET
        )
    path.write_text(text)
    with pytest.raises(TrainingError, match=said):
        train(read_entry(path), work_dir=tmp_path / "w")


UNKNOWN_TO_LENET = ("widths", "hidden", "kernel_size")


def test_cross_entropy_leaves_no_prototypes_to_chance(tmp_path: Path) -> None:
    extra = '[head]\nlayers = ["fc1"]\n' + TRAINING.format(recipe="ce", epochs=1, warmup=0)
    with pytest.raises(TrainingError, match="trains no prototypes"):
        train(read_entry(write_entry(tmp_path, extra=extra)), work_dir=tmp_path / "w")


def test_a_device_that_is_not_here_is_named(tmp_path: Path) -> None:
    path = write_entry(tmp_path, extra=TRAINING.format(recipe="ce", epochs=1, warmup=0))
    with pytest.raises(RobustevalError, match="device 'cuda:77' is not on this machine"):
        train(read_entry(path), work_dir=tmp_path / "w", device="cuda:77")


def test_an_entry_edited_while_it_trains_is_not_filled_in(tmp_path: Path) -> None:
    path = write_entry(tmp_path, extra=TRAINING.format(recipe="ce", epochs=1, warmup=0))
    entry, text = read_entry(path), path.read_text()

    def edit(_: object) -> None:
        path.write_text(text.replace("lr = 0.01", "lr = 0.02"))

    with pytest.raises(TrainingError, match="was edited while it trained"):
        train(entry, work_dir=tmp_path / "w", on_epoch=edit)
    assert not (tmp_path / "tiny.safetensors").exists()
    path.write_text(text)
    assert train(entry, work_dir=tmp_path / "w").clean_total == 360  # from its checkpoint


@pytest.mark.parametrize("table", ['eps = ["8", "8"]\nattack = "fgsm"', None])
def test_eps_beyond_the_range_of_pixels_is_refused(table: str | None, tmp_path: Path) -> None:
    extra = TRAINING.format(recipe="ce", epochs=1, warmup=0)
    extra += 'stopping_eps = "8"\n' if table is None else f"[training.adversarial]\n{table}\n"
    with pytest.raises(RobustevalError, match="did you mean 8/255"):
        read_entry(write_entry(tmp_path, extra=extra))


def test_an_entry_without_training_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"\[training\]"):
        train(read_entry(write_entry(tmp_path)))


def test_adversarial_training_makes_a_difference(
    parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    """The committed adversarially trained model against the plain one, under PGD at 0.1."""
    spec = Adversarial(attack="pgd", eps=("0.1", "0.1"), steps=10, step_size=0.25)
    data = load_dataset("digits").balanced_subset(100)
    robust = {}
    for name in ("pcl_digits", "pcl_at_digits"):
        network = load_model(find_entry(name)).module
        recipe = RECIPES.get("ce")(network, settings())
        generator = torch.Generator().manual_seed(0)
        images = craft(network, recipe, data.images(), data.labels, spec, 0, generator)
        robust[name] = float((network(images).argmax(1) == data.labels).double().mean())
    assert robust["pcl_at_digits"] > robust["pcl_digits"] + 0.3


def test_adversarial_epochs_are_chosen_by_robust_accuracy(
    parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    spec = Adversarial(attack="fgsm", eps=("0.05", "0.1"))
    running = trainer(settings(epochs=2, adversarial=spec), parts)
    logs = list(running.fit(tmp_path / "c"))
    assert all(line.validation_robust is not None for line in logs)
    assert running.state.best_score == max(line.validation_robust or 0 for line in logs)
