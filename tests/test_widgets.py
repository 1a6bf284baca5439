"""Controls: at both ends of every slider there is a picture, or a sentence in its place; each has a label."""

import re

import pytest
import torch

import vit_helpers
from vit_helpers import CLASSES, normalize, widgets
from vit_helpers.heads import DiffusionTransformer, MaskedAutoencoder

IMAGE = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def small(img_size=64):
    torch.manual_seed(0)
    return vit_helpers.VisionTransformer(img_size, 8, embed_dim=32, depth=2, num_heads=2, pool="mean")


def leafing():
    tiles = vit_helpers.load_tiles("synthetic").subset(20)
    logits = 4 * torch.nn.functional.one_hot(tiles.labels, 10).float()
    logits[3:6] = logits[3:6].roll(1, 1)         # three mistakes, as sure as all right answers: 86%
    return widgets.predictions(tiles, vit_helpers.Evaluation(logits, tiles.labels, tiles.classes))


MAPS = vit_helpers.attention_maps(small(), normalize(IMAGE)[None])[0]
BOXES = {
    "patch_sizes": lambda: widgets.patch_sizes(IMAGE),
    "projections": lambda: widgets.projections(IMAGE, {"trained": small().patch_embed.proj.weight,
                                                       "patterns": torch.randn(4, 3, 8, 8)}),
    "position_similarity": lambda: widgets.position_similarity(
        {"sine-cosine": vit_helpers.sincos_positions((4, 8), 32), "noise": torch.randn(32, 8)}, (4, 8)),
    "attention": lambda: widgets.attention(IMAGE, MAPS, (8, 8)),
    "predictions": leafing,
    "masked": lambda: widgets.masked(normalize(IMAGE), MaskedAutoencoder(small())),
    "guidance": lambda: widgets.guidance(DiffusionTransformer(small(32)), CLASSES, 1, (0.0, 1.0, 4.0)),
}


def alt(box):
    return re.fullmatch(r'<img alt="([^"]+)" .*src="data:image/png;base64,.+">', box.picture.value)[1]


@pytest.mark.parametrize("name", BOXES)
def test_every_control_has_a_label_and_answers_at_both_ends(name):
    box = BOXES[name]()
    assert "Tab: next control" in box.children[0].value and len(alt(box)) > 30
    for control in box.controls.values():
        assert control.description and len(control.tooltip) > 10 and control.tabbable is not False
        before, shown, names = control.value, set(), getattr(control, "options", None)
        for end in ((0, len(names) - 1) if names else (control.min, control.max)):
            setattr(control, "index" if names else "value", end)
            shown.add(box.picture.value)
            assert box.picture.value.startswith("<img alt=") or "<b>No picture:</b>" in box.picture.value
        assert len(shown) == 2 or control.description == "page", f"{control.description} changes nothing"
        control.value = before


def test_a_size_that_does_not_fit_is_explained_and_what_was_drawn_is_kept(monkeypatch):
    original, drawn = widgets.plotting.patch_lines, []
    monkeypatch.setattr(widgets.plotting, "patch_lines", lambda *a, **k: drawn.append(a) or original(*a, **k))
    box = widgets.patch_sizes(IMAGE)
    box.controls["patch_size"].value = 10
    assert '<p role="alert"><b>No picture:</b> image height 64 is not divisible by' in box.picture.value
    box.controls["patch_size"].value = 8
    assert "8 x 8 = 64 tokens of 192 numbers, 4,096 pairs" in alt(box) and len(drawn) == 1


def test_a_filter_is_shown_with_its_own_numbers():
    box, proj = BOXES["projections"](), small().patch_embed.proj
    box.controls["index"].value = 5
    least = (proj(normalize(IMAGE)[None])[0, 5] - proj.bias[5]).min()
    assert f"numbers from {least:.3g}" in alt(box) and "trained, number 5" in alt(box)
    box.controls["kind"].value = "patterns"
    assert "No picture:</b> there are 4 patterns; the last one is number 3" in box.picture.value


def test_a_click_on_a_patch_moves_both_sliders_and_temperature_sharpens(monkeypatch):
    original, seen = widgets.plotting.attention_on_image, []
    monkeypatch.setattr(widgets.plotting, "attention_on_image", lambda *a: seen.append(a[1]) or original(*a))
    box = BOXES["attention"]()
    buttons, box.controls["block"].value = box.children[-1].children[1].children[1].children, 0
    buttons[49].click()
    assert (box.controls["row"].value, box.controls["column"].value) == (6, 1)
    mean = IMAGE[:, 48:56, 8:16].float().mean(dim=(1, 2)).int().tolist()
    assert buttons[49].style.button_color == "#{:02x}{:02x}{:02x}".format(*mean)
    torch.testing.assert_close(seen[-1].flatten(1), MAPS[0, :, 49])          # temperature 1 is the model
    for box.controls["temperature"].value in (10.0, 0.1):
        torch.testing.assert_close(seen[-1].sum(dim=(1, 2)), torch.ones(2))
    assert seen[-2].amax() < seen[-3].amax() < seen[-1].amax()


def test_the_browser_of_predictions_finds_mistakes_by_class_and_confidence():
    box = leafing()
    assert "3 tiles, page 1 of 1" in alt(box) and alt(box).count("(86%)") == 3
    box.controls["truth"].value = CLASSES[2]
    assert "2 tiles" in alt(box)
    box.controls["truth"].value = "all"
    box.controls["kind"].value = "right"
    box.controls["page"].value = 200
    assert "17 tiles, page 6 of 6" in alt(box)
    box.controls["above"].value = 100
    assert "No picture:</b> no tile (class: all, shown: right) has a confidence of 100" in box.picture.value


def test_a_control_draws_for_the_value_that_it_shows(monkeypatch):
    asked, cosines, generate, cell_maps = [], [], widgets.generate, widgets.plotting.cell_maps
    monkeypatch.setattr(widgets, "generate", lambda *a: asked.append(a[2]) or generate(*a))
    monkeypatch.setattr(widgets.plotting, "cell_maps", lambda maps, labels, mark, **k: cosines.append(
        maps[0][mark]) or cell_maps(maps, labels, mark=mark, **k))
    assert [BOXES[name]() for name in ("guidance", "position_similarity")] and set(asked) == {0, 1, 4}
    assert cosines == pytest.approx([1]) and ": 16 patches seen" in alt(BOXES["masked"]())
