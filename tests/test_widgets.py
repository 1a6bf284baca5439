"""Controls: at every end of every slider there is a picture, or a sentence in its place; each has a label and a description."""

import re

import pytest
import torch

import vit_helpers
from vit_helpers import CLASSES, normalize, widgets
from vit_helpers.heads import DiffusionTransformer, MaskedAutoencoder

IMAGE = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def small_model():
    torch.manual_seed(0)
    return vit_helpers.VisionTransformer(embed_dim=32, depth=2, num_heads=2, pool="mean", positions="sincos")


def small_generator():
    torch.manual_seed(0)
    return DiffusionTransformer(vit_helpers.VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2,
                                                              pool="mean", positions="sincos"))


def leafing():
    tiles = vit_helpers.load_tiles("synthetic").subset(20)
    logits = 4 * torch.nn.functional.one_hot(tiles.labels, 10).float()
    logits[3:6] = logits[3:6].roll(1, 1)                     # three mistakes, as sure as all right answers: 86 %
    return widgets.predictions(tiles, vit_helpers.Evaluation(logits, tiles.labels, tiles.classes))


BOXES = {
    "patch_sizes": lambda: widgets.patch_sizes(IMAGE),
    "projections": lambda: widgets.projections(IMAGE, {"trained": small_model().patch_embed.proj.weight,
                                                       "patterns": torch.randn(4, 3, 8, 8)}),
    "position_similarity": lambda: widgets.position_similarity({"sine-cosine": vit_helpers.sincos_positions((4, 8), 32),
                                                                "noise": torch.randn(32, 8)}, (4, 8)),
    "attention": lambda: widgets.attention(IMAGE, vit_helpers.attention_maps(small_model(), normalize(IMAGE)[None])[0], (8, 8)),
    "learning_rates": lambda: widgets.learning_rates(vit_helpers.measured("learning_rate")),
    "predictions": leafing,
    "patch_size_study": lambda: widgets.patch_size_study(IMAGE, vit_helpers.measured("patch_size")),
    "images_study": lambda: widgets.images_study(vit_helpers.measured("images")),
    "masked": lambda: widgets.masked(normalize(IMAGE), MaskedAutoencoder(small_model())),
    "guidance": lambda: widgets.guidance(small_generator(), CLASSES, solver_steps=1, options=(0.0, 1.0, 4.0)),
}


def ends(control):
    """The first and the last value of a control."""
    if hasattr(control, "min"):
        return control.min, control.max
    return tuple(option[1] if isinstance(option, tuple) else option for option in (control.options[0], control.options[-1]))


def alt(box):
    return re.fullmatch(r'<img alt="([^"]+)" style="[^"]*" src="data:image/png;base64,[\w+/=]+">', box.picture.value)[1]


@pytest.fixture(params=BOXES)
def box(request):
    return BOXES[request.param]()


def test_every_control_of_the_package_is_tested_here():
    functions = {name for name, value in vars(widgets).items() if getattr(value, "__module__", "") == widgets.__name__}
    assert functions - {"Box", "number", "steps", "place"} == BOXES.keys()


def test_each_control_has_a_label_a_description_and_keys(box):
    assert "Tab: next control" in box.children[0].value
    for control in box.controls.values():
        assert control.description and len(control.tooltip) > 10
        assert control in box.children and control.tabbable is not False
    assert box.children[-1].children[0] is box.picture


def test_there_is_a_picture_or_a_sentence_at_both_ends_of_every_control(box):
    assert len(alt(box)) > 30
    for control in box.controls.values():
        before, shown = control.value, set()
        for value in ends(control):
            control.value = value
            shown.add(box.picture.value)
            assert box.picture.value.startswith("<img alt=") or "<b>No picture:</b>" in box.picture.value
        assert len(shown) == 2 or control.description == "page", f"{control.description} changes nothing"
        control.value = before


def test_a_picture_is_drawn_once_for_each_value():
    box = widgets.patch_sizes(IMAGE)
    first, drawn = box.picture.value, []
    box.draw = lambda **values: drawn.append(values) or widgets.plotting.patch_lines(IMAGE, 16)
    box.controls["patch_size"].value = 16
    box.controls["patch_size"].value = 8
    assert box.picture.value == first and drawn == [{"patch_size": 16}]


