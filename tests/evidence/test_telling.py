"""What attacks tell: records of their stages and warnings, added up, and said in words."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from robusteval.attacks.results import WARNED, Stage, Warned, said
from robusteval.evidence.older import attack_facts, failure
from robusteval.evidence.pieces import attack_facts as records_of
from robusteval.evidence.telling import (
    merged_notes,
    merged_stages,
    merged_warnings,
    stage_text,
)

BLIND = "no gradient reaches the images: the model detaches, or leaves torch, on the way"
# Each warning as a record, and in the words of schema 2.
IN_WORDS = [
    (Warned("random"), "adaptive: outputs change between passes"),
    (
        Warned("random", stages=("more steps", "AutoAttack")),
        "adaptive: outputs change between passes; went on with more steps, AutoAttack",
    ),
    (Warned("no_gradient"), f"adaptive: {BLIND}"),
    (Warned("no_gradient", stages=("pull",)), f"adaptive: {BLIND}; went on with pull"),
    (Warned("dead", 0.64), "adaptive: 64 % of samples have no gradient"),
    (Warned("dead", 1.0), "adaptive: 100 % of samples have no gradient"),
    (
        Warned("turning", -0.05, ("more steps",)),
        "adaptive: gradients turn at a step of ε/10 (their cosine is -0.05); "
        "went on with more steps",
    ),
    (Warned("searched"), "adaptive: random search found the way that gradients did not"),
    (Warned("queried"), "adaptive: a few gradient-free queries broke what gradients did not"),
    (
        Warned("outdone", 0.83),
        "adaptive: 83 % of samples break only by ascents through larger balls",
    ),
    (Warned("no_autoattack", text=BLIND), f"AutoAttack can't run: {BLIND}"),
    (Warned("blind", stages=("apgd-ce", "fab-t")), f"apgd-ce, fab-t can't run: {BLIND}"),
    (
        Warned("zero_gradient", 3, text=" This might lead to …"),
        "there are 3 points with zero gradient! This might lead to …",
    ),
    (
        Warned("library", text="it seems to be a dynamic defense!"),
        "it seems to be a dynamic defense!",
    ),
]


# Those that schema 2 didn't know.
YOUNGER = [
    (
        Warned("luck", text="3 to 5 of 8 samples are right on its images"),
        "adaptive: 3 to 5 of 8 samples are right on its images",
    ),
    (
        Warned("luck", right=(4, *[5] * 38, 7), of=8),
        "adaptive: 5 to 5 of 8 samples, 5.0 on average, are right on its images in 40 fresh passes",
    ),
    (
        Warned("flat", 0.25),
        "adaptive: gradients vanish on the way of 25 % of the samples that it left",
    ),
    (
        Warned("squashed", text="as by a sigmoid", stages=("more steps",)),
        "adaptive: outputs are squashed: as by a sigmoid; went on with more steps",
    ),
]


def test_every_kind_of_warning_is_told() -> None:
    assert {warned.kind for warned, _ in IN_WORDS + YOUNGER} == set(WARNED)


@pytest.mark.parametrize(("warned", "words"), YOUNGER)
def test_a_younger_warning_in_words_and_as_a_record(warned: Warned, words: str) -> None:
    assert said(warned) == words
    record = {
        "stages": [],
        "warned": [json.loads(json.dumps(asdict(warned)))],
        "notes": [],
        "lost": 0,
        "drifted": 0,
    }
    assert records_of(record)["warned"] == [warned]


@pytest.mark.parametrize(("warned", "words"), IN_WORDS)
def test_a_warning_in_words_and_back(warned: Warned, words: str) -> None:
    """The words are those of schema 2, whose evidence tells nothing else."""
    assert said(warned) == words
    told = attack_facts(2, {"notes": [], "warnings": [words], "lost": 0, "drifted": 0})
    assert records_of(told)["warned"] == [warned]


@pytest.mark.parametrize(
    "made",
    [
        lambda: Warned("masked"),
        lambda: Warned("dead"),
        lambda: Warned("searched", 0.5),
        lambda: Warned("searched", text="by me"),
        lambda: Warned("random", right=(1,), of=3),
        lambda: Warned("luck", right=(4,), of=3),
        lambda: Stage("square", 9, 3),
    ],
)
def test_what_is_no_record(made: object) -> None:
    with pytest.raises(ValueError, match=r"kind|broke|right"):
        made()  # type: ignore[operator]


def test_stages_of_chunks_add_up() -> None:
    chunks = [
        [Stage("apgd-ce", 3, 10), Stage("square", 0, 7)],
        [],
        [Stage("square", 2, 9), Stage("apgd-ce", 1, 4)],
    ]
    assert merged_stages(chunks) == [Stage("apgd-ce", 4, 14), Stage("square", 2, 16)]
    assert [stage_text(s) for s in merged_stages(chunks)] == [
        "apgd-ce broke 4 of 14",
        "square broke 2 of 16",
    ]
    assert merged_stages([]) == merged_stages([[]]) == []


def test_notes_lose_their_doubles() -> None:
    assert merged_notes([["look out", "it broke most"], ["look out"]]) == [
        "look out",
        "it broke most",
    ]


def test_chunks_warn_with_one_voice() -> None:
    def dead(*shares: float) -> list[Warned]:
        return [Warned("dead", share, ("more steps",)) for share in shares]

    def words(chunks: list[list[Warned]]) -> list[str]:
        return [str(raised) for raised in merged_warnings(chunks)]

    some, ended = "adaptive: {} % of samples have no gradient", "; went on with more steps"
    text = Warned("library", text="b")
    assert words([dead(0.64), [*dead(0.09), text], dead(0.64)]) == [
        some.format("9 to 64") + ended,
        "b (in 1 of 3 chunks)",
    ]
    assert words([dead(0.01, 0.03)]) == [some.format("1 to 3") + ended]
    assert words([[text, *dead(0.5)]]) == [some.format("50") + ended, "b"]
    assert words([dead(0.5), [Warned("dead", 0.5)]]) == [
        some.format("50") + " (in 1 of 2 chunks)",
        some.format("50") + ended + " (in 1 of 2 chunks)",
    ]
    points = [[Warned("zero_gradient", count, text=" So?")] for count in (9, 10)]
    assert words(points) == ["there are 9 to 10 points with zero gradient! So?"]
    assert words([[], []]) == words([]) == []


def test_a_random_models_luck_is_told_once_for_a_run() -> None:
    """Passes of different chunks are independent, so their sums are passes on all samples."""
    generator = np.random.default_rng(0)
    rates = generator.uniform(size=(3, 30))  # of each sample, how often it is right
    passes = generator.uniform(size=(64, 3, 30)) < rates
    counts = passes.sum(2).tolist()  # by pass and chunk
    chunks = [
        [Warned("random"), Warned("luck", right=tuple(c[at] for c in counts), of=30)]
        for at in range(3)
    ]
    of_all = passes.sum((1, 2))
    low, high = np.quantile(of_all, [0.025, 0.975], method="nearest").astype(int)
    assert [str(raised) for raised in merged_warnings(chunks)] == [
        f"adaptive: {low} to {high} of 90 samples, {of_all.mean():.1f} on average, are right on "
        "its images in 64 fresh passes",
        "adaptive: outputs change between passes",
    ]
    # A second call on a chunk's survivors isn't another sample.
    again = [[*chunks[0], Warned("luck", right=(1, 2), of=4)], chunks[1], [Warned("random")]]
    told = [str(raised) for raised in merged_warnings(again)]
    assert any("of 60 samples" in one and "2 of 3 chunks" in one for one in told)
    assert any("1 to 2 of 4 samples" in one and "1 of 3 chunks" in one for one in told)


def test_luck_that_a_file_holds_otherwise_is_told_all_the_same() -> None:
    chunks = [[Warned("luck", right=right, of=9)] for right in ((3, 4, 5), (1,))]
    assert [str(raised) for raised in merged_warnings(chunks)] == [
        "adaptive: 4 to 4 of 18 samples, 4.0 on average, are right on its images in 1 fresh passes"
    ]
    record = {"kind": "luck", "number": None, "stages": [], "text": "", "right": [1], "of": 10**400}
    with pytest.raises(ValueError, match="warned"):
        records_of({"stages": [], "warned": [record], "notes": [], "lost": 0, "drifted": 0})


# What earlier versions wrote


def test_sentences_of_schema_2_are_records() -> None:
    notes = [
        "margin broke 3 of 10",
        "apgd-t is left out, since …",
        "AutoAttack's square broke 0 of 7",
    ]
    told = {"notes": notes, "warnings": ["odd"], "lost": 1, "drifted": 2}
    assert records_of(attack_facts(2, told)) == {
        "stages": [Stage("margin", 3, 10), Stage("AutoAttack's square", 0, 7)],
        "warned": [Warned("library", text="odd")],
        "notes": ["apgd-t is left out, since …"],
        "lost": 1,
        "drifted": 2,
    }
    assert attack_facts(3, told) == told  # for today's check to refuse


def test_warnings_of_schema_5_have_no_counts() -> None:
    old = {"kind": "dead", "number": 0.5, "stages": ["more steps"], "text": ""}
    told = {"stages": [], "warned": [old], "notes": [], "lost": 0, "drifted": 0}
    warned = [Warned("dead", 0.5, ("more steps",))]
    for schema in (3, 4, 5):
        assert records_of(attack_facts(schema, told))["warned"] == warned
    with pytest.raises(ValueError, match="leaves something out"):
        records_of(attack_facts(6, told))
    younger = {**told, "warned": [{**old, "of": 0}]}
    for odd in (younger, {**told, "warned": ["x"]}):
        with pytest.raises(ValueError, match="no such job's"):
            attack_facts(5, odd)


@pytest.mark.parametrize(
    "changed",
    [
        {"lost": -1},
        {"lost": True},
        {"drifted": 0.5},
        {"notes": "margin broke 3 of 10"},
        {"warnings": [3]},
        {"reviewed": "99.9 %"},
        {"stages": []},
    ],
)
def test_schema_2_is_held_to_its_form(changed: dict[str, object]) -> None:
    told = {"notes": [], "warnings": [], "lost": 0, "drifted": 0}
    with pytest.raises(ValueError, match="is no such job's"):
        attack_facts(2, {**told, **changed})
    with pytest.raises(ValueError, match="is no such job's"):
        attack_facts(2, {k: v for k, v in told.items() if k != "drifted"})


def test_failures_of_schema_2_have_a_kind() -> None:
    changed = "it changed the model's parameters or buffers; they were put back"
    for status, reason, kind in (
        ("failed", "ValueError: x", "error"),
        ("failed", changed, "changed"),
        ("failed", f"ValueError: {changed}", "error"),
        ("not_finished", "the time limit of 3 s was reached", "time_limit"),
        ("time_limit", "x", ""),
        (None, "x", ""),
    ):
        assert failure({"status": status, "reason": reason}) == {"kind": kind, "reason": reason}
    for today in ({"kind": "error", "reason": "x"}, {}, {"status": "failed", "reason": 7}):
        assert failure(today) == today
