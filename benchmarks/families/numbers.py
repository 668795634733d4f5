"""Numbers that are none, or that no computation can take, in every place that takes a number."""

import json
import random
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from benchmarks.families.made import MODEL, TINY, Made
from benchmarks.trials import EITHER, REFUSED, TAKEN, Case, call, command, shown

# No ε in any norm: not a number, not above 0, or beyond what a float can tell from 0 or infinity.
NONE = (
    *("1e9999999999", "-1e9999999999", "1e99999999999999999999", "1e400", "1e-400", "1E+999999999"),
    *("1e-9999999999", "1e-99999999999999999999", "0e9999999999", "1e" + "9" * 5000),
    *("9" * 5000, "-" + "9" * 5000, "1/" + "9" * 5000, "9" * 5000 + "/1", "9" * 200_000),
    *("0." + "0" * 5000 + "1", "1" + "0" * 4299 + "/255", "1e-" + "9" * 5000),
    *("٣", "٣/٢٥٥", "８/255", "8/２55", "०.१", "¼", "½", "²", "Ⅷ", "一", "0.১", "1e-３"),
    *("", " ", ",", ",,", ";", "-", "+", ".", "/", "e", "e5", "1e", "1e+", "0x10", "0b1", "0o7"),
    *("nan", "NaN", "-nan", "inf", "-inf", "Infinity", "none", "None", "null", "true", "big"),
    *("1/0", "0/0", "8//255", "8/255/3", "8/-255", "-8/255", "8/0.5", "1/1e5"),
    *("0", "-0", "0.0", "0/255", "-1", "-0.1", "1,5", "0,1", "0.1.2", "{8/255}", "8/255%", "3%"),
    *("8/255;", "8/255)", "(8/255)", "$(8/255)", "0.1\0", "\0", "0.1\x1b[31m", "0.1\u202e"),
    *("8/255 Linf", "__eps__", "0.1\x1b]0;title\x07", "8\u2044255", "−1", "0.1\u200b", "$\\frac{$"),
)
# Above the whole range of pixels: no ε in L∞.
LARGE = ("2", "8", "255", "1.0001", "1e10", "1e308", "256/255")
# Written oddly, or so small that nothing can come of it: taken or refused.
ODD = (
    *("1_0/255", "0.1_5", "8/ 255", "8 /255", "8/255 ", " 8/255", "8/255\n", "\t0.1", "0.1\r"),
    *(".5", "1.", "+0.1", "1E-3", "4.9e-324", "1e-300", "0." + "1" * 5000, "1/" + "9" * 400),
)
GOOD = ("8/255", "0.15", "1e-3", "1", "1/3", "0.001", "255/255")
WITH_NORM = (
    *("Linf:", ":", "L3:0.1", "linf:0.1", "L1:1", "L2:", "L2:-1", "L2:nan", "L2:1e9999999999"),
    *("L2:L2:0.5", "Linf:0.1:0.2", "L0:1", "Linf:٣", "L2:1e-9999999999", "L2:0", "Linf:2"),
)
WITH_NORM_GOOD = ("L2:0.5", "Linf:8/255", "L2:1/2")
EPS = (*NONE, *LARGE, *ODD, *GOOD)


def right_of(text: str, in_l2: bool = False) -> frozenset[int]:
    """Whether an ε is to be taken."""
    if text in NONE or text in WITH_NORM or (text in LARGE and not in_l2):
        return REFUSED
    return TAKEN if text in GOOD or text in WITH_NORM_GOOD else EITHER


def _words(right: frozenset[int], *words: str) -> tuple[str, ...]:
    return words if right == REFUSED else ()


_DRY = ("run", "--model", "ce_digits", "--suite", "quick", "--samples", "4", "--dry-run")


