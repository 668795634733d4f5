"""The doors: Python calls and the command line, with good input and every kind of bad one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import Result

import robusteval
from benchmarks.resume import without_times
from robusteval import api, terminal
from robusteval.cli import expand_lists, split_list
from robusteval.data.datasets import load_dataset
from robusteval.errors import DataError, RobustevalError
from robusteval.models.registry import all_entries
from robusteval.run.prepare import prepare
from robusteval.run.runner import Run
from robusteval.run.subject import Asked
from tests.helpers.commands import cli, refused
from tests.helpers.entries import with_weights, write_entry
from tests.helpers.models import file_of
from tests.helpers.runs import unfitted_suite_in

COUNT = len(list(all_entries()))
FEW = ("run", "--model", "pcl_digits", "--suite", "quick", "--samples", "20")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """What a run has printed, and where: in ``runs``, as is usual."""
    folder = tmp_path_factory.mktemp("ran")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return cli(*FEW), folder / "runs"


@pytest.fixture
def runs(ran: tuple[Result, Path]) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(ran[1], "runs"))


def test_run_prints_the_table_and_the_path(ran: tuple[Result, Path], runs: Path) -> None:
    result, _ = ran
    assert result.exit_code == 0
    path = Path(result.stdout.strip().splitlines()[-1])
    assert path.name == "report.html"
    assert path.is_file()
    assert path.parent.parent == Path("runs")
    assert {p.name for p in path.parent.iterdir()} == {
        "report.json",
        "report.md",
        "report.html",
        "row.csv",
        "detection.csv",
        "run.json",
        "evidence",
        ".lock",
    }
    assert "worst case" in result.stdout
    content = json.loads((path.parent / "report.json").read_text())
    assert content["samples"] == 20


def test_the_same_spec_gives_the_same_report(runs: Path) -> None:
    paths = (Path(cli(*FEW, "--out", "there").stdout.strip().splitlines()[-1]), *runs.glob("*/*"))
    contents = [json.loads(p.with_name("report.json").read_text()) for p in paths[:2]]
    assert without_times(contents[0]) == without_times(contents[1])


def test_a_finished_run_prints_its_report_at_once(
    ran: tuple[Result, Path], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = ran
    files = {p: p.stat().st_mtime_ns for p in Path("runs").rglob("*") if p.is_file()}
    monkeypatch.setattr(Run, "execute", None)  # nothing may run
    again = cli(*FEW)
    assert again.stdout == first.stdout
    assert {p: p.stat().st_mtime_ns for p in files} == files


def test_several_eps_make_several_threats() -> None:
    result = cli(
        *("run", "--model", "pcl_digits", "--suite", "quick", "--samples", "10"),
        *("--only", "fgsm", "pgd10", "--eps", "4/255", "0.1"),
    )
    assert result.exit_code == 0
    (folder,) = Path("runs").iterdir()
    content = json.loads((folder / "report.json").read_text())
    assert [(a["name"], a["threat"]["eps"]) for a in content["attacks"]] == [
        ("fgsm", "4/255"),
        ("fgsm", "0.1"),
        ("pgd10", "4/255"),
        ("pgd10", "0.1"),
    ]
    assert [w["threat"]["eps"] for w in content["worst_case"]] == ["4/255", "0.1"]


def test_lists_on_the_command_line() -> None:
    assert expand_lists(["run", "--only", "a", "b", "--eps=1", "--seed", "3"]) == [
        *("run", "--only", "a", "--only", "b", "--eps=1", "--seed", "3"),
    ]
    assert expand_lists(["run", "--eps", "-1", "2"]) == ["run", "--eps", "-1", "--eps", "2"]
    assert split_list(["a,b", "c"]) == ["a", "b", "c"]
    assert split_list(None) == []


def test_dry_run_writes_nothing() -> None:
    result = cli("run", "--model", "pcl_digits", "--dry-run", "--samples", "20")
    assert result.exit_code == 0
    assert "forward passes" in result.stdout
    assert "time            " in result.stdout
    assert not Path("runs").exists()


def test_a_time_limit_makes_the_run_incomplete() -> None:
    result = cli(
        *("run", "--model", "pcl_digits", "--samples", "10", "--only", "square"),
        *("--time-limit", "0.000001"),
    )
    assert result.exit_code == 3
    assert "incomplete" in result.stderr
    (folder,) = Path("runs").iterdir()
    assert json.loads((folder / "report.json").read_text())["status"] == "incomplete"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "pcl_digit"], ["unknown model", "pcl_digits"]),
        (["--model", "no/such.toml"], ["does not exist"]),
        (["--model", "pcl_digits", "--suite", "ful"], ["unknown suite", "full"]),
        (["--model", "pcl_digits", "--only", "fgms"], ["fgms", "fgsm"]),
        (
            ["--model", "pcl_digits", "--suite", "quick", "--only", "adaptive"],
            ["suite quick has no attack 'adaptive'", "it is in full"],
        ),
        (
            ["--model", "resnet50"],
            ["unknown model", f"among {COUNT}", "such as anl_at_digits", "list models"],
        ),
        (["--model", "pcl_digits", "--eps", "-1"], ["not positive"]),
        (["--model", "pcl_digits", "--eps", "big"], ["not a number"]),
        (["--model", "pcl_digits", "--eps", "8"], ["8/255"]),
        (["--model", "pcl_digits", "--eps", "L3:1"], ["L3"]),
        (["--model", "pcl_digits", "--samples", "0"], ["--samples"]),
        (["--model", "pcl_digits", "--samples", "many"], ["--samples"]),
        (["--model", "pcl_digits", "--samples", "361"], ["360"]),
        (["--model", "pcl_digits", "--samples", "²"], ["--samples"]),
        (["--model", "pcl_digits", "--seed", "-1"], ["--seed"]),
        (["--model", "pcl_digits", "--only", "fgsm", "--eps", "L2:1"], ["L2"]),
        (["--model", "pcl_digits", "--batch-size", "0"], ["--batch-size"]),
        (["--model", "pcl_digits", "--workers", "0"], ["--workers"]),
        (["--model", "pcl_digits", "--threads", "-2"], ["--threads"]),
        (["--model", "pcl_digits", "--keep", "some"], ["--keep", "first or all"]),
        (["--model", "pcl_digits", "--time-limit", "-3"], ["--time-limit"]),
        (["--model", ""], ["no model is named"]),
        (["--model", ",", "--dry-run"], ["no model is named"]),
        (["--model", "pcl_digits", "--time-limit", "inf"], ["--time-limit"]),
        (["--model", "pcl_digits", "--time-limit", "nan"], ["--time-limit"]),
        (["--model", "pcl_digits", "--device", "cuda:77"], ["device"]),
        (["--model", "pcl_digits", "--data-dir", "nowhere"], ["nowhere", "does not exist"]),
        (["--model", "pcl_digits", "--outlier-dir", "nowhere"], ["nowhere"]),
        (["--model", "ce_cifar10"], ["cifar10", "--download", "--data-dir"]),
        (["--model", "pcl_cifar10_resnet110"], ["no weights (untrained)", "robusteval train"]),
    ],
)
def test_bad_input_gets_one_clear_line(arguments: list[str], said: list[str]) -> None:
    refused(cli("run", *arguments), *said)
    assert not Path("runs").exists()


def test_titles_are_shown_as_they_are() -> None:
    """Neither a terminal's markup nor the end of a table's cell."""
    Path("s.toml").write_text(
        'name = "s"\n[[attacks]]\nname = "a"\ntitle = "A [/x] | B"\nlibrary = "torchattacks"\n'
        'attack = "FGSM"\nnorms = ["Linf"]\n'
    )
    result = cli("run", "--model", "pcl_digits", "--suite", "s.toml", "--samples", "10")
    assert result.exit_code == 0, result.stderr
    assert "A [/x] | B" in result.stdout
    (path,) = Path("runs").glob("*/report.md")
    assert r"| A [/x] \| B | L∞ 0.15 |" in path.read_text()


def test_an_output_folder_that_cannot_be_written() -> None:
    Path("blocked").write_text("")
    result = cli(
        *("run", "--model", "pcl_digits", "--suite", "quick", "--samples", "5"), "--out", "blocked"
    )
    refused(result, "blocked", "--out")


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    path = with_weights(tmp_path)
    weights = tmp_path / "tiny.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    refused(cli("run", "--model", str(path)), "altered", "SHA-256")


def test_broken_entries_and_suites(tmp_path: Path) -> None:
    path = write_entry(tmp_path, extra="= broken")
    refused(cli("show", str(path)), "tiny.toml", "TOML")
    suite = tmp_path / "suite.toml"
    suite.write_text('name = "x"\n[[attacks]]\nname = 3')
    refused(cli("run", "--model", "pcl_digits", "--suite", str(suite)), "attacks.0")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], ["--model", "run --help"]),
        (["run", "--modle", "x"], ["--modle", "--model"]),
        (["rnu"], ["rnu", "run"]),
        (["--nope"], ["--nope"]),
        (["show"], ["argument", "show --help"]),
        (["show", "a", "b"], ["extra argument"]),
        (["run", "--model", "a", "--seed", "x"], ["--seed", "whole number"]),
        (["verify", "x", "--again", "-1"], ["--again"]),
        (["leaderboard", "ad"], ["add", "leaderboard --help"]),
        (["leaderboard", "add"], ["argument", "leaderboard add --help"]),
        (["leaderboard", "add", "--again", "0", "x"], ["--again"]),
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], said: list[str]) -> None:
    refused(cli(*arguments), *said)


@pytest.mark.parametrize("arguments", [[], ["leaderboard"]])
def test_nothing_asked_for_gives_the_help(arguments: list[str]) -> None:
    result = cli(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.output
    assert "robusteval: " not in result.output


@pytest.mark.parametrize("kind", ["models", "datasets", "attacks", "detectors", "suites"])
def test_everything_can_be_listed_as_table_and_json(kind: str) -> None:
    assert cli("list", kind).exit_code == 0
    rows = json.loads(cli("list", kind, "--json").stdout)
    assert len(rows) >= 2
    assert all(row["name"] for row in rows)


def test_listed_data_sets_tell_the_order_of_their_classes(
    tmp_path: Path, at_terminal: Callable[[int], None]
) -> None:
    at_terminal(80)
    for split in ("train", "test"):
        for k in range(100):
            (tmp_path / "cifar100" / split / str(k)).mkdir(parents=True)
    (tmp_path / "svhn" / "test" / "5").mkdir(parents=True)
    given = ("list", "datasets", "--data-dir", str(tmp_path))
    rows = {row["name"]: row for row in json.loads(cli(*given, "--json").stdout)}
    orders = {"train": [str(k) for k in range(100)], "test": [str(k) for k in range(100)]}
    assert rows["cifar100"]["class_order"] == orders
    assert rows["cifar100"]["found"] == "train, test"
    assert rows["svhn"]["found"] == "no"
    assert "test holds 1 class (5), and svhn has 10" in rows["svhn"]["problem"]
    shown = " ".join(cli(*given).stdout.split())
    assert "cifar100: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11" in shown
    assert "99 (100; --json shows all)" in shown
    assert "svhn: test can't be used" in shown
    refused(cli("list", "datasets", "--data-dir", str(tmp_path / "nowhere")), "nowhere")


def test_a_narrow_table_of_models_keeps_what_matters(at_terminal: Callable[[int], None]) -> None:
    at_terminal(80)
    shown = cli("list", "models").stdout
    lines = {line.split()[1]: line for line in shown.splitlines() if "digits" in line}
    header = next(line for line in shown.splitlines() if "name" in line)
    assert all(word in header for word in ("method", "dataset", "clean", "claim"))
    assert "98.61 %" in lines["pcl_digits"]
    assert "untrained" in shown
    assert "A wider terminal, or --json, shows weights and training" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_listing_an_unknown_kind() -> None:
    refused(cli("list", "modles"), "models")


def test_a_broken_entry_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_entry(tmp_path, "bad", extra="= broken")
    monkeypatch.setenv("ROBUSTEVAL_MODELS", str(tmp_path))
    rows = json.loads(cli("list", "--json").stdout)
    assert any("bad.toml" in row.get("problem", "") for row in rows)
    assert any(row["name"] == "pcl_digits" for row in rows)


def test_listed_weights_are_checked_by_their_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("altered", "missing"):
        text = file_of("ce_digits.toml").read_text().replace("ce_digits", name)
        (tmp_path / f"{name}.toml").write_text(text)
    content = bytearray(file_of("ce_digits.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "altered.safetensors").write_bytes(content)
    monkeypatch.setenv("ROBUSTEVAL_MODELS", str(tmp_path))
    rows = {row["name"]: row for row in json.loads(cli("list", "--json").stdout)}
    assert rows["ce_digits"]["weights"] == "checked"
    assert "are altered" in rows["altered"]["problem"]
    assert "can't be read" in rows["missing"]["problem"]
    assert {rows[n]["weights"] for n in ("altered", "missing")} == {"unusable"}
    assert all(
        r["weights"] in ("checked", "untrained", "not kept")
        for n, r in rows.items()
        if n not in ("altered", "missing")
    )


def test_show_tells_claims_and_training() -> None:
    text = cli("show", "pcl_cifar10").stdout
    for part in ("27.2", "Table 3", "repulsion_weight", "milestones"):
        assert part in text
    content = json.loads(cli("show", "pcl_digits", "--json").stdout)
    assert content["trained"]["clean_total"] == 360


def test_show_tells_of_claims_that_no_suite_can_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal.console, "width", 300)
    claims = '[[claims]]\nattack = "spsa"\naccuracy = 50\nnorm = "Linf"\neps = "0.1"\n'
    claims += '[[claims]]\nattack = "pgd10"\naccuracy = 40\nnorm = "Linf"\neps = "0.1"\n'
    claims += '[[claims]]\nattack = "clean"\naccuracy = 90\n'
    lines = cli("show", str(write_entry(tmp_path, extra=claims))).stdout.splitlines()
    told = {name: line for line in lines for name in ("spsa", "pgd10", "clean") if name in line}
    assert "not run here: no suite has this attack" in told["spsa"]
    assert "not run here" not in told["pgd10"] + told["clean"]


def test_version() -> None:
    assert cli("--version").stdout.strip() == f"robusteval {robusteval.__version__}"


def test_train_from_the_command_line(tmp_path: Path) -> None:
    table = '[training]\nrecipe = "ce"\nepochs = 2\nlr = 0.03\nvalidation = 100\nbatch_size = 64\n'
    path = write_entry(tmp_path, extra=table)
    result = cli("train", str(path), "--work-dir", str(tmp_path / "w"))
    assert result.exit_code == 0, result.stderr
    assert "clean accuracy" in result.stdout
    assert "epoch 2/2" in result.stderr
    ran = cli("run", "--model", str(path), "--suite", "quick", "--samples", "10")
    assert ran.exit_code == 0
    refused(cli("train", str(write_entry(tmp_path, "other"))), "[training]")


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_leaves_no_report(workers: str, tmp_path: Path) -> None:
    """Interrupted once its first bar shows: one line, exit 130, nothing that looks whole."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-u", "-m", "robusteval", "run", "--model", "ce_digits"),
            *("--workers", workers, "--samples", "60"),
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": "100"},
        # Where tests run in the background, a shell has had them ignore interruptions.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stderr is not None
    while "Gaussian" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.rglob("report.*")) == []


