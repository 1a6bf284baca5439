"""Pictures of one's own: any image file is read upright and in color, or refused; and what is said to it."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from vit_helpers import CLASSES, load_picture, load_pretrained, load_tiles, normalize, pictures, predict

LEFT_RED = np.zeros((40, 40, 3), np.uint8)                   # red left half, blue right half
LEFT_RED[:, :20, 0] = LEFT_RED[:, 20:, 2] = 255


def saved(tmp_path, image, name="picture.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "gif", "bmp"])
def test_every_common_format_is_read(tmp_path, suffix):
    image = load_picture(saved(tmp_path, Image.fromarray(LEFT_RED), f"picture.{suffix}"))
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8 and image.is_contiguous()
    assert image[0, :, :28].float().mean() > 240 and image[2, :, 36:].float().mean() > 240


def test_any_size_becomes_the_middle_square(tmp_path):
    for size in ((300, 100), (1, 1), (1, 500), (63, 65)):
        assert load_picture(saved(tmp_path, Image.new("RGB", size)), size=32).shape == (3, 32, 32)
    wide = Image.fromarray(np.pad(np.full((64, 64), 255, np.uint8), ((0, 0), (64, 64))))    # white within
    assert load_picture(saved(tmp_path, wide)).min() == 255


def test_a_camera_that_was_turned_is_followed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6                                         # turn by 90 degrees clockwise to see it upright
    file = saved(tmp_path, Image.fromarray(LEFT_RED), "turned.jpg", exif=exif)
    image = load_picture(file)
    assert torch.equal(image, load_picture(Image.open(file)))
    assert image[0, :28].float().mean() > 240 and image[2, 36:].float().mean() > 240     # red is above now


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "I", "F"])
def test_every_color_mode_becomes_rgb(tmp_path, mode):
    image = Image.fromarray(np.linspace(0, 255, 64, dtype=np.uint8)[None].repeat(64, axis=0)).convert(mode)
    found = load_picture(saved(tmp_path, image, "picture.tif")).float()
    assert (found[0] - found[1]).abs().max() <= 3
    assert found[:, :, :8].mean() < 60 and found[:, :, -8:].mean() > 195


def test_what_is_transparent_becomes_white(tmp_path):
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))      # invisible red
    image.paste((0, 0, 255, 255), (0, 0, 32, 64))
    found = load_picture(saved(tmp_path, image))
    assert found[:, :, 40:].min() == 255 and found[2, :, :28].min() == 255 and found[0, :, :28].max() == 0
    assert load_picture(saved(tmp_path, Image.new("P", (64, 64)), transparency=0)).min() == 255


# From black to white in 64 steps, green at half of it, blue at a quarter: numbers (64, 64, 3), 0 to 1.
RAMP = np.linspace(0, 1, 64)[None, :, None].repeat(64, axis=0) * [1, 0.5, 0.25]


def png_16(values):
    """A PNG with 16 bits in each color, which Pillow cannot write."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    size = struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", size), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(values, order="<", extra=()):
    """A TIFF of numbers (64, 64, bands), which Pillow cannot write either; extra: tag 338, about band 4."""
    bands, data = values.shape[2], values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, bands, 200), (259, 4, 1, 1), (262, 4, 1, 2),
            (273, 4, 1, 250), (277, 4, 1, bands), (278, 4, 1, 64), (279, 4, 1, len(data)), *extra]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    head += b"".join(struct.pack(f"{order}HHII", *tag) for tag in tags)
    bits = struct.pack(f"{order}H", 8 * values.itemsize) * bands
    return (head.ljust(200, b"\0") + bits).ljust(250, b"\0") + data


def in_file(image, **options):
    image.save(stream := io.BytesIO(), "TIFF", **options)
    return stream.getvalue()


@pytest.mark.parametrize("top", [65535, 4095, 3000])
@pytest.mark.parametrize("form", [png_16, tiff, lambda values: tiff(values, ">"), np.asarray,
                                  lambda values: in_file(Image.fromarray(values[:, :, 0]))])
def test_16_bits_12_bits_and_reflectance_are_as_bright_as_they_were_meant(form, top):
    found = load_picture(form((RAMP * top).round().astype(np.uint16))).float()
    wanted = torch.from_numpy(RAMP * 255).permute(2, 0, 1).float()
    wanted = wanted if found[2].max() < 200 else wanted[:1].expand(3, -1, -1)        # the last one is gray
    torch.testing.assert_close(found, wanted, atol=2, rtol=0)


