"""Pictures of one's own: any image file is read upright and in color, or refused with a sentence; and what is said to it."""

import struct
import zlib

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

import vit_helpers.pictures as module
from vit_helpers import CLASSES, evaluate, load_picture, load_pretrained, load_tiles, predict, pretrained_facts

LEFT_RED = np.zeros((40, 40, 3), np.uint8)                   # red left half, blue right half
LEFT_RED[:, :20, 0] = LEFT_RED[:, 20:, 2] = 255


def saved(tmp_path, image, name="picture.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "gif", "bmp"])
def test_every_common_format_is_read(tmp_path, suffix):
    image = load_picture(saved(tmp_path, Image.fromarray(LEFT_RED), f"picture.{suffix}"))
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8 and image.is_contiguous()
    assert image[0, :, :28].float().mean() > 240 and image[2, :, 36:].float().mean() > 240


def test_a_tile_of_the_right_size_is_left_as_it_is(tmp_path):
    tile = load_tiles("synthetic").images[7]
    path = saved(tmp_path, Image.fromarray(tile.permute(1, 2, 0).numpy()))
    assert torch.equal(load_picture(path), tile) and torch.equal(load_picture(str(path)), tile)


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (1, 1), (1, 500), (63, 65)])
def test_any_size_becomes_the_middle_square(tmp_path, size):
    assert load_picture(saved(tmp_path, Image.new("RGB", size, "green"))).shape == (3, 64, 64)
    wide = Image.new("RGB", (192, 64), "black")
    wide.paste("white", (64, 0, 128, 64))                    # the middle third
    assert load_picture(saved(tmp_path, wide)).min() == 255


def test_a_camera_that_was_turned_is_followed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6                                         # turn by 90 degrees clockwise to see it upright
    image = load_picture(saved(tmp_path, Image.fromarray(LEFT_RED), "turned.jpg", exif=exif))
    assert image[0, :28].float().mean() > 240 and image[2, 36:].float().mean() > 240     # red is above now


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "YCbCr", "I;16", "I", "F"])
def test_every_color_mode_becomes_rgb(tmp_path, mode):
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow before 13 cannot read the YCbCr TIFF that it writes")
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)[None].repeat(64, axis=0)
    image = Image.fromarray(ramp)
    if mode in ("I;16", "I"):
        image = Image.fromarray((ramp.astype(np.int32) * 257).astype(np.uint16 if mode == "I;16" else np.int32))
    else:
        image = image.convert(mode)
    found = load_picture(saved(tmp_path, image, "picture.tif")).float()
    assert (found[0] - found[1]).abs().max() <= 3 and found[:, :, :8].mean() < 60 and found[:, :, -8:].mean() > 195


def test_what_is_transparent_becomes_white(tmp_path):
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))      # invisible red
    image.paste((0, 0, 255, 255), (0, 0, 32, 64))
    found = load_picture(saved(tmp_path, image))
    assert found[:, :, 40:].min() == 255 and found[2, :, :28].min() == 255 and found[0, :, :28].max() == 0
    palette = Image.new("P", (64, 64))
    palette.putpalette([255, 0, 0])
    assert load_picture(saved(tmp_path, palette, transparency=0)).min() == 255


def huge(path, width, height):
    """A PNG whose header promises width x height pixels, in a few bytes."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


@pytest.mark.parametrize(("content", "message"), [
    ("nothing", "picture.png is empty \\(0 bytes\\); fetch or save the picture again"),
    ("text", "picture.png is not an image that Pillow can read; use PNG, JPEG"),
    ("cut", "picture.png is damaged"),
    ("folder", "picture.png is a folder; name one image file in it"),
    ("50000", "picture.png has far too many pixels; 100,000,000 are the most"),
    ("11000", "picture.png has 11,000 x 11,000 pixels; 100,000,000 are the most, save a smaller version"),
    ("pickle", "picture.png is not an image"),
])
def test_what_is_no_picture_is_refused_with_a_sentence(tmp_path, content, message):
    path = tmp_path / "picture.png"
    if content == "folder":
        path.mkdir()
    elif content.isdigit():
        huge(path, int(content), int(content))
    elif content == "pickle":
        torch.save(torch.zeros(3), path)
    elif content == "cut":
        noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8)
        path.write_bytes(saved(tmp_path, Image.fromarray(noise)).read_bytes()[:3000])
    else:
        path.write_bytes({"nothing": b"", "text": b"this is no image"}[content])
    with pytest.raises(ValueError, match=message):
        load_picture(path)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        load_picture(tmp_path / "nowhere.png")


def test_predict_says_what_the_model_says_at_its_temperature(tmp_path):
    tile = load_tiles("synthetic").split()[1].subset(10)
    found = predict(tile.images[2], "synthetic")
    wanted = evaluate(load_pretrained("synthetic"), tile).at_temperature(pretrained_facts("synthetic")["temperature"])
    assert torch.allclose(found.probabilities, wanted.probabilities[2], atol=1e-4) and found.classes == CLASSES
    assert torch.equal(found.image, tile.images[2]) and found.probabilities.sum().item() == pytest.approx(1)
    path = saved(tmp_path, Image.fromarray(tile.images[2].permute(1, 2, 0).numpy()))
    assert torch.equal(predict(path, "synthetic").probabilities, found.probabilities)
    top = found.probabilities.argmax().item()
    assert str(found).startswith(f"{CLASSES[top]} {found.probabilities[top]:.1%}, ")
    with pytest.raises(ValueError, match=r"the image must be \(3, 64, 64\), not \(3, 32, 64\)"):
        predict(tile.images[2][:, :32], "synthetic")
    with pytest.raises(TypeError, match="uint8"):
        predict(tile.images[2].float(), "synthetic")
    with pytest.raises(ValueError, match=r"'eurosat-plain' are for comparison.*choose 'eurosat' or 'synthetic'"):
        predict(tile.images[2], "eurosat-plain")


def test_tiles_are_usual_and_noise_is_not():
    tiles = load_tiles("synthetic").split()[1].subset(100)
    usual = [predict(image, "synthetic").usual for image in tiles.images[::2]]
    noise = torch.randint(0, 256, (20, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    strange = [predict(image, "synthetic") for image in noise]
    assert sum(usual) >= 40 and not any(found.usual for found in strange)
    assert str(strange[0]).endswith("(unlike the tiles the model knows: do not rely on it)")


def test_the_limit_is_checked_before_anything_is_decoded(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("RGB", (100, 100)))
    monkeypatch.setattr(module, "MOST_PIXELS", 9999)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="100 x 100 pixels; 9,999 are the most"):
        load_picture(path)