def test_a_module_from_python() -> None:
    torch.manual_seed(0)
    data = load_dataset("digits")
    means = torch.stack([data.images()[data.labels == k].mean(0).flatten() for k in range(10)])
    layer = nn.Linear(64, 10)
    layer.weight.data.copy_(means)
    layer.bias.data.copy_(-0.5 * means.square().sum(1))  # nearest class mean, as a linear layer
    model = robusteval.wrap_module(nn.Sequential(nn.Flatten(), layer), classes=10)
    report = robusteval.evaluate(
        model, "quick", dataset="digits", name="nearest_mean", options=api.Options(samples=30)
    )
    assert report.complete
    assert report.folder.name.startswith("nearest_mean-quick-")
    assert report.content["clean"]["accuracy"]["value"] > 0.8
    left_out = [(row["kind"], row["name"]) for row in report.content["left_out"]]
    assert left_out == [("attack", "prototype_margin"), ("detector", "nearest_prototype")]
    with pytest.raises(DataError, match="dataset"):
        robusteval.evaluate(model, "quick")
    with pytest.raises(RobustevalError, match=r"shape \(1, 64\)"):
        robusteval.evaluate(nn.Flatten(), "quick", dataset="digits")
    wrong = robusteval.wrap_module(nn.Flatten(), classes=64)
    with pytest.raises(DataError, match="64"):
        robusteval.evaluate(wrong, "quick", dataset="digits")


