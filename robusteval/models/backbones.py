"""Feature extractors.  Each maps normalised images to named layers, shallow to deep.

A backbone's ``channels`` says how wide each named layer is; ``forward`` returns the layers'
activations by name: maps (B, C, H, W) or vectors (B, D).  The last one is the embedding.
"""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.catalogue import Catalogue


class Backbone(nn.Module):
    """Normalised images (B, C, H, W) to activations by layer name, shallow to deep.

    ``on_request``: layers that only a network with prototypes on them has among its activations.
    """

    channels: dict[str, int]
    on_request: tuple[str, ...] = ()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        raise TypeError(f"{type(self).__name__} defines no forward")


_MOST_BLOCKS = 1000  # a network of a thousand layers was trained once (He et al. 2016)
BACKBONES: Catalogue[Callable[..., Backbone]] = Catalogue("backbone")


class CNN6(Backbone):
    """Six convolutions in pairs, then FC(512) and FC(64): PCL, Table 1 (left).

    Layers: ``conv3`` (maps after the third pair), ``fc1``, ``fc2``.  PReLU follows every layer, as
    in the center-loss network that the paper takes it from.  ``widths``, ``hidden`` and
    ``kernel_size`` default to the paper's; smaller ones suit 8×8 images.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int] = (32, 64, 128),
        hidden: Sequence[int] = (512, 64),
        kernel_size: int = 5,
    ) -> None:
        super().__init__()
        pairs, width = [], in_channels
        for out in widths:
            convs = []
            for source in (width, out):
                convs += [nn.Conv2d(source, out, kernel_size, padding=kernel_size // 2), nn.PReLU()]
            pairs.append(nn.Sequential(*convs, nn.MaxPool2d(2)))
            width = out
        self.pairs = nn.Sequential(*pairs)
        self.fc1 = nn.Sequential(nn.Linear(width, hidden[0]), nn.PReLU())
        self.fc2 = nn.Sequential(nn.Linear(hidden[0], hidden[1]), nn.PReLU())
        self.channels = {"conv3": width, "fc1": hidden[0], "fc2": hidden[1]}
        # torch's default start shrinks the signal at each of these layers, and there is no norm.
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, a=0.25)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.pairs(images)
        fc1 = self.fc1(maps.mean((2, 3)))
        return {"conv3": maps, "fc1": fc1, "fc2": self.fc2(fc1)}


class _Basic(nn.Module):
    """Two 3×3 convolutions with a shortcut (He et al. 2016, option B)."""

    expansion = 1

    def __init__(self, source: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv_norm(source, width, 3, stride), nn.ReLU(), *_conv_norm(width, width, 3, 1)
        )
        self.shortcut = _shortcut(source, width, stride)

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(self.body(maps) + self.shortcut(maps))


class _Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions, the last four times as wide, with a shortcut."""

    expansion = 4

    def __init__(self, source: int, width: int, stride: int) -> None:
        super().__init__()
        wide = width * self.expansion
        self.body = nn.Sequential(
            *_conv_norm(source, width, 1, 1),
            nn.ReLU(),
            *_conv_norm(width, width, 3, stride),
            nn.ReLU(),
            *_conv_norm(width, wide, 1, 1),
        )
        self.shortcut = _shortcut(source, wide, stride)

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(self.body(maps) + self.shortcut(maps))


def _conv_norm(
    source: int, width: int, kernel_size: int, stride: int
) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(source, width, kernel_size, stride, kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv, nn.BatchNorm2d(width)


def _shortcut(source: int, width: int, stride: int) -> nn.Module:
    if stride == 1 and source == width:
        return nn.Identity()
    return nn.Sequential(*_conv_norm(source, width, 1, stride))


class ResNet(Backbone):
    """A residual network for 28×28 to 64×64 images, with a linear embedding layer.

    Layers: ``stem`` (maps; PCL's layer 1), ``stage1``, ``stage2``, … (maps), ``pool`` (their mean),
    ``fc`` (the embedding, linear, as in PCL's code).  With ``embedding`` 0 there is no ``fc``, and
    ``pool`` is the embedding.
    """

    on_request = ("stem",)

    def __init__(
        self,
        in_channels: int,
        block: type[_Basic] | type[_Bottleneck],
        widths: Sequence[int],
        blocks: Sequence[int],
        stem: int,
        embedding: int,
        first_stride: int = 1,
    ) -> None:
        super().__init__()
        if sum(blocks) > _MOST_BLOCKS:
            raise ValueError(f"{sum(blocks)} blocks, {_MOST_BLOCKS} at most")
        self.stem = nn.Sequential(*_conv_norm(in_channels, stem, 3, 1), nn.ReLU())
        self.stages = nn.ModuleList()
        self.channels = {"stem": stem}
        source = stem
        for k, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            stage = []
            for i in range(count):
                stride = 1 if i else 2 if k else first_stride
                stage.append(block(source, width, stride))
                source = width * block.expansion
            self.stages.append(nn.Sequential(*stage))
            self.channels[f"stage{k + 1}"] = source
        self.channels["pool"] = source
        self.fc = _embed(self.channels, source, embedding)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.stem(images)
        layers = {"stem": maps}
        for k, stage in enumerate(self.stages):
            maps = layers[f"stage{k + 1}"] = stage(maps)
        layers["pool"] = maps.mean((2, 3))
        return _embedded(self.fc, layers, "pool")


def _embed(channels: dict[str, int], source: int, embedding: int, name: str = "fc") -> nn.Module:
    """A linear layer, whose name joins ``channels``; nothing where the embedding is 0."""
    if not embedding:
        return nn.Identity()
    channels[name] = embedding
    return nn.Linear(source, embedding)


def _embedded(
    embed: nn.Module, layers: dict[str, Tensor], last: str, name: str = "fc"
) -> dict[str, Tensor]:
    if isinstance(embed, nn.Linear):
        layers[name] = embed(layers[last])
    return layers


def resnet110(in_channels: int, embedding: int = 1024) -> ResNet:
    """ResNet-110 of bottlenecks, 12 a stage: PCL, Table 1 (right).  1.4 M parameters.

    The table's FC(1024) is the embedding.  (The authors' code has 18 bottlenecks a stage, which
    makes 164 layers; the table's twelve make 110.)
    """
    return ResNet(in_channels, _Bottleneck, (16, 32, 64), (12, 12, 12), 16, embedding)


def resnet18(in_channels: int, width: int = 64, embedding: int = 64) -> ResNet:
    """ResNet-18 for small images: SCPL, DRP and MPAT.  11 M parameters, 2.8 M at width 32.

    Two basic blocks at each of four widths, 3×3 stem without pooling; ``embedding`` is D.  MPAT
    takes the 512 pooled features of its layer 4 themselves: ``embedding`` 0.
    """
    widths = (width, 2 * width, 4 * width, 8 * width)
    return ResNet(in_channels, _Basic, widths, (2, 2, 2, 2), width, embedding)


class LeNet(Backbone):
    """Two convolutions with pooling and a hidden layer (LeCun et al. 1989): SCPL's for MNIST.

    Layers: ``conv2`` (maps), ``fc1`` (500), ``fc2`` (the embedding, linear; none with 0).
    """

    def __init__(self, in_channels: int, embedding: int = 64) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(in_channels, 20, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, 5),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(4),
        )
        self.fc1 = nn.Sequential(nn.Linear(50 * 16, 500), nn.ReLU())
        self.channels = {"conv2": 50, "fc1": 500}
        self.fc2 = _embed(self.channels, 500, embedding, "fc2")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.convs(images)
        layers = {"conv2": maps, "fc1": self.fc1(maps.flatten(1))}
        return _embedded(self.fc2, layers, "fc1", "fc2")