def on_the_command_line(made: Made, rng: random.Random) -> Iterator[Case]:
    """``--eps``, alone, beside a good one, and after a comma; other options that are numbers."""
    for text in (*EPS, *WITH_NORM, *WITH_NORM_GOOD):
        right = right_of(text)
        empty = not re.sub(r"[,\s]", "", text)
        for told, given in (
            ("alone", ("--eps", text)),
            ("second", ("--eps", "8/255", text)),
            ("with =", (f"--eps={text}",)),
            ("after a comma", ("--eps", f"8/255,{text}")),
        ):
            loose = told in ("second", "after a comma") and (empty or right == TAKEN)
            loose |= "," in text and not empty  # 1,5 are two
            act = command(*_DRY, *given)
            here = EITHER if loose else right
            yield Case("numbers", f"--eps {told}: {shown(text)}", act, right=here)
    yield from _other_options()


_COUNTS = (
    *("0", "-1", "-0", "1.5", "1e3", "1e9999999999", "", " ", "٣", "３", "²", "1_0", "0x10", "nan"),
    *("inf", "true", "9" * 5000, "9" * 20, str(2**63), str(2**31), str(2**32), str(2**64), "many"),
    *(
        "+5",
        "5 ",
        "5\0",
        "5\x1b[1m",
        "--5",
        "5,6",
        "None",
        "１０",
        "5\n",
        "1e400",
        "-" + "9" * 5000,
    ),
)


def _other_options() -> Iterator[Case]:
    """Counts, seeds, seconds.  What is odd but can be read may be taken."""
    for option in ("--samples", "--seed", "--batch-size", "--workers", "--threads", "--time-limit"):
        for text in _COUNTS:
            lenient = re.fullmatch(r"\s*[+-]?[0-9][0-9_]*\s*", text) and text.strip() != "-1"
            seconds = option == "--time-limit" and text in ("1.5", "1e3", "1_0", "9" * 20)
            short = bool(lenient) and len(text) < 30
            digits = option != "--samples" and text in ("٣", "３", "１０")
            right = EITHER if short or seconds or digits else REFUSED
            if text == "0" and option != "--seed":
                right = REFUSED
            act = command(*_DRY, f"{option}={text}")
            yield Case("numbers", f"{option}={shown(text)}", act, right=right,
                       says=_words(right, option[2:]))  # fmt: skip


def of_lists(made: Made, rng: random.Random) -> Iterator[Case]:
    """An option that takes several, given none: it must not run everything."""
    for option in ("--only", "--eps", "--source", "--model", "--outlier-dir"):
        for text in ("", ",", " ", ",,,", " , ", "\t", "\n"):
            arguments = [*_DRY, option, text] if option != "--model" else [
                *("run", "--model", text, "--suite", "quick", "--samples", "4", "--dry-run")
            ]  # fmt: skip
            right = EITHER if option == "--outlier-dir" else REFUSED
            yield Case("numbers", f"{option} {text!r}", command(*arguments), right=right)
        bare = command(*_DRY[:1], *_DRY[3:], option)
        yield Case("numbers", f"{option} without a value", bare)


def in_toml(made: Made, rng: random.Random) -> Iterator[Case]:
    """In suites (threats, multiples of ε) and entries (claims, training)."""
    for text in EPS:
        quoted = json.dumps(text)
        for told, line, norm in (
            ("threats", f"threats = {{ Linf = [{quoted}] }}", "Linf"),
            ("threats of L2", f"threats = {{ L2 = [{quoted}] }}", "L2"),
            ("threats, second", f'threats = {{ Linf = ["8/510", {quoted}] }}', "Linf"),
        ):
            suite = TINY.replace("[[attacks]]", f"{line}\n\n[[attacks]]", 1)
            yield _suite(f"{told}: {shown(text)}", suite, right_of(text, norm == "L2"))
        share = TINY.replace('alpha = "1/4"', f"alpha = {quoted}")
        yield _suite(f"times_eps: {shown(text)}", share, right_of(text, True))
        yield from _entries(made, text, quoted)
    for number in ("0.15", "8", "true", "nan", "inf", "[0.1]", "{ a = 1 }", "1979-05-27"):
        suite = TINY.replace("[[attacks]]", f"threats = {{ Linf = [{number}] }}\n\n[[attacks]]", 1)
        right = EITHER if number == "0.15" else REFUSED
        yield _suite(f"threats: {number} without quotes", suite, right)


