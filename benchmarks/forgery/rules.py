"""What ``verify`` can't find, and what only ``verify --again`` can, each with its reason."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """What may pass, by place and by how it was changed, and why."""

    place: str
    how: str
    reason: str

    def fits(self, place: str, how: str) -> bool:
        return bool(re.fullmatch(self.place, place) and re.fullmatch(self.how, how))


MACHINE = "only the machine of the run knows it: checked for form, printed as the run says"
CHOICE = "the user's own words or choice: an honest run with it gives the same evidence"
KERNELS = "one sample, or 5 % of what is measured, may be other kernels' last bits"
UNFINISHED = "a run that did not finish, and says so: no number stands in its place"
# What can't be proven.
EXCEPTED = (
    Rule(r"run\.json:provenance\.(commit|hardware|date|dirty)", "another", MACHINE),
    Rule(r"run\.json:provenance\.commit", "a huge power", MACHINE),  # its digits are hexadecimal
    Rule(r"run\.json:spec\.code\..*", "another", MACHINE),
    Rule(r"run\.json:provenance\.(commit|dirty)", "empty|null", "there was no git"),
    Rule(r"run\.json:provenance\.hardware", "HTML|a huge power", MACHINE),
    Rule(
        r"run\.json:provenance\.versions\."
        r"(python|pyautoattack|pytorch-ood|scikit-learn|numpy|pandas)",
        "another|deleted|a huge power",
        MACHINE,
    ),
    Rule(r".*\.parquet#about\.seconds", "another|less|much more|of another type", MACHINE),
    Rule("run", "(another torch|other attacks|another version), in spec and record", MACHINE),
    Rule("run", "more threads, in spec and record", MACHINE),
    Rule(r"run\.json:spec\.suite\.(name|description)", ".*", CHOICE),
    Rule(r"run\.json:spec\.suite\.attacks\.\d+\.(name|title|note)", ".*", CHOICE),
    Rule(r"run\.json:spec\.suite\.detection\.natural", "another|much more|deleted", CHOICE),
    Rule(r"run\.json:spec\.suite\.detection\.sets", ".*", CHOICE),
    Rule(r"run\.json:spec\.time_limit", "a number", CHOICE),
    Rule(r"run\.json:spec\.(outliers|outlier_folders)", "an item more", UNFINISHED),
    Rule(
        r"run\.json:spec\.(time_limit|outlier_folders|device|threads|keep|forms|sources)"
        r"|run\.json:spec\.suite\.(description|threats)"
        r"|run\.json:spec\.suite\.attacks\.\d+\.(restarts|parameters|times_eps|note)",
        "deleted",
        "left out, it is read as what it was",
    ),
    Rule(
        r"diagnostics\.parquet#about\.told\.(gradients|logits|passes|attack|wobble|growth|noise|square"
        r"|transfer)\..*",
        "another|less",
        KERNELS,
    ),
    Rule(r".*", "the same as a float", "another writing of the same number"),
    Rule(
        r"run\.json:spec\.(threats\.\d\.1|suite\.attacks\.\d+\.times_eps\..*)",
        "with blanks",
        "another writing of the same number",
    ),
    Rule(r"run\.json:provenance\.hardware", "with blanks", MACHINE),
    Rule(r"(attack|outliers|diagnostics).*\.parquet", "deleted", UNFINISHED),
    Rule(
        r"(attack|outliers|diagnostics).*\.failed\.json",
        "said .*failed|said not to have finished|(HTML|control characters) as its reason",
        UNFINISHED,
    ),
    Rule(r".*\.failed\.json", "beside its rows", "a kill may leave it there; rows are what counts"),
    Rule(
        r"attack-.*\[sha256\]",
        "(reversed|another order), (other success|failure|every row, none kept)",
        "of an image that isn't stored: another machine's differs in last bits, and no number "
        "hangs on it",
    ),
    Rule(
        r"attack-.*_Linf_.*\[norm\]",
        "another order, every row, none kept",
        "every norm is ε, but for the last bits",
    ),
    Rule(
        r"attack-.*\.safetensors",
        "a pixel by one level",
        "an image that is adversarial in the ball proves its row, whoever made it",
    ),
)
GRADED = r"(one|a little|much) (more|less)|zero|flipped|reversed|another order"
UNKEPT = "other success|failure|every row, none kept"
TEXTS = "another|with blanks|HTML|empty|very long|control characters|a huge power"
LISTS = "an item more|the last .*|reversed|empty"
AGAIN = "what an attack did not break, and what it spent, only doing it again can show"
SETTING = "another setting by which the jobs, done again, find the same"
# What ``--again`` alone can find, and must.
BY_AGAIN = (
    Rule(r"attack-.*\[.*\]", f"({GRADED}), ({UNKEPT})", AGAIN),
    Rule(r"attack-.*\[(margin|score_.*)\]", f"negative, ({UNKEPT})", AGAIN),
    Rule(r"attack-.*\[(forward|backward)_passes\]", f"({GRADED}), .*", AGAIN),
    Rule(r"attack-.*#about\.told\.(stages|warned|notes|warned\.\d+\.stages)", LISTS, AGAIN),
    Rule(r"attack-.*#about\.told\.(notes|warned\.\d+\.stages)\.\d+", TEXTS, AGAIN),
    Rule(r"attack-.*#about\.told\.(stages\.\d+\.name|warned\.\d+\.(kind|text))", TEXTS, AGAIN),
    Rule(
        r"attack-.*#about\.told\.(stages\.\d+\.(broke|of)|warned\.\d+\.number)",
        "another|(much )?more|less|negative|of another type",
        AGAIN,
    ),
    Rule(r"attack-.*#about\.told\.(lost|drifted)", "another|much more", AGAIN),
    Rule(
        r"diagnostics\.parquet#about\.told\.(gradients|logits|passes|attack|wobble|growth|noise|square"
        r"|transfer)\..*",
        f"much more|of another type|{LISTS}",
        AGAIN,
    ),
    Rule(r"diagnostics\.parquet#about\.told\.transfer", "null", AGAIN),
    Rule("run", "successes hidden|one attack's successes hidden", AGAIN),
    Rule("run", "(margins of|another wrong class for) other successes.*", AGAIN),
    Rule("run", "a tenth of the passes|a million passes", AGAIN),
    Rule("run", "(stages|notes|warnings) of the forger's|models that drift", AGAIN),
    Rule("run", "told as by an earlier version, the run too", AGAIN),
    Rule("run", "better diagnostics, .*", AGAIN),
    Rule("attack-.* and attack-.*", ".* swapped", AGAIN),
)


# Settings under which ``--again`` may find the same, as an honest run by them then would.
SETTINGS = (
    Rule(r"run\.json:spec\.seed", "another|much more", SETTING),
    Rule(r"run\.json:spec\.transfer_source(\.\d)?", "another|empty", SETTING),
    Rule(r"run\.json:spec\.threats\.\d\.1", "another", SETTING),
    Rule(
        r"run\.json:spec\.suite\.attacks\.\d+\.(restarts|parameters|times_eps|attack)(\..*)?",
        ".*",
        SETTING,
    ),
    Rule("run", "another seed|forms that are coarser", SETTING),
)


def excepted(place: str, how: str) -> str:
    """Why this may pass; empty where it may not."""
    return next((rule.reason for rule in EXCEPTED if rule.fits(place, how)), "")


def by_again(place: str, how: str) -> bool:
    """Whether only doing jobs again can find this."""
    return any(rule.fits(place, how) for rule in (*BY_AGAIN, *SETTINGS))


def found_alike(place: str, how: str) -> str:
    """Why this may pass even where jobs were done again; empty where it may not."""
    return next((rule.reason for rule in SETTINGS if rule.fits(place, how)), "")
