"""What is told of a model beside the paper's: what its entry holds, and no word of what is open."""

from typing import Any

import pytest

from robusteval.models.entry import Entry
from robusteval.models.registry import find_entry
from robusteval.papers.differences import differences
from robusteval.papers.paper import PaperModel


def entry(name: str, **trained: Any) -> Entry:
    found = find_entry(name)
    assert found.trained is not None
    return found.model_copy(update={"trained": found.trained.model_copy(update=trained)})


def test_each_side_stands_beside_the_other() -> None:
    paper = PaperModel(backbone="ResNet-110", epochs=500, training="standard", note="no last layer")
    parts = differences(entry("pcl_cifar10"), paper).split("; ")
    assert "data: cifar10" in parts
    assert "backbone: resnet_small, width 32-64-128 (paper: ResNet-110)" in parts
    assert any(p.startswith("epochs: 30, ") and p.endswith("(paper: 500)") for p in parts)
    assert "training: standard, as the paper's" in parts
    assert "augmentation: crop, flip" in parts  # of the paper's nothing is known
    assert parts[-1] == "no last layer"


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("ce_cifar10", "on clean images"),
        ("scpl_plain_cifar10", "under PGD at 1/255"),  # its stopping_eps
        ("ce_at_cifar10", "under PGD at 9/255"),  # the largest ε that it is trained at
    ],
)
def test_which_epoch_is_kept_and_by_what(name: str, by: str) -> None:
    told = differences(entry(name, best_epoch=3), None)
    assert f", of which number 3 is kept, the best of validation {by}" in told


def test_prototypes_that_are_left_and_images_are_told() -> None:
    told = differences(entry("mpat_at_cifar10", prototypes_left=[3, 4], samples=500), None)
    assert "prototypes left in a class: 3 to 4" in told
    assert "training images: 500" in told
    assert "prototypes left in a class: 3;" in differences(
        entry("mpat_at_cifar10", prototypes_left=[3, 3]), PaperModel(note="x")
    )


def test_steps_and_replays_are_told() -> None:
    """A paper's seven steps beside our three are a difference, and so are eight replays."""
    paper = PaperModel(training="PGD-7")
    told = differences(find_entry("ce_at_cifar10"), paper)
    assert "training: PGD at 9/255 in 3 steps (paper: PGD-7)" in told
    assert "training: Free at 10/255, 4 replays;" in differences(
        find_entry("mpat_free_cifar10"), None
    )
    both = differences(find_entry("pcl_pgd_cifar10"), None)
    assert "training: PGD at 0.01 to 0.05 in 3 steps and clean images;" in both


def test_clean_images_beside_attacked_ones_are_told() -> None:
    assert "training: FGSM at 0.1 to 0.5 and clean images" in differences(
        find_entry("pcl_fgsm_mnist"), None
    )
    for name in ("mpat_fast_cifar10", "mpat_free_cifar10"):  # Free has none
        assert "clean images" not in differences(find_entry(name), None).split("train")[1]
