"""What people get wrong at the doors of the package: each is refused in a sentence that helps."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import FakeData

import vit_helpers as vit
from vit_helpers import Tiles, VisionTransformer, fit, load_tiles, normalize
from vit_helpers.publish import places

BYTES = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
TILES = Tiles(torch.zeros(20, 3, 16, 16, dtype=torch.uint8), torch.arange(20) % 2, ("a", "b"))
SMALL = {"img_size": 16, "num_classes": 2, "embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 16}


def small(**changes):
    return VisionTransformer(**{**SMALL, **changes})


def train(model=None, tiles=TILES, recipe=vit.PLAIN):
    return fit(model or small(), tiles, epochs=1, recipe=recipe)


REFUSALS = {
    "sine-cosine width": (lambda _: small(embed_dim=18, positions="sincos"), ValueError, "choose 16 or 20"),
    "unknown positions": (lambda _: small(positions="sine"), ValueError, "'sine' is unknown; choose.*sincos"),
    "convolutional stem": (lambda _: small(img_size=18, patch_size=6, stem="conv"), ValueError, "2, 4, 8, "),
    "normalized twice": (lambda _: normalize(torch.zeros(3, 8, 8)), TypeError, "normalized already"),
    "floats as tiles": (lambda _: Tiles(BYTES.float(), [0, 1]), TypeError, "float32.*torch.uint8"),
    "one label missing": (lambda _: Tiles(BYTES, [0]), ValueError, "must be 2 whole nu"),
    "label beyond": (lambda _: Tiles(BYTES, [0, 2], "ab"), ValueError, "must be 0 to 1"),
    "unknown source": (lambda _: load_tiles("sentinel"), ValueError, "'auto', 'eurosat' or 'synthetic'"),
    "one class": (lambda _: train(tiles=TILES.select(range(0, 20, 2))), ValueError, "at least two classes"),
    "other classes": (lambda _: train(small(num_classes=3)), ValueError, "num_classes=2"),
    "layers of a CNN": (lambda _: train(torch.nn.Linear(8, 2), recipe=vit.FINETUNE), ValueError,
                        "no parameters named `blocks.*layer_decay=1"),
    "other data": (lambda _: train(tiles=DataLoader(TILES)), TypeError, r"DataLoader; use Tiles\.from_"),
    "other tests": (lambda _: fit(small(), TILES, Subset(TILES, [0]), epochs=1), TypeError, "not Subset; us"),
    "other data to judge": (lambda _: vit.evaluate(small(), FakeData(4)), TypeError, r"Tiles\(images, label"),
    "nothing to judge": (lambda _: vit.evaluate(small(), TILES.select([])), ValueError, "at least one"),
    "two views": (lambda _: vit.evaluate(small(), TILES, views=2), ValueError, "neither 1 nor 8"),
    "no picture file": (lambda tmp: vit.load_picture(tmp / "no.png"), FileNotFoundError, "check the name"),
    "unknown weights": (lambda _: vit.load_pretrained("best"), ValueError, "'eurosat'.*weights/mine.pt"),
    "evidence of CLS": (lambda _: vit.patch_evidence(small(), BYTES), ValueError, "'mean'"),
    "address": (lambda _: places("git@github.com:a/b"), ValueError, "https://github.com/OWNER/REPO"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_it_is_refused_in_a_sentence_that_helps(what, tmp_path):
    do, kind, words = REFUSALS[what]
    with pytest.raises(kind, match=words):
        do(tmp_path)


def test_code_in_a_file_of_weights_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="whole file of weights"):
        vit.load_weights(small(), tmp_path / "evil.pt")
    np.save(tmp_path / "evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    assert vit.eurosat.mapped(tmp_path / "evil.npy") is None
    assert not (tmp_path / "ran").exists()
