"""Which data sets are known: shapes, classes, default threats, where their files are looked for."""

from dataclasses import dataclass, replace

from robusteval.catalogue import Catalogue
from robusteval.data.raw import Shape
from robusteval.types import Norm, ThreatModel, parse_eps

# The usual threats: RobustBench's for 32x32 colour images, Madry's for MNIST and its kin.
_COLOUR = {"Linf": "8/255", "L2": "0.5"}
_MNIST = {"Linf": "0.3", "L2": "2"}
# Where adversarially trained models keep much of their accuracy, and others nothing: see
# leaderboards/digits_*.csv.
_DIGITS = {"Linf": "0.15", "L2": "0.6"}


@dataclass(frozen=True)
class DatasetInfo:
    """A data set's name, shape, classes, default threats and natural outlier sets.

    ``test_samples``: of the whole test split.
    """

    name: str
    title: str
    shape: Shape
    classes: int
    test_samples: int
    threats: dict[str, str]
    folders: tuple[str, ...] = ()
    family: str = ""
    torchvision: str | None = None
    base: str | None = None
    outliers: tuple[str, ...] = ()
    note: str = ""

    def default_threat(self, norm: Norm) -> ThreatModel:
        return ThreatModel(norm, parse_eps(self.threats[norm]))


DATASETS: Catalogue[DatasetInfo] = Catalogue("data set")


def _register(info: DatasetInfo) -> None:
    DATASETS.add(info.name, info)


_register(
    DatasetInfo(
        "digits",
        "handwritten digits of scikit-learn (UCI), 8×8",
        Shape(1, 8, 8),
        10,
        360,
        _DIGITS,
        outliers=("photo_crops",),
        note="comes with scikit-learn; a fixed stratified split, 1,437 to train and 360 to test",
    )
)
_register(
    DatasetInfo(
        "mnist",
        "MNIST (LeCun 1998)",
        Shape(1, 28, 28),
        10,
        10_000,
        _MNIST,
        folders=("mnist",),
        family="MNIST",
        torchvision="MNIST",
        outliers=("fashion_mnist", "cifar10", "tiny_imagenet_32", "photo_crops"),
    )
)
_register(
    DatasetInfo(
        "fashion_mnist",
        "Fashion-MNIST (Xiao 2017)",
        Shape(1, 28, 28),
        10,
        10_000,
        _MNIST,
        folders=("fashion_mnist", "fashion-mnist"),
        family="FashionMNIST",
        torchvision="FashionMNIST",
        outliers=("mnist", "cifar10", "tiny_imagenet_32", "photo_crops"),
    )
)
_register(
    DatasetInfo(
        "cifar10",
        "CIFAR-10 (Krizhevsky 2009)",
        Shape(3, 32, 32),
        10,
        10_000,
        _COLOUR,
        folders=("cifar10", "cifar-10"),
        family="cifar10",
        torchvision="CIFAR10",
        outliers=("svhn", "cifar100", "tiny_imagenet_32", "photo_crops"),
    )
)
_register(
    DatasetInfo(
        "cifar100",
        "CIFAR-100 (Krizhevsky 2009), fine labels",
        Shape(3, 32, 32),
        100,
        10_000,
        _COLOUR,
        folders=("cifar100", "cifar-100"),
        family="cifar100",
        torchvision="CIFAR100",
        outliers=("svhn", "cifar10", "tiny_imagenet_32", "photo_crops"),
    )
)
_register(
    DatasetInfo(
        "svhn",
        "Street View House Numbers, cropped (Netzer 2011)",
        Shape(3, 32, 32),
        10,
        26_032,
        _COLOUR,
        folders=("svhn",),
        family="svhn",
        torchvision="SVHN",
        outliers=("cifar10", "cifar100", "tiny_imagenet_32", "photo_crops"),
    )
)
for _size, _suffix in ((64, ""), (32, "_32")):
    _register(
        DatasetInfo(
            f"tiny_imagenet{_suffix}",
            f"Tiny ImageNet validation images, {_size}×{_size}",
            Shape(3, _size, _size),
            200,
            10_000,
            _COLOUR,
            folders=(
                f"tiny-imagenet-{_size}",
                f"tiny_imagenet_{_size}",
                "tiny-imagenet-200",
                "tiny_imagenet",
                "tiny-imagenet",
            ),
            family="tiny_imagenet",
            outliers=("svhn", "photo_crops"),
            note="no labels of its test part are public: `test` is the validation part",
        )
    )
for _name, _base, _classes in (
    ("mnist_2", "mnist", 2),
    ("cifar10_2", "cifar10", 2),
    ("cifar100_10", "cifar100", 10),
):
    _info = DATASETS.get(_base)
    _register(
        replace(
            _info,
            name=_name,
            title=f"{_info.title} regrouped into {_classes} classes",
            classes=_classes,
            base=_base,
            note="groups of consecutive labels: the multi-prototype paper lists only MNIST's, "
            "{0–4} and {5–9}; the others follow the same rule",
        )
    )
