"""The report's pictures: a few attacked images, kept apart so that a report needs no data set."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as serialise

from robusteval.errors import EvidenceError, reason
from robusteval.evidence.arrays import metadata_of
from robusteval.evidence.images import decode
from robusteval.evidence.results import Example, RunResult, to_be_kept
from robusteval.evidence.store import EVIDENCE, EXAMPLES, Store
from robusteval.plan.context import Context

EXAMPLES_PER_THREAT = 6
_NAME, _ADVICE = f"{EVIDENCE}/{EXAMPLES}", "free space, then run the same command again"
Pictures = dict[str, NDArray[np.uint8]]  # clean and adversarial, each (E, C, H, W)


def make_pictures(context: Context, store: Store, result: RunResult) -> Pictures:
    """The pictures, from the data and the stored images."""
    clean, adversarial = [], []
    for part, _, row in pick_examples(result):
        chunk = next(i for i, c in enumerate(context.plan.chunks) if row in c)
        kept = store.read_images(context.plan.attack_job(part, chunk))
        if row not in kept.rows:
            raise EvidenceError(
                f"the image of sample {row} by {context.plan.cells[part].key} is gone"
            )
        place = int(np.flatnonzero(kept.rows == row)[0])
        attacked = decode(kept.images[place : place + 1])[0]
        original = context.data.images(torch.tensor([row]))[0]
        if attacked.shape != original.shape:
            raise EvidenceError(f"the image of sample {row} has shape {tuple(attacked.shape)}")
        adversarial.append(_to_bytes(attacked))
        clean.append(_to_bytes(original))
    return {"clean": np.stack(clean), "adversarial": np.stack(adversarial)} if clean else {}


def write_examples(context: Context, store: Store, result: RunResult) -> None:
    """Keeps the pictures beside the evidence."""
    pictures = make_pictures(context, store, result)
    if not pictures:
        store.files.remove(_NAME, _ADVICE)
        return
    store.files.write(_NAME, serialise(pictures), _ADVICE)


def read_pictures(store: Store) -> Pictures:
    """The stored pictures.  Raises EvidenceError if they are corrupt."""
    path = store.where(_NAME)
    try:
        content = store.files.read(_NAME)
        pictures = load_arrays(content)
        _require_pictures(pictures, metadata_of(content))
    except FileNotFoundError:
        return {}
    except OSError as error:
        told = error.strerror or reason(error)
        raise EvidenceError(f"evidence {path} can't be read ({told}): mend that first") from None
    except (SafetensorError, LookupError, ValueError, TypeError) as error:
        mend = "delete it and run the same command again"
        raise EvidenceError(f"evidence {path} is corrupt ({reason(error)}): {mend}") from None
    return pictures


def _require_pictures(pictures: Pictures, told: Any) -> None:
    """Raises ValueError for what are no pairs of pictures."""
    if pictures.keys() != {"clean", "adversarial"} or told is not None:
        raise ValueError("it holds something else than clean and adversarial pictures")
    clean, adversarial = pictures["clean"], pictures["adversarial"]
    if clean.shape != adversarial.shape or clean.ndim != 4 or clean.shape[1] not in (1, 3):
        raise ValueError("its arrays don't belong together")
    if clean.dtype != np.uint8 or adversarial.dtype != np.uint8 or 0 in clean.shape:
        raise ValueError("its pixels are not bytes")


def pick_examples(result: RunResult) -> list[tuple[int, int, int]]:
    """(cell, threat, row) of the pictures: of each threat six, from as many attacks as there are.

    Only stored images are shown, so a sample appears with the first attack that broke it.
    """
    picked = []
    for number, threat in enumerate(result.plan.threats):
        of_attacks: list[list[tuple[int, int, int]]] = []
        used: set[int] = set()
        for part, outcome in enumerate(result.outcomes):
            if threat in outcome.cell.threats:
                rows = np.flatnonzero(to_be_kept(result, part) & outcome.success(threat)).tolist()
                of_attacks.append([(part, number, r) for r in rows[:EXAMPLES_PER_THREAT]])
        chosen: list[tuple[int, int, int]] = []
        for rank in range(EXAMPLES_PER_THREAT):
            for candidates in of_attacks:
                candidate = candidates[rank] if rank < len(candidates) else None
                full = len(chosen) == EXAMPLES_PER_THREAT
                if candidate and candidate[2] not in used and not full:
                    used.add(candidate[2])
                    chosen.append(candidate)
        picked += sorted(chosen)
    return picked


def read_examples(store: Store, result: RunResult) -> list[Example]:
    """The report's pictures; none where they were not stored (yet)."""
    pictures, picked = read_pictures(store), pick_examples(result)
    if len(picked) != len(pictures.get("clean", ())):
        return []
    return [
        Example(
            row,
            result.outcomes[part].cell.spec.title,
            result.plan.threats[threat],
            int(result.labels[row]),
            int(result.outcomes[part].prediction[row]),
            pictures["clean"][place],
            pictures["adversarial"][place],
        )
        for place, (part, threat, row) in enumerate(picked)
    ]


def _to_bytes(image: torch.Tensor) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = (image * 255).round().to(torch.uint8).cpu().numpy()
    return array
