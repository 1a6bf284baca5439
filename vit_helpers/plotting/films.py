"""Pictures of films: the frames of a clip side by side."""

from .. import arguments
from .base import COLORS, as_pixels, new_picture, several, show


def film_strips(clips, labels, title="", wrong=None, scale=0.85):
    """Clips (n, T, 3, H, W), uint8 or normalized: one row for each, its frames from left to right, its label before it.

    wrong: for each clip whether its label is to be marked as a mistake, by color, bold letters and a cross.
    """
    several(clips=clips)
    arguments.array(first=clips[0])
    several(frames=clips[0])
    arguments.names(len(clips), labels=labels)
    arguments.as_many(len(clips), wrong=wrong)
    arguments.above(0, scale=scale)
    n, frames = len(clips), len(clips[0])
    wrong = [False] * n if wrong is None else [bool(w) for w in wrong]
    named = ", ".join(f"{label}{' (wrong)' * w}".replace("\n", " ") for label, w in zip(labels, wrong, strict=True))
    alt = f"{title}. {n} film strip{'s' * (n > 1)} of {frames} frames each, top to bottom: {named}."
    picture, axes = new_picture(title, alt, n, frames, figsize=(frames * scale + 1.6, n * scale + 0.6))
    for i, (row, clip, label, mistaken) in enumerate(zip(axes, clips, labels, wrong, strict=True)):
        for t, (axis, image) in enumerate(zip(row, clip, strict=True)):
            show(axis, as_pixels(image), f"frame {t}" if i == 0 else "")
        row[0].set_ylabel(f"{label} ✗" if mistaken else label, rotation=0, ha="right", va="center", fontsize=8,
                          color=COLORS[1] if mistaken else "black", fontweight="bold" if mistaken else "normal")
    return picture
