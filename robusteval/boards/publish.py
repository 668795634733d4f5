"""``robusteval leaderboard``: runs that verify become rows; published rows are checked."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from robusteval import api
from robusteval.attacks.registry import find
from robusteval.boards import board
from robusteval.boards.revisions import EARLIER, Present, other_attacks
from robusteval.boards.scrutiny import REQUIRED, claim_of, model_of, uncountable
from robusteval.data.known import DATASETS
from robusteval.data.locate import data_root
from robusteval.errors import EvidenceError, RobustevalError, UnknownNameError
from robusteval.evidence.located import files_at
from robusteval.evidence.record import open_store
from robusteval.evidence.results import load_result
from robusteval.models.entry import Entry
from robusteval.models.registry import find_entry, readable_entries
from robusteval.places import Place
from robusteval.plan.spec import RunSpec
from robusteval.plan.suite import STATIC, Suite, read_suite
from robusteval.report.files import write_table
from robusteval.report.rows import ATTACK, Row, broken, rows_of
from robusteval.report.summary import summarise
from robusteval.storage import LEADERBOARDS, locked, reason, require_writable
from robusteval.trust.verify import Check
from robusteval.types import ThreatModel

# Samples of a published run, or the whole split where that is smaller.
FEWEST, FEWEST_GREY = 500, 1000  # one channel is cheap
_PATIENCE = 60.0  # seconds for another process to write its boards
_ADVICE = "choose another with --folder"
_MOST, _LONGEST = 5, 200  # problems of a board that are told, and characters of each
LIMITS = (
    "What holds here is form and agreement: whoever writes rows and digests anew can make them "
    "fit; a board's earlier state passes, too, and one that is gone is not missed. A row is proven "
    "by its run alone: `robusteval verify RUN --again 1`."
)


def add(
    runs: Sequence[Place],
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
    require_writable(folder, _ADVICE, make=False)  # told before runs are verified: that takes long
    data_root(data_dir)
    for run in runs:
        _require_open_boards(run, folder)
    new = [row for run in runs for row in _rows(run, data_dir, allow_code, again, device)]
    require_writable(folder, _ADVICE)
    with locked(folder, _busy(folder), patience=_PATIENCE):
        return _add(new, folder)


def _add(new: Sequence[Row], folder: Path) -> list[Path]:
    """Reads, merges and writes the boards that rows belong on."""
    boards: dict[Path, list[Row]] = {}
    for row in new:
        path = folder / board.file_name(row)
        boards[path] = board.merged(boards.get(path) or _sound_board(path), row)
    for path, rows in boards.items():
        write_table(path, board.as_csv(rows))
    return list(boards)


def _sound_board(path: Path) -> list[Row]:
    rows = board.read_board(path)
    board.require_sound(path, rows)
    return rows


def retell(folder: Path) -> list[Path]:
    """Writes anew what entries claim, in rows of models that are their entries' still; the files
    that changed.

    A claim is a paper's, not a run's: where an entry tells it otherwise today, nothing has to run.
    Raises EvidenceError where there are none, or one can't be read or is not sound.
    """
    paths = _boards_in(folder)
    require_writable(folder, _ADVICE, make=False)
    entries = _entries()
    changed = []
    with locked(folder, _busy(folder), patience=_PATIENCE):
        for path in paths:
            rows = _sound_board(path)
            told = [_retold(row, entries.get(row["model"])) for row in rows]
            if told != rows:
                write_table(path, board.as_csv(told))
                changed.append(path)
    return changed


def _retold(row: Row, entry: Entry | None) -> Row:
    if entry is None or row["entry_sha256"] != entry.digest:
        return row
    return row | claim_of(entry, row)


def _busy(folder: Path) -> EvidenceError:
    return EvidenceError(f"another process writes leaderboards in {folder}: wait for it")


def _require_open_boards(run: Place, folder: Path) -> None:
    """Raises EvidenceError, before a run is verified, for a board that it can't be added to."""
    _, spec, _ = open_store(files_at(run))
    for threat in spec.threat_models():
        named = {"dataset": spec.dataset, "norm": threat.norm, "eps": threat.eps_text}
        _sound_board(folder / board.file_name(named))