def test_a_patch_size_that_does_not_fit_is_explained_in_the_place_of_the_picture():
    box = widgets.patch_sizes(IMAGE)
    assert "8 x 8 = 64 tokens of 192 numbers, 4,096 pairs" in alt(box)
    box.controls["patch_size"].value = 10
    assert box.picture.value == ('<p role="alert"><b>No picture:</b> image height 64 is not divisible by patch size 10; '
                                 'choose a patch size such as 4, 8, 16</p>')
    box.controls["patch_size"].value = 1
    assert "64 x 64 = 4,096 tokens" in alt(box)


def test_a_filter_is_shown_with_its_own_numbers():
    box = BOXES["projections"]()
    box.controls["index"].value = 5
    proj = small_model().patch_embed.proj
    values = proj(normalize(IMAGE)[None])[0, 5] - proj.bias[5]
    assert f"numbers from {values.min():.3g}" in alt(box) and "trained, number 5" in alt(box)
    box.controls["kind"].value = "patterns"
    assert "No picture:</b> there are 4 patterns; the last one is number 3" in box.picture.value


def test_a_click_on_a_patch_moves_both_sliders():
    box = BOXES["attention"]()
    buttons = [button for row in box.children[-1].children[1].children[1:] for button in row.children]
    assert len(buttons) == 64 and not any(button.tabbable for button in buttons)
    before = box.picture.value
    buttons[8 * 6 + 1].click()
    assert (box.controls["row"].value, box.controls["column"].value) == (6, 1) and box.picture.value != before
    mean = IMAGE[:, 48:56, 8:16].float().mean(dim=(1, 2)).int().tolist()
    assert buttons[8 * 6 + 1].style.button_color == "#{:02x}{:02x}{:02x}".format(*mean)


def test_temperature_evens_out_or_sharpens_the_shares_and_one_is_the_model():
    maps = vit_helpers.attention_maps(small_model(), normalize(IMAGE)[None])[0]
    seen = []
    box = widgets.attention(IMAGE, maps, (8, 8))
    original = widgets.plotting.attention_on_image
    box.drawn.clear()
    try:
        widgets.plotting.attention_on_image = lambda image, shares, *rest: seen.append(shares) or original(image, shares, *rest)
        box.controls["row"].value, box.controls["column"].value = 2, 3
        box.controls["temperature"].value = 10.0
        box.controls["temperature"].value = 0.1
    finally:
        widgets.plotting.attention_on_image = original
    model, even, sharp = seen[-3:]
    assert torch.allclose(model.flatten(1), maps[-1, :, 2 * 8 + 3], atol=1e-6)
    assert even.amax() < model.amax() < sharp.amax() and torch.allclose(sharp.sum(dim=(1, 2)), torch.ones(2), atol=1e-5)


def test_positions_are_compared_by_cosine():
    box = BOXES["position_similarity"]()
    assert "cosine from" in alt(box) and "to 1" in alt(box) and "sine-cosine: row 3, column 3" in alt(box)


def test_the_browser_of_predictions_finds_mistakes_by_class_and_confidence():
    box = leafing()
    assert "3 tiles, page 1 of 1" in alt(box) and alt(box).count("(86%)") == 3
    box.controls["kind"].value = "right"
    assert "17 tiles, page 1 of 6" in alt(box)
    box.controls["page"].value = 200
    assert "page 6 of 6" in alt(box)
    box.controls["above"].value = 100
    assert "No picture:</b> no tile of any class, shown: right, has a confidence of 100 % or more" in box.picture.value


def test_the_share_that_is_hidden_is_the_share_that_was_asked_for():
    box = BOXES["masked"]()
    assert "16 patches seen, painted, truth" in alt(box)
    box.controls["hidden"].value = 95
    assert "3 patches seen" in alt(box)


def test_stored_learning_rates_are_shown_beside_the_best():
    study = vit_helpers.measured("learning_rate")
    box = widgets.learning_rates(study)
    last = study["rows"][-1]
    box.controls["rate"].value = last["learning_rate"]
    assert f"Learning rate 0.1: {last['accuracy'][0]:.1%} of 4,320 validation tiles right" in alt(box)
    assert "0.001, the best from 2.19 to 1.02" in alt(box)
