"""Pictures of one's own: any image file is read upright and in color, or refused; and what is said to it."""

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
    image = load_picture(saved(tmp_path, Image.fromarray(LEFT_RED), "turned.jpg", exif=exif))
    assert image[0, :28].float().mean() > 240 and image[2, 36:].float().mean() > 240     # red is above now


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "I;16", "I", "F"])
def test_every_color_mode_becomes_rgb(tmp_path, mode):
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)[None].repeat(64, axis=0)
    wide = {"I;16": np.uint16, "I": np.int32}.get(mode)      # 16 bits a pixel
    image = Image.fromarray(ramp.astype(wide) * 256) if wide else Image.fromarray(ramp).convert(mode)
    found = load_picture(saved(tmp_path, image, "picture.tif")).float()
    assert (found[0] - found[1]).abs().max() <= 3
    assert found[:, :, :8].mean() < 60 and found[:, :, -8:].mean() > 195


def test_what_is_transparent_becomes_white(tmp_path):
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))      # invisible red
    image.paste((0, 0, 255, 255), (0, 0, 32, 64))
    found = load_picture(saved(tmp_path, image))
    assert found[:, :, 40:].min() == 255 and found[2, :, :28].min() == 255 and found[0, :, :28].max() == 0
    assert load_picture(saved(tmp_path, Image.new("P", (64, 64)), transparency=0)).min() == 255


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
    assert torch.equal(predict(path, "synthetic").probabilities, found.probabilities)
    assert str(found).startswith(f"{CLASSES[wanted.argmax()]} {wanted.max():.1%}, ")
    with pytest.raises(ValueError, match=r"'eurosat-plain' was never checked; choose 'eurosat'"):
        predict(tile, "eurosat-plain")


def test_tiles_are_usual_and_noise_is_not():
    tiles = load_tiles("synthetic").split()[1].subset(100).images[::4]
    assert sum(predict(image, "synthetic").usual for image in tiles) >= 20           # of 25
    noise = torch.randint(256, (3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    assert str(predict(noise, "synthetic")).endswith("(unlike the tiles the model knows: do not rely on it)")
