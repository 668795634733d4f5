"""What has changed since a row was made: it is held to what was so then, and marked."""

from collections.abc import Mapping

from robusteval.attacks.registry import find
from robusteval.attacks.versions import others
from robusteval.models.entry import Entry
from robusteval.plan.suite import Suite, read_suite, suite_names
from robusteval.report.rows import COLUMNS, Row, attack_versions, revisions

EARLIER = {
    "columns": "with earlier columns",
    "entry": "of an earlier entry",
    "suite": "under an earlier suite",
}


class Present:
    """What the registry and the project's suites are now."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = entries
        self.suites = {name: read_suite(name) for name in suite_names()}

    def suite(self, name: str) -> Suite:
        """One of these, or any other by its path."""
        return self.suites[name] if name in self.suites else read_suite(name)

    def earlier(self, row: Row) -> set[str]:
        """Which parts, of ``EARLIER``, have had a later revision since the row was made."""
        then, now = revisions(row), {"columns": COLUMNS}
        if (entry := self.entries.get(row["model"])) is not None:
            now["entry"] = entry.revision
        if (suite := self.suites.get(row["suite"])) is not None:
            now["suite"] = suite.revision
        return {part for part, revision in now.items() if then.get(part, 1) < revision}


def other_attacks(row: Row, suite: Suite) -> list[str]:
    """Names of a suite's attacks that this version has other versions of than the row's run had."""
    now = {attack.name: find(attack.library, attack.attack) for attack in suite.attacks}
    return others(attack_versions(row), now)
