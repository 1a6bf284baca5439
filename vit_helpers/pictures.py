"""Pictures of your own: read any image file, let a trained model say what it shows, or paint a map of a large one."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from . import arguments
from .data import CLASSES, normalize
from .evaluation import familiarity
from .pretrained import load_pretrained, pretrained_facts
from .runtime import in_eval_mode

MOST_PIXELS = 100_000_000                    # larger pictures are refused before they are decoded


def load_picture(path, size=64):
    """Any image file as uint8 (3, size, size): upright, in color, its middle square, made smaller without jagged edges.

    Rotation notes of cameras (EXIF) are followed; grayscale, palette and 16-bit pictures become RGB; what is transparent
    becomes white; of several frames the first is taken. Raises FileNotFoundError, and ValueError for a file that is
    empty, no image, damaged, or larger than 100 million pixels.
    """
    from PIL import Image, ImageOps  # here, so that importing the package stays quick

    arguments.whole(1, 10_000, size=size)
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name one image file in it")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}; check the name and the folder")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty (0 bytes); fetch or save the picture again")
    image = ImageOps.fit(upright(path, path), (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()           # (S, S, 3) -> (3, S, S)


def upright(file, name):
    """The picture in `file` (a path, or bytes in an io.BytesIO) as a PIL image in RGB, upright, see `load_picture`.

    Raises ValueError, with `name` in its words, for what is no image, damaged, or larger than 100 million pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)          # the limit is checked below
            with Image.open(file) as image:
                if image.format == "EPS":            # a program, which Pillow would give to Ghostscript to run
                    raise ValueError(f"{name} is PostScript, which is not read; use PNG, JPEG, TIFF, WebP, GIF or BMP")
                if image.width * image.height > MOST_PIXELS:
                    raise ValueError(f"{name} has {image.width:,} x {image.height:,} pixels; {MOST_PIXELS:,} are the most, "
                                     "save a smaller version")
                image = ImageOps.exif_transpose(image)
                if image.mode in ("I", "F") or image.mode.startswith("I;16"):        # 16 bits or more for each pixel
                    values = np.asarray(image, dtype=np.float32)
                    top = 65535 if values.max() > 255 else 255
                    image = Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8))
                if "A" in image.getbands() or "transparency" in image.info:
                    image = image.convert("RGBA")
                    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
                return image.convert("RGB")
    except UnidentifiedImageError as problem:
        raise ValueError(f"{name} is not an image that Pillow can read; use PNG, JPEG, TIFF, WebP, GIF or BMP") from problem
    except Image.DecompressionBombError as problem:
        raise ValueError(f"{name} has far too many pixels; {MOST_PIXELS:,} are the most, save a smaller version") from problem
    except (OSError, SyntaxError, EOFError) as problem:      # Pillow's ways to say that the data is cut off or wrong
        raise ValueError(f"{name} is damaged ({problem}); fetch or save the picture again") from problem


@dataclass(frozen=True)
class Prediction:
    """What a model says to one picture: `image` uint8 (3, S, S) as it saw it, `probabilities` float32 (K,), `classes` by name.

    `familiar`, -1 to 1: how much the picture resembles the training tiles of some class; `usual`: whether as much as 95 % of
    the validation tiles do. See lesson 09. `model` is the one that was asked.
    """

    image: torch.Tensor
    probabilities: torch.Tensor
    classes: tuple
    familiar: float
    usual: bool
    model: torch.nn.Module

    def __str__(self):
        top, index = self.probabilities.topk(3)
        said = ", ".join(f"{self.classes[i]} {p:.1%}" for p, i in zip(top.tolist(), index.tolist(), strict=True))
        return said if self.usual else f"{said} (unlike the tiles the model knows: do not rely on it)"


def predict(picture, name="auto"):
    """The Prediction of the shipped weights `name` (see load_pretrained) for an image file, or an image uint8 (3, 64, 64).

    The probabilities are calibrated: logits are divided by the temperature that was best on validation tiles.
    Raises ValueError for pictures of another shape, and what `load_picture` and `load_pretrained` raise.
    """
    model, facts = load_pretrained(name), pretrained_facts(name)
    if "temperature" not in facts:
        raise ValueError(f"the weights {facts['name']!r} are for comparison, their confidence was never checked; choose "
                         "'eurosat' or 'synthetic'")
    image = picture if torch.is_tensor(picture) else load_picture(picture, model.img_size[0])
    arguments.tensor("3 height width", image=image)
    if image.shape != (3, *model.img_size):
        raise ValueError(f"the image must be (3, {model.img_size[0]}, {model.img_size[1]}), not {tuple(image.shape)}; name "
                         "its file instead, then it is resized")
    with torch.no_grad():
        pooled = model.pooled(model.forward_features(normalize(image)[None]))        # (1, D)
        probabilities = (model.head(pooled)[0] / facts["temperature"]).softmax(dim=0)    # (K,)
    familiar = familiarity(pooled, torch.tensor(facts["class_means"])).item()
    return Prediction(image, probabilities, CLASSES, familiar, familiar >= facts["usual_from"], model)


def land_use_map(model, picture, stride=16, batch_size=256):
    """What a model for small images says about each pixel of a large one: probabilities float32 (K, H, W), on the CPU.

    The model slides over `picture`, uint8 (C, H, W), in steps of `stride` pixels; the last window of each row and column ends
    at the border. A classifier's probabilities count for its whole window, a Segmenter's for each pixel; where windows overlap,
    the mean is taken. Raises ValueError for pictures smaller than a window, and for strides that would leave pixels out.
    """
    device = arguments.device_of(model)
    arguments.device_of(getattr(model, "encoder", model), ("img_size",))
    arguments.tensor("C H W", picture=picture)
    height, width = getattr(model, "encoder", model).img_size
    if picture.ndim != 3 or picture.shape[1] < height or picture.shape[2] < width:
        raise ValueError(f"the picture must be (C, H, W) with at least {height} x {width} pixels, "
                         f"not {tuple(picture.shape)}")
    arguments.whole(1, batch_size=batch_size)
    arguments.whole(-arguments.MOST, stride=stride)
    if not 1 <= stride <= min(height, width):
        raise ValueError(f"stride={stride} must be from 1 to {min(height, width)}, or pixels between the windows are "
                         "never seen; choose 16")
    rows, columns = ([*range(0, whole - part, stride), whole - part]
                     for whole, part in zip(picture.shape[1:], (height, width), strict=True))
    corners = [(r, c) for r in rows for c in columns]

    def look():
        total, seen = 0, torch.zeros(picture.shape[1:])
        for start in range(0, len(corners), batch_size):
            some = corners[start:start + batch_size]
            windows = torch.stack([picture[:, r:r + height, c:c + width] for r, c in some])              # (B, C, h, w)
            probabilities = model(normalize(windows).to(device)).softmax(dim=1).cpu()            # (B, K) or (B, K, h, w)
            if not torch.is_tensor(total):
                total = torch.zeros(probabilities.shape[1], *picture.shape[1:])
            for (r, c), said in zip(some, probabilities, strict=True):
                total[:, r:r + height, c:c + width] += said if said.ndim == 3 else said[:, None, None]
                seen[r:r + height, c:c + width] += 1
        return total / seen

    return in_eval_mode(model, look)