def test_a_nearest_prototype_reading_is_a_model_of_its_own(tmp_path: Path) -> None:

    text = file_of("pcl_digits.toml").read_text()
    text = text.replace('name = "pcl_digits"', 'name = "pcl_digits_nearest"')
    text = text.replace('reading = "softmax"', 'reading = "nearest_prototype"')
    path = tmp_path / "pcl_digits_nearest.toml"
    path.write_text(text)
    content = file_of("pcl_digits.safetensors").read_bytes()
    (tmp_path / "pcl_digits.safetensors").write_bytes(content)
    model = robusteval.load_model(str(path))
    images = load_dataset("digits").images()
    assert torch.equal(model(images).argmax(1), model.distances(images)[:, :, 0].argmin(1))
    assert (model(images) <= 0).all()


@pytest.mark.slow
def test_real_cifar10_in_small(shared_data: Path, tmp_path: Path) -> None:
    """The project's main command on real images, with the cheap attacks."""
    options = api.Options(
        samples=10, data_dir=shared_data, only=("fgsm", "pgd10", "joint_pc", "prototype_margin")
    )
    report = api.evaluate("pcl_cifar10", unfitted_suite_in(tmp_path), options=options)
    assert report.complete
    assert report.content["clean"]["accuracy"]["value"] > 0.6
    assert report.content["worst_case"][0]["robust_accuracy"]["value"] < 0.3
    assert {r["against"] for r in report.content["outliers"]} == {
        *("cifar100", "tiny_imagenet_test", "mnist", "photo_crops"),
        *("gaussian_noise", "uniform_noise", "blurred", "permuted"),
    }
    pgd = next(c for c in report.content["claims"] if c["attack"] == "pgd10")
    assert pgd["accuracy"] == 27.2
    assert pgd["found"]["n"] == 10


