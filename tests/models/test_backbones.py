"""The papers' networks: their layers, sizes and options."""

from pathlib import Path

import pytest
import torch
from torch import nn

from robusteval.errors import EntryError
from robusteval.models.backbones import BACKBONES
from robusteval.models.entry import read_entry
from robusteval.models.head import Head
from robusteval.models.loading import build_network
from robusteval.models.network import PrototypeNetwork
from tests.helpers.entries import write_entry


@pytest.mark.parametrize("channels_and_side", [(1, 8), (1, 28), (3, 32)])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vgg19", {"width": 2}),
        ("vgg19", {"width": 2, "embedding": 5}),
        ("lenet_bn", {}),
        ("lenet", {"embedding": 0}),
        ("resnet_small", {"embedding": 0, "widths": [4, 6], "blocks": [1, 1], "stem": 3}),
        ("resnet18", {"embedding": 0, "width": 2}),
    ],
)
def test_layers_are_as_wide_as_they_say(
    name: str, options: dict[str, object], channels_and_side: tuple[int, int]
) -> None:
    channels, side = channels_and_side
    if name == "lenet" and side == 8:
        pytest.skip("its kernels need 14 pixels")
    backbone = BACKBONES.get(name)(channels, **options).eval()
    layers = backbone(torch.rand(2, channels, side, side))
    assert {k: v.shape[1] for k, v in layers.items()} == backbone.channels
    last = (
        "fc" if options.get("embedding") else {"lenet": "fc1", "lenet_bn": "fc1"}.get(name, "pool")
    )
    assert list(backbone.channels)[-1] == last
    assert (last in dict(backbone.named_parameters())) is False


def test_without_an_embedding_the_pooled_features_are_read() -> None:
    """MPAT: 512 hidden units, the output of layer 4, no layer between them and the classifier."""
    backbone = BACKBONES.get("resnet18")(3, embedding=0)
    network = PrototypeNetwork(backbone, Head(layers=["pool"]), 10, [0.5], [0.2]).eval()
    assert network.classifier is not None
    assert network.classifier.in_features == 512
    assert not any("fc" in name for name in network.state_dict())
    images = torch.rand(2, 3, 32, 32)
    layers = network.activations(images)
    by_hand = network.classifier(layers["stage4"].mean((2, 3)))
    torch.testing.assert_close(network(images), by_hand)


def test_vgg_19_has_sixteen_convolutions_and_mpats_lenet_two_of_stride_2() -> None:
    full, small = BACKBONES.get("vgg19")(3), BACKBONES.get("vgg19")(3, width=9)
    convolutions = [m for m in full.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 16  # and the two or three linear layers that its name counts
    assert [m.out_channels for m in convolutions] == [*[64] * 2, *[128] * 2, *[256] * 4, *[512] * 8]
    assert 20.0e6 < sum(p.numel() for p in full.parameters()) < 20.1e6  # torchvision's features
    assert 0.35e6 < sum(p.numel() for p in small.parameters()) < 0.45e6
    lenet = [m for m in BACKBONES.get("lenet_bn")(1).modules() if isinstance(m, nn.Conv2d)]
    assert [m.stride for m in lenet] == [(2, 2), (2, 2)]


def test_the_stem_is_a_layer_only_where_prototypes_stand_on_it() -> None:
    """Detectors read every layer that a model shows: what they saw stays what it was."""
    torch.manual_seed(0)
    options = {"stem": 3, "widths": [4], "blocks": [1], "embedding": 5}
    plain, deep = (
        PrototypeNetwork(
            BACKBONES.get("resnet_small")(1, **options), Head(layers=layers), 10, [0.5], [0.2]
        ).eval()
        for layers in (["fc"], ["stem", "fc"])
    )
    images = torch.rand(2, 1, 8, 8)
    assert list(plain.activations(images)) == ["stage1", "pool", "fc"]
    layers = deep.activations(images)
    assert list(layers) == ["stem", "stage1", "pool", "fc"]
    by_hand = deep.backbone.stem((images - 0.5) / 0.2)  # type: ignore[operator]
    torch.testing.assert_close(layers["stem"], by_hand)
    assert deep.supervised_features(layers)["stem"].shape == (2, 3)


@pytest.mark.parametrize(("value", "said"), [("-1", "from 0 to 4096"), ("false", "from 0 to 4096")])
def test_embeddings_that_cannot_be_are_refused(value: str, said: str, tmp_path: Path) -> None:
    path = write_entry(tmp_path)
    text = path.read_text().split("[backbone]")[0]
    path.write_text(f'{text}[backbone]\nname = "resnet_small"\nembedding = {value}\n')
    with pytest.raises(EntryError, match=said):
        build_network(read_entry(path))
    path.write_text(f'{text}[backbone]\nname = "resnet_small"\nstem = 0\n')
    with pytest.raises(EntryError, match="stem needs a whole number from 1"):
        build_network(read_entry(path))