def _rows(
    run: Place, data_dir: Path | None, allow_code: bool, again: int, device: str | None
) -> list[Row]:
    _, spec, record = open_store(files_at(run))
    _require_registered(run, spec, bool(record["entry"]))
    report = summarise(load_result(files_at(run)))
    _require_enough(run, spec)
    if report["status"] != "complete" or not all(w["complete"] for w in report["worst_case"]):
        raise EvidenceError(f"{run} is incomplete: finish it with the command that began it")
    checks = api.verify(run, None, data_dir, allow_code, again, device)
    if failed := [check.name for check in checks if not check.held]:
        only_report = failed == [api.REPORT_FILES]
        mend = f"write it anew with `robusteval report {run}`" if only_report else "run it anew"
        raise EvidenceError(f"{run} does not verify ({', '.join(failed)}): {mend}")
    rows = rows_of(report)
    _require_sound(run, rows)
    return rows


def _require_sound(run: Place, rows: Sequence[Row]) -> None:
    """Raises EvidenceError for a row that ``check`` would not let stand."""
    entries = _entries()
    present = Present(entries)
    for row in rows:
        alone = [{**row, "rank": "1"}]
        if wrong := [
            *board.problems(board.file_name(row), alone, entries),
            *_unfit(alone, present),
        ]:
            raise EvidenceError(f"{run} can't be published: {'; '.join(wrong)}")


def _entries() -> dict[str, Entry]:
    return {entry.name: entry for entry in readable_entries()}


def _require_registered(run: Place, spec: RunSpec, has_entry: bool) -> None:
    """Raises EvidenceError unless the run's model is the registry's of that name."""
    if not has_entry:
        raise EvidenceError(f"{run} is of a model without an entry: only those can be looked up")
    try:
        entry = find_entry(spec.model)
    except UnknownNameError:
        raise EvidenceError(
            f"{run} is of {spec.model}, which is not in the registry: put its entry there"
        ) from None
    if spec.own_data:
        raise EvidenceError(
            f"{run} is on data of your own: a leaderboard takes runs on known data sets"
        )
    if spec.chosen != "balanced":
        raise EvidenceError(
            f"{run} is on samples that were chosen one by one: a leaderboard takes class-balanced "
            "ones, as --samples NUMBER takes them"
        )
    if entry.dataset != spec.dataset:
        raise EvidenceError(
            f"{run} is on {spec.dataset}, {spec.model} belongs to {entry.dataset}: run it on that"
        )
    if entry.digest != spec.model_digest:
        raise EvidenceError(
            f"{run} is of another {spec.model} than {entry.path}: run that one, or rename yours"
        )


def _require_enough(run: Place, spec: RunSpec) -> None:
    """Raises EvidenceError where rows would not be comparable."""
    if spec.budget and (names := [*spec.budget.attacks, *spec.budget.parts]):
        raise EvidenceError(
            f"{run} was cut to a budget, for which {', '.join(names)} were left out: a leaderboard "
            "takes whole runs; run it without --budget"
        )
    missing = lacking(spec.suite, spec.threat_models())
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
    """Each leaderboard of a folder: its seal, numbers, ranks, attacks, and the registry's entries.

    Without such a folder, those that came with the project.  Raises EvidenceError if there is none,
    or none that can be read.  See ``LIMITS`` for what this can't tell.
    """
    boards, unread = _read(_files_in(folder))
    entries = _entries()
    present = Present(entries)
    others: dict[str, list[str]] = {}
    for name, problem in board.disagreements(boards):
        others.setdefault(name, []).append(problem)
    checks = [Check(name, False, str(error)) for name, error in unread.items()]
    for name, rows in boards.items():
        wrong = [] if rows else ["it holds no row: restore it, or remove it"]
        wrong += [*board.unsealed(rows), *board.problems(name, rows, entries)]
        wrong += [*_unfit(rows, present), *others.get(name, ())]
        checks.append(Check(name, not wrong, _few(wrong) or _told(rows, present)))
    return sorted(checks, key=lambda one: one.name)


