"""One trained model, read by its classifier and by its nearest prototype."""

import pytest
import torch

from robusteval.data.datasets import load_dataset
from robusteval.errors import EntryError, UnknownNameError
from robusteval.models.loading import load_model, read_weights
from robusteval.models.registry import find_entry, reference_to

OTHER = "pcl_digits@nearest_prototype"


def test_both_readings_are_of_one_set_of_weights() -> None:
    """PCL, eq. 7 by hand: the class whose centre is nearest, on the same network's features."""
    images = load_dataset("digits").images(torch.arange(20))
    own, other = load_model(find_entry("pcl_digits")), load_model(find_entry(OTHER))
    features = own.embed(images)
    torch.testing.assert_close(features, other.embed(images))
    weights = read_weights(find_entry("pcl_digits"))
    squared = (features[:, None] - weights["prototypes.fc2"][:, 0]).square().sum(2)
    torch.testing.assert_close(other(images), -squared, rtol=1e-4, atol=1e-4)
    classifier = features @ weights["classifier.weight"].T + weights["classifier.bias"]
    torch.testing.assert_close(own(images), classifier, rtol=1e-4, atol=1e-4)


def test_a_reading_is_another_model_that_can_be_found_again() -> None:
    own, other = find_entry("pcl_digits"), find_entry(OTHER)
    assert other.name == "pcl_digits.nearest_prototype"
    assert reference_to(other) == OTHER
    assert find_entry(reference_to(other)) == other
    assert other.digest != own.digest
    assert other.weights == own.weights
    assert (other.claims, other.trained) == ([], None)  # these are of the other reading
    assert find_entry("pcl_digits@softmax") == own
    by_path = find_entry(f"{own.path}@nearest_prototype")
    assert by_path.digest == other.digest


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("ce_digits@nearest_prototype", EntryError, "no .head. layers"),
        ("gcpl_digits@softmax", EntryError, "no classifier"),
        ("nonesuch@softmax", UnknownNameError, "unknown model 'nonesuch'"),
        ("pcl_digits@nearest", UnknownNameError, "unknown model 'pcl_digits@nearest'"),
    ],
)
def test_readings_that_there_are_not(name: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        find_entry(name)
