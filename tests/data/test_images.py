"""What an image file's pixels are: by Pillow's own answers, and by exact values."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from robusteval.data.folders import image_files
from robusteval.data.images import decode, decode_all
from robusteval.data.readers import Shape
from robusteval.errors import DataError

RNG = np.random.default_rng(0)
COLOUR, GREY = Shape(3, 32, 32), Shape(1, 32, 32)
RGB = RNG.integers(0, 256, (32, 32, 3), np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def oriented(orientation: int, kind: str, array: np.ndarray = RGB) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return saved(Image.fromarray(array), kind, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_an_image_is_turned_upright_as_its_exif_says(orientation: int, kind: str) -> None:
    content = oriented(orientation, kind)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert (decode(content, COLOUR).transpose(1, 2, 0) == np.asarray(shown)).all()


def test_turned_images_keep_their_proportions() -> None:
    tall = np.zeros((64, 32, 3), np.uint8)
    content = oriented(6, "PNG", tall)
    assert decode(content, Shape(3, 32, 64), any_size=False).shape == (3, 32, 64)
    assert decode(oriented(3, "JPEG", tall), Shape(3, 64, 32), any_size=False).shape == (3, 64, 32)


def pgm(values: np.ndarray, most: int) -> bytes:
    head = f"P5 {values.shape[1]} {values.shape[0]} {most}\n".encode()
    return head + values.astype(">u2").tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_from_its_full_range(kind: str) -> None:
    """257 steps to one of 8 bits, rounded to the nearest."""
    values = RNG.integers(0, 65536, (32, 32)).astype(np.uint16)
    values[0, :4] = [0, 65535, 128, 129]
    content = saved(Image.fromarray(values), kind)
    expected = np.rint(values / 257).astype(np.uint8)
    assert expected[0, :4].tolist() == [0, 255, 0, 1]
    assert (decode(content, GREY)[0] == expected).all()
    assert (decode(content, COLOUR) == expected).all()


def test_a_pgm_says_what_white_is() -> None:
    values = np.arange(1024, dtype=np.uint16).reshape(32, 32)
    found = decode(pgm(values, 1023), GREY)[0]
    assert np.abs(found - values / 1023 * 255).max() < 1


@pytest.mark.parametrize("kind", ["int32", "float32"])
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray((RNG.random((32, 32)) * 255).astype(kind)).save(path)
    with pytest.raises(DataError, match=r"x\.tif has pixels of .* 8 bits a channel"):
        decode(path, GREY)


def test_16_bit_tiffs_of_another_range_are_refused() -> None:
    """White that is zero, and 12 bits in 16, which Pillow gives in the same mode."""
    content = saved(Image.fromarray(np.zeros((32, 32), np.uint16)), "TIFF")
    photometric = content.index(b"\x06\x01\x03\x00\x01\x00\x00\x00") + 8
    bits = content.index(b"\x02\x01\x03\x00\x01\x00\x00\x00") + 8
    for at, value in ((photometric, 0), (bits, 12)):
        other = bytearray(content)
        other[at] = value
        with pytest.raises(DataError):
            decode(bytes(other), GREY)


def over(image: Image.Image) -> np.ndarray:
    """A viewer's answer: alpha · colour + (1 − alpha) · white."""
    rgba = np.asarray(image.convert("RGBA")).astype(float)
    alpha = rgba[..., 3:] / 255
    return (rgba[..., :3] * alpha + 255 * (1 - alpha)).transpose(2, 0, 1)


def test_what_is_transparent_shows_white_behind_it() -> None:
    image = Image.fromarray(RGB).convert("RGBA")
    image.putalpha(0)
    assert (decode(saved(image, "PNG"), COLOUR) == 255).all()
    image.putalpha(Image.fromarray(RNG.integers(0, 256, (32, 32), np.uint8)))
    assert np.abs(decode(saved(image, "PNG"), COLOUR) - over(image)).max() <= 1
    image.putalpha(255)
    assert (decode(saved(image, "PNG"), COLOUR) == RGB.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "LA"])
def test_every_way_to_be_transparent_counts(mode: str) -> None:
    image = Image.fromarray(np.zeros((32, 32, 3), np.uint8)).convert(mode)
    if mode == "LA":
        image.putalpha(0)
        content = saved(image, "PNG")
    else:
        content = saved(image, "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert (decode(content, COLOUR) == 255).all()
    assert (decode(content, GREY) == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_opaque_modes_are_what_pillow_makes_of_them(mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    content = saved(image, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    there = Image.open(io.BytesIO(content))
    assert (decode(content, COLOUR).transpose(1, 2, 0) == np.asarray(there.convert("RGB"))).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF"])
def test_of_several_frames_none_is_guessed(kind: str) -> None:
    others = [Image.fromarray(255 - RGB)]
    content = saved(Image.fromarray(RGB), kind, save_all=True, append_images=others)
    with pytest.raises(DataError, match="2 frames"):
        decode(content, COLOUR)
    decode(saved(Image.fromarray(RGB), kind), COLOUR)


def test_of_a_cameras_file_the_main_picture_is_read() -> None:
    black = Image.fromarray(np.zeros((32, 32, 3), np.uint8))
    content = saved(Image.fromarray(RGB), "MPO", save_all=True, append_images=[black])
    assert decode(content, COLOUR).mean() == pytest.approx(RGB.mean(), abs=2)


def test_other_formats_are_not_even_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow gives PostScript to Ghostscript, which runs it."""
    from PIL import EpsImagePlugin

    def run(*_: object, **__: object) -> None:
        raise AssertionError("PostScript was run")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    content = saved(Image.fromarray(RGB), "EPS")
    with pytest.raises(DataError, match="not a PNG, JPEG"):
        decode(content, COLOUR)


@pytest.mark.parametrize("size", [(10_000, 10_000), (20_000, 10_000), (1, 200_000_000)])
def test_giant_images_are_refused_before_they_are_decoded(size: tuple[int, int]) -> None:
    """A header is enough to tell, and Pillow's own warning is not printed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=r"more than 89,478,485|exceeds limit"):
            decode_all([f"P4 {size[0]} {size[1]}\n".encode()], COLOUR, ["giant.pbm"])


def test_a_data_sets_images_are_never_enlarged_or_stretched() -> None:
    for size in ((16, 16), (64, 32), (31, 32)):
        content = saved(Image.new("RGB", size), "PNG")
        with pytest.raises(DataError, match=f"{size[0]}×{size[1]} pixels"):
            decode_all([content], COLOUR, ["one"], any_size=False)
        assert decode_all([content], COLOUR).shape == (1, 3, 32, 32)
    blocks = RNG.integers(0, 256, (16, 16, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    content = saved(Image.fromarray(blocks), "PNG")
    found = decode_all([content], Shape(3, 16, 16), any_size=False)[0]
    assert (found.transpose(1, 2, 0) == blocks[::4, ::4]).all()


def test_names_that_are_hidden_or_no_images_are_passed_over(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "._0.png", ".DS_Store.png", "notes.txt", "sub/c.gif"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    for hidden in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        (tmp_path / hidden).mkdir()
        (tmp_path / hidden / "d.png").touch()
    found = [str(p.relative_to(tmp_path)) for p in image_files(tmp_path)]
    assert found == ["a.JPG", "b.png", os.path.join("sub", "c.gif")]
