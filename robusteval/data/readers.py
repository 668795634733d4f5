"""Files to pixels: every reader by its name.

Every reader of data sets returns ``RawData``: uint8 images (N, C, H, W), int64 labels (N,), class
names.  What is damaged, or could mean several things, is a DataError.
"""

from robusteval.data.archives import read_cifar_batches, read_idx, read_mnist_idx, read_svhn
from robusteval.data.folders import image_files, read_folders, read_tiny_imagenet_val
from robusteval.data.images import IMAGE_SUFFIXES, decode, decode_all
from robusteval.data.parquet import read_parquet
from robusteval.data.raw import RawData, Shape

__all__ = [
    "IMAGE_SUFFIXES",
    "RawData",
    "Shape",
    "decode",
    "decode_all",
    "image_files",
    "read_cifar_batches",
    "read_folders",
    "read_idx",
    "read_mnist_idx",
    "read_parquet",
    "read_svhn",
    "read_tiny_imagenet_val",
]