def test_an_options_values_end_where_another_verbs_arguments_begin(tmp_path: Path) -> None:
    assert expand_lists(["verify", "--model", "x", "runs/y"]) == [
        "verify",
        "--model",
        "x",
        "runs/y",
    ]
    assert expand_lists(["run", "--model", "x", "y"]) == ["run", "--model", "x", "--model", "y"]


def test_weights_that_were_not_kept_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry tells how it was trained, and which command makes it anew."""
    text = file_of("ce_digits.toml").read_text().replace("ce_digits", "rowed")
    kept, rest = text.split("[weights]")
    (tmp_path / "rowed.toml").write_text(kept + rest[rest.index("\n\n") :])
    monkeypatch.setenv("ROBUSTEVAL_MODELS", str(tmp_path))
    (row,) = [r for r in json.loads(cli("list", "--json").stdout) if r["name"] == "rowed"]
    assert (row["weights"], row["clean"] > 0.9) == ("not kept", True)
    said = "rowed has no weights (not kept): train them with `robusteval train rowed`"
    refused(cli("run", "--model", "rowed"), said)


def test_patterns_that_fit_only_untrained_models() -> None:
    for more in ([], ["--dry-run"]):
        refused(cli("run", "--model", "*_resnet110", *more), "none of these models is trained")


def test_a_dry_run_of_several_models() -> None:
    """More samples than a data set has are fine, and what can't be run is told."""
    result = cli("run", "--model", "ce_digits", "nothing", "--samples", "900", "--dry-run")
    assert result.exit_code == 3
    assert result.stdout.splitlines()[0] == "ce_digits"
    assert "nothing was not estimated: unknown model" in result.stderr


