"""Leaderboards: only what verifies gets on, and what is published is checked."""

import csv
import shutil
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from benchmarks.overhead import plain_suite
from robusteval import api
from robusteval.attacks.registry import OWN, find
from robusteval.boards import board
from robusteval.boards import publish as leaderboards
from robusteval.data.known import DATASETS
from robusteval.errors import EvidenceError
from robusteval.models.entry import Entry
from robusteval.models.registry import all_entries
from robusteval.plan.suite import read_suite
from robusteval.report import rows
from robusteval.report.files import read_report
from robusteval.trust.verdicts import Finding
from robusteval.types import NORMS, ThreatModel, parse_eps
from tests.helpers.commands import cli, refused
from tests.helpers.models import file_of
from tests.helpers.reproductions import reproduced
from tests.helpers.runs import unprobed

ROOT = Path(__file__).resolve().parents[2]
NAME = "digits_Linf_0.15.csv"
NAMES = {NAME, "digits_L2_0.6.csv"}


def test_claims_by_protocol_are_what_the_published_rows_say() -> None:
    held = 0
    for entry in (e for e in all_entries() if isinstance(e, Entry)):
        for claim in (c for c in entry.claims if c.by == "protocol"):
            eps = str(claim.eps).replace("/", "_")
            rows = board.read_board(
                ROOT / "leaderboards" / f"{entry.dataset}_{claim.norm}_{eps}.csv"
            )
            (row,) = (r for r in rows if r["model"] == entry.name)
            assert float(row[f"attack_{claim.attack}"]) == claim.accuracy
            assert entry.weights is not None
            assert row["weights_sha256"] == entry.weights.sha256
            assert row["samples"] == str(DATASETS.get(entry.dataset).test_samples)
            assert float(row["worst_case"]) < claim.accuracy
            assert row["claimed"] == ""
            held += 1
    assert held == 4


def run_of(model: str, out: Path, **changed: object) -> Path:
    options = {"samples": 30, "threads": 1, "out": out, **changed}
    required = leaderboards.REQUIRED
    return api.evaluate(model, required, options=api.Options(**options)).folder  # type: ignore[arg-type]