@pytest.mark.parametrize("form", [
    str, lambda path: path.read_bytes(), lambda path: io.BytesIO(path.read_bytes()), Image.open,
    lambda path: np.asarray(Image.open(path)), lambda path: np.asarray(Image.open(path)).transpose(2, 0, 1),
    lambda path: np.asarray(Image.open(path)) / 255, lambda path: np.asarray(Image.open(path)).astype(int),
    lambda path: np.asarray(Image.open(path)) > 9])
def test_a_picture_may_come_in_any_form(tmp_path, form):
    path = saved(tmp_path, Image.fromarray(LEFT_RED))
    assert torch.equal(load_picture(form(path)), load_picture(path))
    assert torch.equal(predict(form(path), "synthetic").image, load_picture(path))


@pytest.mark.parametrize(("picture", "words"), [
    ("https://example.org/cat.jpg", "is an address; download the picture first"),
    (np.full((64, 64), np.nan, np.float32), r"not finite \(NaN\).*np\.nan_to_num"),
    (in_file(Image.fromarray(np.float32(RAMP[:, :, 0] - 0.5))), r"from -0\.5 to 0\.5, .*white=.*--white"),
    (png_16(RAMP * 9000), "run from 0 to 9000, which does not tell what is white"),
    (np.zeros((64, 64), np.uint16), "run from 0 to 0"),
    (np.zeros((64, 64, 13), np.uint8), r"array \(64, 64, 13\) .*choose three: array"),
    (tiff(np.zeros((64, 64, 4), np.uint8), extra=[(338, 3, 1, 0)]), "has 4 bands .*choose three"),
    (tiff(np.float32(RAMP)), "tifffile.imread"),
    (in_file(Image.new("L", (64, 64)), save_all=True, append_images=[Image.new("L", (64, 64))] * 12),
     "has 13 bands or pages")], ids=range(9))
def test_what_would_be_a_wrong_picture_is_refused_in_a_sentence_that_says_what_to_do(picture, words):
    with pytest.raises(ValueError, match=words):
        load_picture(picture)


def test_white_may_be_said_and_smaller_pages_are_overviews():
    for form in (png_16, np.asarray):                        # some of it is brighter than white
        found = load_picture(form((RAMP * 60000).astype(np.uint16)), white=30000)
        assert found[0, :, 33:].min() == 255 and found[1, 0, -1] >= 254 and 126 <= found[2, 0, -1] <= 128
    assert load_picture(np.zeros((64, 64)), white=1).max() == 0
    overview = in_file(Image.fromarray(LEFT_RED), save_all=True, append_images=[Image.new("RGB", (20, 20))])
    assert torch.equal(load_picture(overview), load_picture(LEFT_RED))


def test_damaged_huge_and_other_files_are_refused_and_neither_decoded_nor_run(tmp_path, monkeypatch):
    cut = saved(tmp_path, Image.effect_noise((64, 64), 50))
    cut.write_bytes(cut.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"picture\.png cannot be read as a picture .*truncated"):
        load_picture(cut)
    huge = saved(tmp_path, Image.new("RGB", (100, 100)), "huge.png")
    program = saved(tmp_path, Image.new("RGB", (9, 9)), "program.eps")       # PostScript is code
    monkeypatch.setattr(pictures, "MOST_PIXELS", 9999)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    for path, words in ((huge, "100 x 100 pixels.* at most 9,999 pixels"), (program, "cannot identify")):
        with pytest.raises(ValueError, match=words):
            load_picture(path)


def test_predict_says_what_the_model_says_at_its_temperature(tmp_path):
    tile, model = load_tiles("synthetic").images[7], load_pretrained("synthetic")
    found, temperature = predict(tile, "synthetic"), pictures.pretrained_facts("synthetic")["temperature"]
    wanted = (model(normalize(tile)[None])[0] / temperature).softmax(dim=0)
    torch.testing.assert_close(found.probabilities, wanted.detach())
    assert found.classes == CLASSES and torch.equal(found.image, tile)
    path = saved(tmp_path, Image.fromarray(tile.permute(1, 2, 0).numpy()))
    assert torch.equal(load_picture(str(path)), tile)        # of the right size: left as it is
    assert str(found).startswith(f"{CLASSES[wanted.argmax()]} {wanted.max():.1%}, ")
    unchecked = predict(tile, "eurosat-plain")               # made without validation tiles
    assert unchecked.usual and 0.99 < unchecked.probabilities.sum() < 1.01


def test_tiles_are_usual_and_noise_is_not():
    tiles = load_tiles("synthetic").split()[1].subset(100).images[::4]
    assert sum(predict(image, "synthetic").usual for image in tiles) >= 20           # of 25
    noise = torch.randint(256, (3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    assert str(predict(noise, "synthetic")).endswith("(unlike the tiles the model knows: do not rely on it)")