def test_a_misspelt_attack_in_a_suite(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\n[[attacks]]\nname = "pgd"\ntitle = "PGD"\nlibrary = "torchattacks"\n'
        'attack = "PGDD"\nnorms = ["Linf"]\n'
    )
    refused(cli("run", "--model", "ce_digits", "--suite", str(path)), "no attack 'PGDD'", "PGD")


class Failing(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("expected scalar type Half")


def test_a_model_that_fails_on_clean_images_is_bad_input(tmp_path: Path) -> None:
    adapter = robusteval.wrap_module(Failing(), classes=10)
    chosen = api.Options(samples=10, out=tmp_path)
    with pytest.raises(RobustevalError, match=r"fails on clean images .*scalar type Half"):
        api.evaluate(adapter, "quick", dataset="digits", name="mine", options=chosen)


@pytest.mark.parametrize(
    ("returned", "said"),
    [((lambda z: (z[None], z)), "returns a tuple"), ((lambda z: {"scores": z}), "returns a dict")],
)
def test_a_module_must_return_logits_where_they_can_be_found(
    returned: Callable[[torch.Tensor], object], said: str, tmp_path: Path
) -> None:
    class Wrapped(nn.Module):
        def forward(self, images: torch.Tensor) -> object:
            return returned(images.flatten(1)[:, :10])

    chosen, adapter = api.Options(samples=10, out=tmp_path), robusteval.wrap_module(Wrapped(), 10)
    with pytest.raises(RobustevalError, match=said):
        api.evaluate(adapter, "quick", dataset="digits", name="mine", options=chosen)


def test_text_does_for_paths_and_for_the_only_one(tmp_path: Path) -> None:
    given = {"out": str(tmp_path), "data_dir": str(tmp_path), "outlier_folders": str(tmp_path)}
    options = api.Options(samples=10, only="fgsm", eps="0.1", **given)  # type: ignore[arg-type]
    assert (options.only, options.eps) == (("fgsm",), ("0.1",))
    assert options.out == options.data_dir == tmp_path
    assert options.outlier_folders == (tmp_path,)
    chosen = api.Options(samples=10, only=["fgsm"], out=str(tmp_path))  # type: ignore[arg-type]
    folder = str(api.evaluate("ce_digits", "quick", options=chosen).folder)
    assert api.rebuild_report(folder).complete
    assert all(check.held for check in api.verify(folder))
    assert len(api.compare([folder, folder])["pairs"]) == 1


def test_a_damaged_neighbour_does_not_spoil_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The diagnostics transfer from another model, for digits ce_digits, if its weights hold."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("ce_digits.toml", "ce_digits.safetensors"):
        (folder / name).write_bytes(file_of(name).read_bytes())
    (folder / "ce_digits.safetensors").write_bytes(b"altered")
    monkeypatch.setenv("ROBUSTEVAL_MODELS", str(folder))
    chosen = api.Options(samples=10, only=("fgsm",), out=tmp_path)
    prepared = prepare(Asked("pcl_digits"), "full", chosen)
    assert prepared.spec.transfer_source
    assert prepared.spec.transfer_source[0] != "ce_digits"