def _suite(told: str, text: str, right: frozenset[int]) -> Case:
    def lay() -> None:
        Path("given.toml").write_text(text, "utf-8")

    asked = ("run", "--model", "ce_digits", "--suite", "given.toml", "--samples", "4", "--dry-run")
    says = _words(right, "given.toml")
    return Case("numbers", f"suite's {told}", command(*asked), lay, right=right, says=says)


def _entries(made: Made, text: str, quoted: str) -> Iterator[Case]:
    places = {
        "claim's eps": (
            "[training]\n",
            f'[[claims]]\nattack = "x"\naccuracy = 50\nnorm = "L2"\neps = {quoted}\n[training]\n',
        ),
        "training's eps": ('eps = ["0.15", "0.15"]', f'eps = ["1e-9", {quoted}]'),
        "stopping_eps": ("seed = 0\n\n", f"seed = 0\nstopping_eps = {quoted}\n\n"),
    }
    entry = (made.folder / "models" / f"{MODEL}.toml").read_text("utf-8")
    for told, (old, new) in places.items():
        changed = entry.replace(old, new, 1)

        def lay(changed: str = changed) -> None:
            Path("given.toml").write_text(changed, "utf-8")

        right = right_of(text, "claim" in told)
        act = command("show", "given.toml")
        says = _words(right, "given.toml")
        yield Case("numbers", f"entry's {told}: {shown(text)}", act, lay, right, says)


def in_neighbours(made: Made, rng: random.Random) -> Iterator[Case]:
    """In the folder of another run under ``--out``: it says nothing of this one."""
    record = made.record
    for text in EPS:
        for told, threats in (
            ("threat", [["Linf", text]]),
            ("second threat", [["Linf", "0.15"], ["L2", text]]),
        ):
            record["spec"]["threats"] = threats
            content = json.dumps(record)

            def lay(content: str = content) -> None:
                made.lay_suite()
                folder = Path("runs/ce_digits-smallest-00000000")
                folder.mkdir(parents=True)
                (folder / "run.json").write_text(content, "utf-8")

            asked = ("run", "--model", "ce_digits", "--suite", "smallest.toml", "--samples", "4")
            act = command(*asked, "--dry-run")
            yield Case("numbers", f"neighbour's {told}: {shown(text)}", act, lay, right=TAKEN)


_OTHERS: tuple[Any, ...] = (
    *(True, False, None, float("nan"), float("inf"), -float("inf"), -1.0, 0, 0.0, Fraction(-1)),
    *([], {}, (), b"0.1", 1j, object, [0.1], {"Linf": 0.1}, 10**5000, Fraction(1, 10**5000)),
)
_NUMBERS = (0.1, 1, Fraction(1, 3), 8 / 255)


def from_python(made: Made, rng: random.Random) -> Iterator[Case]:
    """``parse_eps``, ``ThreatModel``, ``Options(eps=…)``."""
    for value in (*EPS, *_OTHERS, *_NUMBERS):
        for told, function in _takers(value):
            right = _right_of(value, told in ("parse_eps", "ThreatModel, L2"))
            if told == "Options" and isinstance(value, list | tuple | dict | type(None)):
                right = EITHER  # several, or none
            yield Case("numbers", f"{told}: {shown(value)}", call(function), right=right)


def _right_of(value: Any, in_l2: bool) -> frozenset[int]:
    if isinstance(value, str):
        return right_of(value, in_l2)
    return TAKEN if value in _NUMBERS and value is not True else REFUSED


def _takers(value: Any) -> Iterator[tuple[str, Callable[[], object]]]:
    from robusteval import api
    from robusteval.types import ThreatModel, parse_eps

    def options() -> object:
        return api.estimate("ce_digits", "quick", options=api.Options(samples=4, eps=value))

    yield "parse_eps", lambda: parse_eps(value)
    yield "ThreatModel", lambda: ThreatModel("Linf", value)
    yield "ThreatModel, L2", lambda: ThreatModel("L2", value)
    yield "Options", options