@pytest.fixture(scope="module", autouse=True)
def _quick_is_enough(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """``full`` on hundreds of samples takes minutes: here the attacks of ``quick`` on 30 do."""
    suite = tmp_path_factory.mktemp("suite") / "quick.toml"
    suite.write_text(plain_suite("quick"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaderboards, "REQUIRED", str(suite))
        patch.setattr(leaderboards, "FEWEST_GREY", 30)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("runs")
    return [run_of(model, out) for model in ("ce_digits", "pcl_at_digits")]


@pytest.fixture(scope="module")
def published(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    boards = tmp_path_factory.mktemp("published")
    leaderboards.add(runs, boards)
    return boards


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    shutil.copytree(published, tmp_path / "boards")
    return tmp_path / "boards"


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_rows_are_ranked_by_the_worst_case(folder: Path, runs: list[Path]) -> None:
    assert {p.name for p in folder.iterdir()} == NAMES
    rows = rows_in(folder / "digits_Linf_0.15.csv")
    assert [(r["rank"], r["model"]) for r in rows] == [("1", "pcl_at_digits"), ("2", "ce_digits")]
    assert [r["training"] for r in rows] == ["PGD at 0.05 to 0.3", "standard"]
    report = read_report(runs[1])
    assert report is not None
    worst = report["worst_case"][0]["robust_accuracy"]
    assert rows[0]["robust_samples"] == str(worst["k"])
    assert float(rows[0]["worst_case"]) == pytest.approx(100 * worst["value"], abs=0.005)
    assert rows[0]["evidence_sha256"] == report["evidence"]["digest"]
    for attack in report["attacks"]:
        if attack["threat"]["norm"] == "Linf":
            told = float(rows[0][f"attack_{attack['name']}"])
            assert told == pytest.approx(100 * attack["robust_accuracy"]["value"], abs=0.005)


def test_adding_again_changes_nothing(folder: Path, runs: list[Path]) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    leaderboards.add(runs[:1], folder)
    leaderboards.add(runs, folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_newer_run_takes_the_place_of_an_older_one(folder: Path, tmp_path: Path) -> None:
    leaderboards.add([run_of("ce_digits", tmp_path / "more", samples=40)], folder)
    rows = rows_in(folder / "digits_Linf_0.15.csv")
    assert {r["model"]: r["samples"] for r in rows} == {"ce_digits": "40", "pcl_at_digits": "30"}


def test_fewer_samples_do_not_replace_more(folder: Path, tmp_path: Path) -> None:
    leaderboards.add([run_of("ce_digits", tmp_path / "more", samples=40)], folder)
    before = (folder / "digits_Linf_0.15.csv").read_bytes()
    with pytest.raises(EvidenceError, match="with 40 samples, the run has 31"):
        leaderboards.add([run_of("ce_digits", tmp_path / "less", samples=31)], folder)
    assert (folder / "digits_Linf_0.15.csv").read_bytes() == before


def test_further_attacks_get_their_own_columns(folder: Path, tmp_path: Path) -> None:
    run = run_of("drp_digits", tmp_path / "one", sources=("ce_digits",))
    leaderboards.add([run], folder)
    rows = {r["model"]: r for r in rows_in(folder / "digits_Linf_0.15.csv")}
    assert rows["drp_digits"]["attack_transfer_ce_digits"] != ""
    assert rows["ce_digits"]["attack_transfer_ce_digits"] == ""
    assert [c.held for c in leaderboards.check(folder)] == [True, True]


def test_weaker_suites_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of the attacks, the same names with weaker parameters, or no look at masking."""
    run = run_of("drp_digits", tmp_path / "one", only=("fgsm",))
    refused(
        cli("leaderboard", "add", str(run), "--folder", str(folder)), "lacks gaussian_noise, pgd10"
    )
    suite = read_suite(leaderboards.REQUIRED)
    weaker = suite.attacks[1].model_copy(update={"parameters": {"steps": 1}})
    altered = suite.model_copy(update={"attacks": [suite.attacks[0], weaker, *suite.attacks[2:]]})
    threats = [ThreatModel(n, parse_eps("0.1")) for n in NORMS]
    assert leaderboards.lacking(altered, threats) == [weaker.name]
    assert leaderboards.lacking(suite, threats) == []
    monkeypatch.setattr(leaderboards, "REQUIRED", "full")
    assert leaderboards.lacking(unprobed("full"), threats) == ["diagnostics"]
    assert leaderboards.lacking(read_suite("full"), threats) == []


def test_few_samples_are_refused(tmp_path: Path) -> None:
    run = run_of("ce_digits", tmp_path, samples=20)
    refused(cli("leaderboard", "add", str(run), "--folder", str(tmp_path / "b")), "has 20 samples")


def test_another_model_of_the_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ce_digits", "pcl_digits"):
        shutil.copy(file_of(f"{name}.safetensors"), tmp_path)
    text = file_of("ce_digits.toml").read_text()
    entry = tmp_path / "mine.toml"
    entry.write_text(text.replace('name = "ce_digits"', 'name = "pcl_digits"'))
    run = run_of(str(entry), tmp_path / "runs")
    refused(
        cli("leaderboard", "add", str(run), "--folder", str(tmp_path / "b")), "another pcl_digits"
    )
    entry.write_text(text.replace('name = "ce_digits"', 'name = "nobody"'))
    run = run_of(str(entry), tmp_path / "runs")
    refused(
        cli("leaderboard", "add", str(run), "--folder", str(tmp_path / "b")), "not in the registry"
    )


def test_what_is_incomplete_is_refused(tmp_path: Path) -> None:
    run = run_of("ce_digits", tmp_path, time_limit=1e-9)
    refused(cli("leaderboard", "add", str(run), "--folder", str(tmp_path / "b")), "incomplete")
    assert not (tmp_path / "b").exists()


def test_what_does_not_verify_is_refused(runs: list[Path], tmp_path: Path) -> None:
    run = tmp_path / runs[0].name
    shutil.copytree(runs[0], run)
    (run / "report.md").write_text("All is well.")
    result = cli("leaderboard", "add", str(runs[1]), str(run), "--folder", str(tmp_path / "b"))
    refused(result, "does not verify", "report files", "write it anew with `robusteval report")
    assert not (tmp_path / "b").exists()


def test_a_model_without_an_entry_is_refused(tmp_path: Path) -> None:
    model = api.load_model("ce_digits")
    options = api.Options(samples=10, out=tmp_path)
    run = api.evaluate(model, "quick", dataset="digits", name="mine", options=options).folder
    with pytest.raises(EvidenceError, match="without an entry"):
        leaderboards.add([run], tmp_path / "b")


def test_checking(folder: Path) -> None:
    result = cli("leaderboard", "check", "--folder", str(folder))
    assert result.exit_code == 0
    assert all(name in result.stdout for name in NAMES)
    assert "other attacks" not in result.stdout


def test_a_board_without_rows_does_not_hold(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(EvidenceError, match="no leaderboards in"):
        leaderboards.check(tmp_path)
    head, *_ = (folder / NAME).read_text().splitlines()
    (tmp_path / NAME).write_text(head + "\n")
    (check,) = leaderboards.check(tmp_path)
    assert not check.held
    assert "holds no row" in check.told


def test_findings_stand_beside_the_numbers() -> None:
    here, there = ThreatModel("L2", Fraction(1, 2)), ThreatModel("Linf", Fraction(1, 2))
    found = [
        Finding("b", "suspicious", ""),
        Finding("a", "ok", ""),
        Finding("c", "broken", "", threat=here),
        Finding("d", "suspicious", "", threat=there),
        Finding("e", "suspicious", "", threat=here),
    ]

    def doubts(threat: ThreatModel, *findings: Finding) -> str:
        return rows.doubts([f.to_json() for f in findings], threat.to_json())

    assert doubts(here, *found) == "broken: c; suspicious: b, e"
    assert doubts(there, *found) == "suspicious: b, d"
    assert doubts(here, found[1]) == ""


def test_checking_tells_of_rows_by_earlier_attacks(folder: Path) -> None:
    """They hold: what they say was so.  Whoever reads them may want to run the new ones."""
    now = find("robusteval", "gaussian_noise")
    with OWN.having("gaussian_noise", replace(now, version=now.version + 1)):
        checks = leaderboards.check(folder)
    assert not any("by other attacks" in check.told for check in leaderboards.check(folder))
    assert all(check.held for check in checks)
    assert all("of them by other attacks than this version's" in check.told for check in checks)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("worst_case", "99.99", "not 0 of 30"),
        ("clean", "99.99", "not a share of 30"),
        ("clean", "nan", "clean of nan is not a share"),
        ("attack_pgd10", "99.00", "not a share of 30"),
        ("attack_pgd10", "inf", "inf is not a share"),
        ("attack_gaussian_noise", "0.00", "its strongest attack"),
        ("strongest_attack", "gaussian_noise", "its strongest attack"),
        ("method", "=HYPERLINK(0)", "its method"),
        ("training", "PGD at 0.3", "its training"),
        ("claimed", "88", "its claimed"),
        ("claimed_by", "pgd", "its claimed_by"),
        ("run", "", "its run"),
        ("evidence_sha256", "", "its evidence_sha256"),
        ("seed", "", "its seed is '', no count"),
        ("suite", "", "suite or versions"),
        ("norm", "L2", "belongs on digits_L2_0.15.csv"),
        ("eps", "0.3", "belongs on digits_Linf_0.3.csv"),
        ("dataset", "mnist", "belongs on mnist"),
        ("status", "incomplete", "not complete"),
        ("samples", "0", "no samples"),
        ("samples", "+30", "'+30', no count"),
        ("samples", "3_0", "'3_0', no count"),
        ("findings", "broken: unchanged model; suspicious: wobble", "can't be trusted (unchanged"),
        ("findings", "broken: gradients, same outputs", "trusted (gradients, same outputs)"),
        ("worst_case_low", "1.00", "interval is not"),
        ("robust_samples", "many", "many"),
        ("attack_fgsm", "0.00", "above one of its attacks"),
        ("rank", "1", "ranks"),
        ("model", "nobody", "not in the registry"),
        ("weights_sha256", "0" * 64, "changed since the run"),
        ("entry_sha256", "0" * 64, "changed since the run"),
        ("model", "pcl_at_digits", "twice"),
    ],
)
def test_an_altered_leaderboard_does_not_hold(
    folder: Path, column: str, value: str, said: str
) -> None:
    path = folder / "digits_Linf_0.15.csv"
    rows = rows_in(path)
    at = 0 if column == "attack_fgsm" else 1
    if said == "not 0 of 30":
        said = f"not {rows[at]['robust_samples']} of 30"
    rows[at][column] = value
    path.write_text(board.as_csv(rows))
    result = cli("leaderboard", "check", "--folder", str(folder))
    assert result.exit_code == 1
    assert said in " ".join(result.stdout.split())


def test_what_is_no_leaderboard(tmp_path: Path) -> None:
    refused(cli("leaderboard", "check", "--folder", str(tmp_path)), "no leaderboards in")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    refused(cli("leaderboard", "check", "--folder", str(tmp_path)), "lacks rank")
    (tmp_path / "x.csv").write_text(",".join((*board.RANK, *rows.FOUND, *rows.BACKING)) + "\n1,2\n")
    refused(cli("leaderboard", "check", "--folder", str(tmp_path)), "fewer cells")


def test_equal_worst_cases_share_a_place() -> None:
    rows = [{"robust_samples": str(k), "samples": "10"} for k in (9, 5, 5, 0)]
    assert board.ranks(rows) == [1, 2, 2, 4]


def alter(path: Path, **cells: str) -> None:
    """Other cells in the first row."""
    rows = rows_in(path)
    rows[0] |= cells
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"rank": "x"}, "its rank is 'x'"),
        ({"attack_fgsm": ""}, "lacks fgsm"),
        ({"samples": "10", "robust_samples": "8"}, "10 samples are too few"),
    ],
)
def test_rows_that_promise_too_little(folder: Path, cells: dict[str, str], said: str) -> None:
    alter(folder / "digits_Linf_0.15.csv", **cells)
    told = {c.name: c for c in leaderboards.check(folder)}["digits_Linf_0.15.csv"]
    assert not told.held
    assert said in told.told


def test_a_worst_case_has_a_lower_bound(folder: Path) -> None:
    """Attacks that break nothing each break nothing together."""
    (row, *_) = rows_in(folder / NAME)
    unbroken = {name: row["clean"] for name in row if name.startswith("attack_") and row[name]}
    none = {"robust_samples": "0", "worst_case": "0.00", "worst_case_low": "0.00"}
    alter(folder / NAME, **unbroken, **none, worst_case_high="11.35")
    told = {c.name: c for c in leaderboards.check(folder)}[NAME]
    assert "below what its attacks together can explain" in told.told
    assert "interval is not" not in told.told


def test_rows_of_another_data_set_than_the_models(folder: Path, runs: list[Path]) -> None:
    """A board moved to another data set's name, and an entry that names another one."""
    rows = [{**row, "dataset": "mnist"} for row in rows_in(folder / NAME)]
    (folder / "mnist_Linf_0.15.csv").write_text(board.as_csv(rows))
    told = {c.name: c for c in leaderboards.check(folder)}["mnist_Linf_0.15.csv"]
    assert "its dataset is not its entry's" in told.told


def test_a_run_on_another_data_set_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(file_of("ce_digits.safetensors"), tmp_path)
    text = file_of("ce_digits.toml").read_text()
    entry = tmp_path / "mine.toml"
    entry.write_text(text.replace('name = "ce_digits"', 'name = "mine"'))
    run = run_of(str(entry), tmp_path / "runs")
    monkeypatch.setenv("ROBUSTEVAL_MODELS", str(tmp_path))
    entry.write_text(entry.read_text().replace('dataset = "digits"', 'dataset = "mnist"'))
    refused(
        cli("leaderboard", "add", str(run), "--folder", str(tmp_path / "b")),
        "is on digits, mine belongs to mnist",
    )


def test_what_check_would_reject_is_not_added(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "problems", lambda *_: ["ce_digits: it is odd"])
    refused(
        cli("leaderboard", "add", str(runs[0]), "--folder", str(tmp_path / "b")),
        f"{runs[0].name} can't be published: ce_digits: it is odd",
    )
    assert not (tmp_path / "b").exists()


def test_numbers_that_cannot_be_trusted_are_not_added(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaderboards, "broken", lambda _: ["unchanged model"])
    refused(
        cli("leaderboard", "add", str(runs[0]), "--folder", str(tmp_path / "b")),
        f"{runs[0].name} can't be published",
        "can't be trusted (unchanged model)",
    )


def test_nothing_is_added_to_a_damaged_board(folder: Path, runs: list[Path]) -> None:
    alter(folder / "digits_Linf_0.15.csv", rank="x")
    refused(cli("leaderboard", "add", str(runs[0]), "--folder", str(folder)), "not a number")


def test_every_trained_model_is_published_in_both_norms() -> None:
    """By its weights as they are: on its own data set's boards, or in a paper's tables."""
    in_tables = reproduced()
    rows_of = {path.name: board.read_board(path) for path in (ROOT / "leaderboards").glob("*.csv")}
    for entry in all_entries():
        assert isinstance(entry, Entry)
        if entry.weights is None or entry.weights.sha256 in in_tables.get(entry.name, ()):
            continue
        for norm in NORMS:
            threat = DATASETS.get(entry.dataset).default_threat(norm)
            told = {"dataset": entry.dataset, "norm": threat.norm, "eps": threat.eps_text}
            published = {row["model"]: row for row in rows_of[board.file_name(told)]}
            assert published[entry.name]["weights_sha256"] == entry.weights.sha256