def _files_in(folder: Path) -> list[Path]:
    """Boards' files, in order; of the wheel where nothing stands in the usual place."""
    if folder == LEADERBOARDS and not folder.exists():
        folder = packaged() or folder
    return _boards_in(folder)


def _boards_in(folder: Path) -> list[Path]:
    """Boards' files, in order.  Raises EvidenceError where there are none."""
    try:
        paths = sorted(path for path in folder.glob("*.csv") if not path.is_dir())
    except (OSError, ValueError) as error:
        raise EvidenceError(f"folder {folder} can't be read ({reason(error)})") from None
    if not paths:
        raise EvidenceError(f"no leaderboards in {folder}: name their folder with --folder")
    return paths


def _read(paths: Sequence[Path]) -> tuple[dict[str, list[Row]], dict[str, EvidenceError]]:
    """Rows by file name, and what is wrong with files that can't be read, unless it is all."""
    boards: dict[str, list[Row]] = {}
    unread: dict[str, EvidenceError] = {}
    for path in paths:
        try:
            boards[path.name] = board.read_board(path)
        except EvidenceError as error:
            unread[path.name] = error
    if not boards:
        raise next(iter(unread.values()))
    return boards, unread


def _few(problems: Sequence[str]) -> str:
    """The first problems, and how many more there are."""
    told = [one if len(one) <= _LONGEST else f"{one[: _LONGEST - 1]}…" for one in problems[:_MOST]]
    more = len(problems) - _MOST
    return "; ".join([*told, *[f"and {more} more"] * (more > 0)])


def packaged() -> Path | None:
    """The leaderboards inside the wheel, if this is one."""
    inside = Path(__file__).parent.parent / "_leaderboards"
    return inside if inside.is_dir() else None


def _unfit(rows: Sequence[Row], present: Present) -> Iterable[str]:
    """Where ``add`` would not have taken a row: for its samples, its attacks or its findings."""
    suite = present.suite(REQUIRED)
    for row in rows:
        if refused := broken(row):
            yield f"{model_of(row)}: its numbers can't be trusted ({', '.join(refused)})"
        entry = present.entries.get(row["model"])
        if entry is None or [*uncountable(row)]:
            continue  # told already
        if int(row["samples"]) < fewest(entry.dataset):
            yield f"{row['model']}: {row['samples']} samples are too few"
        if "suite" in present.earlier(row):
            continue  # an earlier revision, which may have had other attacks
        due = _due(suite, row["norm"], entry)
        if missing := [name for name in due if not row.get(ATTACK + name)]:
            yield f"{row['model']}: lacks {', '.join(missing)}"
        if row["suite"] == suite.name and (others := _others(row, due)):
            yield f"{row['model']}: {', '.join(others)} is none of {suite.name}'s attacks"


def _others(row: Row, due: Sequence[str]) -> list[str]:
    """Attacks of a row beside those of its suite, and transfers, which are asked for by name."""
    made = [name.removeprefix(ATTACK) for name in row if name.startswith(ATTACK) and row[name]]
    return [name for name in made if name not in due and not name.startswith(("transfer_", STATIC))]


def _due(suite: Suite, norm: str, entry: Entry) -> list[str]:
    """Names of the attacks that a row of that norm must hold."""
    has_prototypes = entry.backbone is not None and bool(entry.head.layers)
    return [
        attack.name
        for attack in suite.attacks
        if norm in attack.norms
        and (has_prototypes or not find(attack.library, attack.attack).needs.prototypes)
    ]


def _told(rows: list[Row], present: Present) -> str:
    """How many models there are, and how many of them would be made otherwise today."""
    full = present.suite(REQUIRED)
    parts = {
        "by other attacks than this version's": [r for r in rows if other_attacks(r, full)],
        "under a suite that is not the project's": [
            r for r in rows if r["suite"] not in present.suites
        ],
    }
    parts |= {how: [r for r in rows if p in present.earlier(r)] for p, how in EARLIER.items()}
    told = [f"{len(some)} of them {how}" for how, some in parts.items() if some]
    return ", ".join([f"{len(rows)} model{'s' * (len(rows) > 1)}", *told])
