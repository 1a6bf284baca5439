"""Pictures of your own: read an image file, let a trained model say what it shows, map a large one."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .data import CLASSES, normalize
from .evaluation import familiarity
from .pretrained import load_pretrained, pretrained_facts
from .runtime import eval_mode, smoke

MOST_PIXELS = 100_000_000                                # larger pictures are refused before they are decoded


def load_picture(path, size=64):
    """Any image file as uint8 (3, size, size): upright, in color, its middle square, smoothly shrunk.

    Rotation notes of cameras (EXIF) are followed; grayscale, palette and 16-bit pictures become RGB; what is
    transparent becomes white; of several frames the first is taken. Raises FileNotFoundError, and ValueError
    for a file that is no image, damaged, or larger than 100 million pixels.
    """
    from PIL import Image, ImageOps  # here, so that importing the package stays quick

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}; check the name and the folder")
    try:
        with Image.open(path, formats=["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"]) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"it has {image.width:,} x {image.height:,} pixels")
            image = ImageOps.exif_transpose(image)
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):        # 16 bits or more a pixel
                values = np.asarray(image, dtype=np.float32)
                top = 65535 if values.max() > 255 else 255
                image = Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8))
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    except Exception as problem:                         # Pillow's many ways to say that the data is wrong
        raise ValueError(f"{path} cannot be read as a picture ({problem}); save it again as PNG, JPEG, TIFF, "
                         f"WebP, GIF or BMP, of at most {MOST_PIXELS:,} pixels") from problem
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()       # (S, S, 3) -> (3, S, S)


@dataclass(frozen=True)
class Prediction:
    """A model's answer to one picture: `image` uint8 (3, S, S) as it saw it, `probabilities` (K,), `classes`.

    `familiar`, -1 to 1: how much the picture resembles the training tiles of some class; `usual`: whether as
    much as 95 % of the validation tiles do. See lesson 09. `model` is the one that was asked.
    """

    image: torch.Tensor
    probabilities: torch.Tensor
    classes: tuple
    familiar: float
    usual: bool
    model: torch.nn.Module

    def __str__(self):
        top, index = self.probabilities.topk(3)
        said = ", ".join(f"{self.classes[i]} {p:.1%}" for p, i in zip(top, index, strict=True))
        return said if self.usual else f"{said} (unlike the tiles the model knows: do not rely on it)"


def predict(picture, name="auto"):
    """The Prediction of the shipped weights `name` for an image file, or an image uint8 (3, 64, 64).

    The probabilities are calibrated: logits are divided by the temperature that was best on validation tiles.
    """
    model, facts = load_pretrained(name), pretrained_facts(name)
    if "temperature" not in facts:
        raise ValueError(f"the confidence of {facts['name']!r} was never checked; choose 'eurosat'")
    image = picture if torch.is_tensor(picture) else load_picture(picture, model.img_size[0])
    with torch.no_grad():
        pooled = model.pooled(model.forward_features(normalize(image)[None]))        # (1, D)
        probabilities = (model.head(pooled)[0] / facts["temperature"]).softmax(dim=0)    # (K,)
    familiar = familiarity(pooled, torch.tensor(facts["class_means"])).item()
    return Prediction(image, probabilities, CLASSES, familiar, familiar >= facts["usual_from"], model)


def land_use_map(model, picture, stride=16, batch_size=256):
    """What a model for small images says of each pixel of a large one: probabilities (K, H, W), on the CPU.

    The model slides over `picture`, uint8 (C, H, W), in steps of `stride` pixels; the last window of each row
    and column ends at the border. A classifier's probabilities count for its whole window, a Segmenter's for
    each pixel; where windows overlap, the mean is taken. Raises ValueError for pictures smaller than a
    window, and too wide strides.
    """
    (height, width), device = getattr(model, "encoder", model).img_size, next(model.parameters()).device
    if picture.shape[1] < height or picture.shape[2] < width or not 1 <= stride <= min(height, width):
        raise ValueError(f"windows of {height} x {width} pixels cannot cover {tuple(picture.shape)} with "
                         f"stride={stride}; give a larger picture, and a stride of 1 to {min(height, width)}")
    stride = max(stride, min(height, width)) if smoke() else stride
    rows, columns = ([*range(0, whole - part, stride), whole - part]
                     for whole, part in zip(picture.shape[1:], (height, width), strict=True))
    corners, total, seen = [(r, c) for r in rows for c in columns], 0, torch.zeros(picture.shape[1:])
    with eval_mode(model), torch.no_grad():
        for start in range(0, len(corners), batch_size):
            some = corners[start:start + batch_size]
            windows = torch.stack([picture[:, r:r + height, c:c + width] for r, c in some])
            probabilities = model(normalize(windows).to(device)).softmax(dim=1).cpu()    # (B, K[, h, w])
            if start == 0:
                total = torch.zeros(probabilities.shape[1], *picture.shape[1:])
            for (r, c), said in zip(some, probabilities, strict=True):
                total[:, r:r + height, c:c + width] += said if said.ndim == 3 else said[:, None, None]
                seen[r:r + height, c:c + width] += 1
    return total / seen
