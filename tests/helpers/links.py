"""Links of the documents, as GitHub and the site resolve them."""

import re
from pathlib import Path

_FENCED = re.compile(r"^\s*(```+|~~~+).*?^\s*\1\s*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?:\]\(|<img src=\")([^)\s\"]+)")
_HEAD = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


def broken_links(page: Path) -> list[str]:
    """Links to files that aren't there, and to headings that their page doesn't have."""
    return [link for link in _LINK.findall(_prose(page)) if not _leads(page, link)]


def _leads(page: Path, link: str) -> bool:
    if re.match(r"[a-z]+:", link):
        return True  # elsewhere, which no test can reach
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    if not target.is_file():
        return False
    return not anchor or anchor in anchors_of(target)


def anchors_of(page: Path) -> set[str]:
    """A heading's letters in small, spaces as hyphens; a second one of that name counts on."""
    found: set[str] = set()
    for heading in _HEAD.findall(_prose(page)):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        same = sum(one == slug or re.fullmatch(rf"{slug}-\d+", one) is not None for one in found)
        found.add(f"{slug}-{same}" if same else slug)
    return found


def _prose(page: Path) -> str:
    return _FENCED.sub("", page.read_text("utf-8"))
