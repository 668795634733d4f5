"""``robusteval leaderboard``: runs that verify become rows; published rows are checked."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from robusteval import api
from robusteval.attacks.code import attacks_digest
from robusteval.attacks.registry import NEEDS_PROTOTYPES
from robusteval.data.known import DATASETS
from robusteval.data.locate import data_root
from robusteval.errors import EvidenceError, RobustevalError, UnknownNameError
from robusteval.evaluation.outcomes import load_result
from robusteval.evaluation.plan import RunSpec
from robusteval.evaluation.proof import Check
from robusteval.evaluation.record import open_store
from robusteval.evaluation.suite import Suite, read_suite
from robusteval.models.entry import Entry, find_entry, readable_entries
from robusteval.report import board
from robusteval.report.files import write_table
from robusteval.report.rows import ATTACK, Row, broken, rows_of
from robusteval.report.summary import summarise
from robusteval.storage import LEADERBOARDS, require_writable
from robusteval.types import ThreatModel

REQUIRED = "full"  # the suite whose attacks a published run must have made
# Samples of a published run, or the whole split where that is smaller.
FEWEST, FEWEST_GREY = 500, 1000  # one channel is cheap


def add(
    runs: Sequence[Path],
    folder: Path,
    data_dir: Path | None = None,
    allow_code: bool = False,
    again: int = 1,
    device: str | None = None,
) -> list[Path]:
    """Puts each run's model on the leaderboards of its threat models; the files that changed.

    Every run is verified afresh before the first row is written, with ``again`` of its jobs,
    chosen at random, done once more.  Raises EvidenceError for a run that is incomplete, does not
    verify, has a finding that is broken, lacks samples, or attacks or diagnostics of the suite
    ``full``, is of another model than the registry's of that name, or has a row that ``check``
    would not let stand.
    """
    if again < 1:
        raise RobustevalError(f"--again {again}: choose 1 or more")
    if folder.exists():  # told before runs are verified, which takes long
        require_writable(folder, "choose another with --folder")
    data_root(data_dir)
    new = [row for run in runs for row in _rows(run, data_dir, allow_code, again, device)]
    boards: dict[str, list[Row]] = {}
    for row in new:
        name = board.file_name(row)
        rows = boards[name] if name in boards else board.read_board(folder / name)
        boards[name] = board.merged(rows, row)
    require_writable(folder, "choose another with --folder")
    for name, rows in boards.items():
        write_table(folder / name, board.as_csv(rows))
    return [folder / name for name in boards]


def _rows(
    run: Path, data_dir: Path | None, allow_code: bool, again: int, device: str | None
) -> list[Row]:
    _, spec, record = open_store(run)
    _require_registered(run, spec, bool(record["entry"]))
    report = summarise(load_result(run))
    if report["status"] != "complete" or not all(w["complete"] for w in report["worst_case"]):
        raise EvidenceError(f"{run} is incomplete: finish it with the command that began it")
    _require_enough(run, spec)
    checks = api.verify(run, None, data_dir, allow_code, again, device)
    if failed := [check.name for check in checks if not check.held]:
        only_report = failed == [api.REPORT_FILES]
        mend = f"write it anew with `robusteval report {run}`" if only_report else "run it anew"
        raise EvidenceError(f"{run} does not verify ({', '.join(failed)}): {mend}")
    rows = rows_of(report)
    _require_sound(run, rows)
    return rows


def _require_sound(run: Path, rows: Sequence[Row]) -> None:
    """Raises EvidenceError for a row that ``check`` would not let stand."""
    entries = _entries()
    for row in rows:
        alone = [{**row, "rank": "1"}]
        if wrong := [
            *board.problems(board.file_name(row), alone, entries),
            *_unfit(alone, entries),
        ]:
            raise EvidenceError(f"{run} can't be published: {'; '.join(wrong)}")


def _entries() -> dict[str, Entry]:
    return {entry.name: entry for entry in readable_entries()}


def _require_registered(run: Path, spec: RunSpec, has_entry: bool) -> None:
    """Raises EvidenceError unless the run's model is the registry's of that name."""
    if not has_entry:
        raise EvidenceError(f"{run} is of a model without an entry: only those can be looked up")
    try:
        entry = find_entry(spec.model)
    except UnknownNameError:
        raise EvidenceError(
            f"{run} is of {spec.model}, which is not in the registry: put its entry there"
        ) from None
    if entry.dataset != spec.dataset:
        raise EvidenceError(
            f"{run} is on {spec.dataset}, {spec.model} belongs to {entry.dataset}: run it on that"
        )
    if entry.digest != spec.model_digest:
        raise EvidenceError(
            f"{run} is of another {spec.model} than {entry.path}: run that one, or rename yours"
        )


def _require_enough(run: Path, spec: RunSpec) -> None:
    """Raises EvidenceError where rows would not be comparable."""
    missing = lacking(Suite(**spec.suite), spec.threat_models())
    if missing:
        raise EvidenceError(
            f"{run} lacks {', '.join(missing)} as the suite {REQUIRED} has them: a leaderboard "
            f"takes runs with all that it has; run it with --suite {REQUIRED}"
        )
    least = fewest(spec.dataset)
    if spec.samples < least:
        raise EvidenceError(
            f"{run} has {spec.samples} samples: a leaderboard of {spec.dataset} takes {least} or "
            "more"
        )


def fewest(dataset: str) -> int:
    """Samples that a leaderboard of that data set asks for: no more than its test split has."""
    info = DATASETS.get(dataset)
    return min(FEWEST_GREY if info.shape.channels == 1 else FEWEST, info.test_samples)


def lacking(suite: Suite, threats: Sequence[ThreatModel]) -> list[str]:
    """Attacks of the required suite that ``suite`` has not, or not so, in the threats' norms, and
    its diagnostics, if they probe fewer samples."""
    required, norms = read_suite(REQUIRED), {threat.norm for threat in threats}
    has = {spec.name: spec for spec in suite.attacks}
    attacks = [
        wanted.name
        for wanted in required.attacks
        if norms & set(wanted.norms) and has.get(wanted.name) != wanted
    ]
    probes_fewer = suite.diagnostics.samples < required.diagnostics.samples
    return [*attacks, *["diagnostics"] * probes_fewer]


def check(folder: Path) -> list[Check]:
    """Each leaderboard of a folder: its numbers, ranks, attacks, and the registry's entries.

    Without such a folder, those that came with the project.  Raises EvidenceError if there is none.
    """
    if not folder.exists() and folder == LEADERBOARDS:
        folder = packaged() or folder
    paths = sorted(path for path in folder.glob("*.csv") if path.is_file())
    if not paths:
        raise EvidenceError(f"no leaderboards in {folder}: name their folder with --folder")
    entries = _entries()
    checks = []
    for path in paths:
        rows = board.read_board(path)
        wrong = [] if rows else ["it holds no row: restore it, or remove it"]
        wrong += [*board.problems(path.name, rows, entries), *_unfit(rows, entries)]
        checks.append(Check(path.name, not wrong, "; ".join(wrong) or _told(rows)))
    return checks


def packaged() -> Path | None:
    """The leaderboards inside the wheel, if this is one."""
    inside = Path(__file__).parent / "_leaderboards"
    return inside if inside.is_dir() else None


def _unfit(rows: Sequence[Row], entries: dict[str, Entry]) -> Iterable[str]:
    """Where ``add`` would not have taken a row: for its samples, its attacks or its findings."""
    suite = read_suite(REQUIRED)
    for row in rows:
        if refused := broken(row):
            yield f"{row['model']}: its numbers can't be trusted ({', '.join(refused)})"
        entry = entries.get(row["model"])
        if entry is None or not row["samples"].isdecimal():
            continue  # told already
        if int(row["samples"]) < fewest(entry.dataset):
            yield f"{row['model']}: {row['samples']} samples are too few"
        missing = [n for n in _due(suite, row["norm"], entry) if not row.get(ATTACK + n)]
        if missing:
            yield f"{row['model']}: lacks {', '.join(missing)}"


def _due(suite: Suite, norm: str, entry: Entry) -> list[str]:
    """Names of the attacks that a row of that norm must hold."""
    has_prototypes = entry.backbone is not None and bool(entry.head.layers)
    return [
        attack.name
        for attack in suite.attacks
        if norm in attack.norms and (has_prototypes or attack.attack not in NEEDS_PROTOTYPES)
    ]


def _told(rows: list[Row]) -> str:
    """How many models there are, and how many of them other code of ours attacked."""
    ours = f"attacks={attacks_digest()}"
    earlier = sum(ours not in row["versions"].split() for row in rows)
    told = f"{len(rows)} model{'s' * (len(rows) > 1)}"
    return f"{told}, {earlier} of them by other attacks than this version's" if earlier else told
