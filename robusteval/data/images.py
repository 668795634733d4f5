"""Image files to pixels, by stated rules; what no rule decides is refused.

- The formats are PNG, JPEG, WebP, BMP, TIFF, GIF, PPM and PGM.
- An image is turned upright, as its EXIF orientation says.
- What is transparent shows white behind it.
- 16-bit grey is scaled from its full range to 8 bits.  Pixels whose range nothing tells (32-bit
  integers, floats, 12 bits in 16) are refused.
- Of a camera's MPO the main picture is read.  Other files with several frames are refused.
- Colour becomes grey by ITU-R BT.601, and grey three equal channels.  Colour profiles are ignored.
"""

import io
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from robusteval.data.files import parsing, read_bytes, shown
from robusteval.data.raw import Shape
from robusteval.errors import DataError

# Pillow knows more; EPS among them, which it gives to Ghostscript to run.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
IMAGE_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"),
}
# Of images that nothing here decodes: such a file is refused by name.
UNREAD_SUFFIXES = {".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".psd", ".dcm", ".npy"}
MOST_PIXELS = 89_478_485  # Pillow's own line for what may be a decompression bomb
_BITS, _PHOTOMETRIC, _BLACK_IS_ZERO = 258, 262, 1  # tags of TIFF
_ORIENTATION, _FIRST_TURNED = 274, 5  # EXIF's tag; from 5 on width and height change places
_GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}


def decode(
    source: bytes | Path, shape: Shape, where: str = "an image", any_size: bool = True
) -> NDArray[np.uint8]:
    """One image file to uint8 (C, H, W), by area (a box filter) where its size is another.

    ``where``: what a message calls bytes.  Without ``any_size`` only the shape's own size and
    larger ones of its proportions are taken.  Raises DataError if it can't be decoded, or if no
    rule says what its pixels mean.
    """
    if isinstance(source, Path):
        where, source = shown(source), read_bytes(source)
    with parsing(f"{where} can't be decoded", "remove or replace it"):
        image = _opened(source, where).convert("L" if shape.channels == 1 else "RGB")
        if image.size != (shape.width, shape.height):
            if not any_size:
                _require_proportions(image, shape, where)
            image = image.resize((shape.width, shape.height), Image.Resampling.BOX)
        pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if shape.channels == 1 else pixels.transpose(2, 0, 1)


def decode_all(
    sources: Sequence[bytes | Path],
    shape: Shape,
    where: Sequence[str] | None = None,
    any_size: bool = True,
) -> NDArray[np.uint8]:
    """Image files to uint8 (N, C, H, W); decoders release the GIL, so threads help."""
    images = np.empty((len(sources), shape.channels, shape.height, shape.width), np.uint8)
    names = where or ["an image"] * len(sources)
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # of Pillow's: what matters is raised
        found = pool.map(lambda s, name: decode(s, shape, name, any_size), sources, names)
        for i, pixels in enumerate(found):
            images[i] = pixels
    return images


def about_image(source: bytes | Path, where: str) -> tuple[tuple[int, int], bool]:
    """Width and height of an image that stands upright, and whether it has colour, by its header.

    Raises DataError for what is no image.
    """
    content = read_bytes(source) if isinstance(source, Path) else source
    with parsing(f"{where} can't be decoded", "remove or replace it"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = _recognised(content, where)
        turned = file.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
        size = (file.height, file.width) if turned else (file.width, file.height)
        return size, file.mode not in _GREY


def _recognised(content: bytes, where: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise DataError(
            f"{where} can't be decoded (it is not a {', '.join(FORMATS[:-1])}, PPM or PGM file): "
            "remove or replace it"
        ) from None


def _opened(content: bytes, where: str) -> Image.Image:
    """Upright, opaque, 8 bits a channel."""
    with _recognised(content, where) as file:
        _require_one_picture(file, where)
        upright = ImageOps.exif_transpose(file)
        return _on_white(upright) if upright.mode in _EIGHT_BITS else _scaled(upright, file, where)


_EIGHT_BITS = {
    *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"),
    *("CMYK", "YCbCr", "LAB", "HSV"),
}


def _require_one_picture(file: Image.Image, where: str) -> None:
    if file.width * file.height > MOST_PIXELS:
        raise DataError(
            f"{where} has {file.width}×{file.height} pixels, more than {MOST_PIXELS:,}: "
            "make it smaller"
        )
    frames = getattr(file, "n_frames", 1)
    if frames > 1 and file.format != "MPO":
        raise DataError(f"{where} holds {frames} frames: keep the one that is meant")


def _require_proportions(image: Image.Image, shape: Shape, where: str) -> None:
    width, height = image.size
    if width * shape.height != height * shape.width or width < shape.width:
        raise DataError(
            f"{where} has {width}×{height} pixels, the data set's images {shape.width}×"
            f"{shape.height}: only larger ones of the same proportions are made smaller"
        )


def _on_white(image: Image.Image) -> Image.Image:
    """Without transparency: hidden colours don't count, what shows through is white."""
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)


def _scaled(image: Image.Image, file: Image.Image, where: str) -> Image.Image:
    """16-bit grey to 8 bits: 65,535 is 255 times 257."""
    if not _has_full_range(file) or image.has_transparency_data:
        raise DataError(
            f"{where} has pixels of Pillow's mode {image.mode}, whose range nothing tells: "
            "save it with 8 bits a channel"
        )
    values = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _has_full_range(file: Image.Image) -> bool:
    """Whether black is 0 and white 65,535, as PNG and PGM say, and TIFF can."""
    if file.format == "TIFF":
        tags = getattr(file, "tag_v2", {})
        told = tags.get(_BITS), tags.get(_PHOTOMETRIC)
        return file.mode.startswith("I;16") and told == ((16,), _BLACK_IS_ZERO)
    return (file.format, file.mode) in {("PNG", "I;16"), ("PPM", "I")}