class LeNetBN(Backbone):
    """MPAT's network for MNIST: two convolutions of stride 2 with batch norm, a hidden layer.

    The text says strides, ReLUs and batch norm (Section 4.2), and no sizes: these are those of the
    small network of Wong and Kolter 2018.  Layers: ``conv2`` (maps), ``fc1`` (the embedding, after
    its ReLU; the paper's second linear layer is the classifier).
    """

    def __init__(
        self, in_channels: int, widths: Sequence[int] = (16, 32), hidden: int = 100
    ) -> None:
        super().__init__()
        first, second = widths
        self.convs = nn.Sequential(
            nn.Conv2d(in_channels, first, 4, 2, 1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, second, 4, 2, 1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(7),  # of 28×28 images it changes nothing
        )
        self.fc1 = nn.Sequential(nn.Linear(second * 49, hidden), nn.ReLU())
        self.channels = {"conv2": second, "fc1": hidden}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.convs(images)
        return {"conv2": maps, "fc1": self.fc1(maps.flatten(1))}


_VGG19 = ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4))  # width of a stage as a multiple, convolutions


class VGG(Backbone):
    """VGG-19 with batch norm for small images (Simonyan and Zisserman 2015): PCL's source of
    black-box attacks.

    Sixteen 3×3 convolutions in five stages, each but the last followed by pooling; one linear layer
    reads the last, as is usual for CIFAR.  20 M parameters at ``width`` 64, 0.3 M at 8.  Layers:
    ``stage1`` to ``stage5`` (maps), ``pool`` (their maxima), ``fc`` (none with ``embedding`` 0).
    """

    def __init__(self, in_channels: int, width: int = 64, embedding: int = 0) -> None:
        super().__init__()
        self.stages, self.channels = nn.ModuleList(), {}
        source = in_channels
        for k, (times, count) in enumerate(_VGG19):
            convs: list[nn.Module] = [nn.MaxPool2d(2, ceil_mode=True)] if k else []
            for _ in range(count):
                convs += [*_conv_norm(source, times * width, 3, 1), nn.ReLU()]
                source = times * width
            self.stages.append(nn.Sequential(*convs))
            self.channels[f"stage{k + 1}"] = source
        self.channels["pool"] = source
        self.fc = _embed(self.channels, source, embedding)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps, layers = images, {}
        for k, stage in enumerate(self.stages):
            maps = layers[f"stage{k + 1}"] = stage(maps)
        layers["pool"] = maps.amax((2, 3))
        return _embedded(self.fc, layers, "pool")


def resnet_small(
    in_channels: int,
    widths: Sequence[int] = (32, 64, 128),
    blocks: Sequence[int] = (1, 1, 1),
    embedding: int = 256,
    stem: int = 32,
    first_stride: int = 1,
) -> ResNet:
    """A wide, shallow ResNet of basic blocks that trains within minutes on two cores.

    With ``first_stride`` 2 only the stem works at full resolution: twice the width for the same
    time.
    """
    return ResNet(in_channels, _Basic, widths, blocks, stem, embedding, first_stride)


BACKBONES.add("cnn6", CNN6)
BACKBONES.add("lenet", LeNet)
BACKBONES.add("lenet_bn", LeNetBN)
BACKBONES.add("vgg19", VGG)
BACKBONES.add("resnet18", resnet18)
BACKBONES.add("resnet110", resnet110)
BACKBONES.add("resnet_small", resnet_small)
