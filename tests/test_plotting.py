"""Pictures: what is drawn is the data, and every picture can be read without being seen."""

import io

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.text import Text
from PIL import Image

from vit_helpers import CLASSES, normalize, patch_evidence, plotting, predict
from vit_helpers.plotting import COLORS, scenes

IMAGES = torch.randint(0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
CELLS = torch.tensor([[[0.0, 0.1], [0.2, 0.4]], [[3, 2], [1, -1]]])                      # (M, rows, columns)
BOXES = torch.tensor([[0, 0, 0.5, 0.5], [0.5, 0.25, 1, 0.75]])
REGIONS = torch.tensor([[0] * 8 + [7] * 8, [0] * 4 + [7] * 12])[:, None].expand(2, 16, 16)


def read(picture):
    """The axes of a picture and its words, if it is a picture that everybody can read."""
    assert picture.alt.startswith("Tiles. ") and len(picture.alt) > 30
    data, metadata = picture._repr_mimebundle_()
    assert data["text/plain"] == metadata["image/png"]["alt"] == picture.alt
    image = Image.open(io.BytesIO(data["image/png"]))
    assert 200 <= image.width <= 1400 and len(np.unique(np.asarray(image.convert("L")))) > 5
    assert picture.canvas.manager is None                # unknown to pyplot: shown once, not kept in memory
    for axis in picture.axes:
        for shown in axis.images:
            assert shown.get_array().ndim == 3 or shown.get_cmap().name in (plotting.MAP, scenes.LAND.name)
        assert all(not text.get_text() or text.get_fontsize() >= 6 for text in axis.findobj(Text))
    return picture.axes, picture.alt


def pixels(axis):
    return np.asarray(axis.images[0].get_array())


def texts(axis):
    return [text.get_text() for text in axis.texts]


def corners(axis):                                       # the left and top of each frame, from 0 to 1
    return [(frame.get_x(), 1 - frame.get_y()) for frame in axis.patches]


@pytest.mark.parametrize("images", [IMAGES, normalize(IMAGES), normalize(IMAGES).requires_grad_()])
def test_image_grid_shows_each_image_under_its_label(images):
    axes, alt = read(plotting.image_grid(images, ["Forest"] * 5 + ["SeaLake"], columns=4, title="Tiles"))
    for axis, image in zip(axes[:6], IMAGES, strict=True):
        assert np.array_equal(pixels(axis), image.permute(1, 2, 0))
    assert len(axes) == 8 and (axes[0].get_title(), axes[5].get_title()) == ("Forest", "Sea\nLake")
    assert alt == "Tiles. 6 images in 2 rows: Forest, SeaLake"
    with pytest.raises(AssertionError, match="use normalize"):           # it would be drawn white
        plotting.as_pixels(IMAGES[0].float())


def test_film_strips_mark_mistakes_by_more_than_color_and_patch_lines_count_in_reading_order():
    axes, alt = read(plotting.film_strips(IMAGES.unflatten(0, (2, 3)), ["a", "b"], "Tiles", [False, True]))
    assert (axes[0].get_title(), axes[0].get_ylabel(), axes[3].get_ylabel()) == ("frame 0", "a", "b ✗")
    assert np.array_equal(pixels(axes[3]), plotting.as_pixels(IMAGES[3])) and alt.endswith(": a, b (wrong).")
    [axis], _ = read(plotting.patch_lines(IMAGES[0, :, :8], 4, "Tiles"))
    across, down = (lines.get_segments() for lines in axis.collections)
    assert [line[0, 1] for line in across] == [-0.5, 3.5, 7.5] and len(down) == 5        # edges of pixels
    places = {text.get_text(): text.get_position() for text in axis.texts}
    assert len(places) == 8 and (places["1"], places["4"]) == ((5.5, 1.5), (1.5, 5.5))


def test_predictions_show_the_three_most_probable_classes():
    shares = torch.tensor([[0.1, 0.6, 0.0, 0.3], [0.7, 0.05, 0.2, 0.05]])
    axes, alt = read(plotting.predictions(IMAGES[:2], shares, list("abcd"), torch.tensor([1, 2]), "Tiles"))
    right, wrong = axes[1].patches[0], axes[3].patches[0]
    assert axes[0].get_title() == "b" and np.array_equal(pixels(axes[0]), plotting.as_pixels(IMAGES[0]))
    assert texts(axes[1]) == ["b 60%", "d 30%", "a 10%"] and right.get_width() == pytest.approx(0.6)
    assert [bar.get_facecolor() for bar in (right, wrong)] == [to_rgba(color) for color in COLORS[:2]]
    assert not right.get_hatch() and wrong.get_hatch() and alt.endswith("c predicted a (70%)")


def test_stages_show_what_the_model_does_to_one_tile():
    x, shares = torch.rand(4, 12), torch.arange(10) / 45
    weights = torch.eye(4).roll(1, 1) / 2 + 0.125
    axes, alt = read(plotting.stages(IMAGES[0], 8, x + 1, x, weights, shares, CLASSES, "Tiles"))
    assert np.array_equal(pixels(axes[1])[9:17, :8], pixels(axes[0])[8:, :8])            # the third patch
    assert np.array_equal(pixels(axes[3]), x) and np.array_equal(pixels(axes[4]), 4 * weights)
    assert axes[4].images[0].get_clim() == (0, 4) and plotting.UNIFORM in alt
    assert axes[5].patches[9].get_width() == pytest.approx(0.2) and f"{CLASSES[9]} (20%)" in alt


def test_cell_maps_share_one_scale_and_attention_is_drawn_in_multiples_of_the_uniform_share():
    (*axes, _), _ = read(plotting.cell_maps(CELLS, ["a", "b"], "Tiles", mark=[(0, 1), (1, 0)]))
    for axis, values, corner in zip(axes, CELLS, [(0.5, 0), (0, 0.5)], strict=True):
        assert np.array_equal(pixels(axis), values) and axis.images[0].get_clim() == (-1, 3)
        assert corners(axis) == [corner] and axis.images[0].get_interpolation() == "nearest"
    shares = CELLS[:1] + 0.075                                       # the four cells sum to 1
    (tile, cells, bar), alt = read(plotting.attention_on_image(IMAGES[0], shares, (0, 1), "Tiles"))
    assert np.array_equal(pixels(tile), plotting.as_pixels(IMAGES[0]))                   # not dimmed
    assert pixels(cells) == pytest.approx(4 * shares[0].numpy()) and cells.images[0].get_clim() == (0, 4)
    assert corners(tile) == corners(cells) == [(0.5, 0)] and bar.get_ylabel() == plotting.UNIFORM
    assert cells.get_title() == "head 0\nup to 1.9 times" and "row 0, column 1" in alt and "up to 1.9" in alt
    (_, _, bar), _ = read(plotting.attention_on_image(IMAGES[0], CELLS[:1], (0, 1), "Tiles"))    # sum: 0.7
    assert bar.get_ylim() == pytest.approx((0, 0.4)) and not bar.get_ylabel()


def test_the_maps_of_a_name_share_a_scale_beside_the_tiles_and_a_projection_frames_the_extremes():
    maps = {"scores": CELLS, "flow": CELLS.clamp(min=0) / CELLS.clamp(min=0).sum(dim=(1, 2), keepdim=True)}
    axes, alt = read(plotting.maps_on_images(IMAGES[:2], maps, ["a", "b"], "Tiles"))
    assert np.array_equal(pixels(axes[3]), plotting.as_pixels(IMAGES[1])) and axes[3].get_title() == "b"
    assert np.array_equal(pixels(axes[4]), CELLS[1]) and corners(axes[4]) == [(0, 0)]
    assert [axis.images[0].get_clim() for axis in (axes[1], axes[4], axes[5])] == [(-1, 3), (-1, 3), (0, 4)]
    assert pixels(axes[5]) == pytest.approx(4 * maps["flow"][1].numpy()) and axes[2].get_title() == "flow"
    assert "scores from -1 to 3, largest at a row 1, column 1; b row 0, column 0. flow: 2 x 2 cells, t" in alt
    weights = torch.tensor([[[2.0, 0]], [[-2, 0]], [[0, 0]]])
    (tile, kernel, cells, _), alt = read(plotting.projection(IMAGES[0], weights, CELLS[1], "Tiles"))
    assert np.array_equal(pixels(cells), CELLS[1]) and pixels(kernel).tolist() == [[[255, 0, 128], [128] * 3]]
    assert [frame.get_linestyle() for frame in tile.patches] == ["--", "-"]
    assert corners(tile) == corners(cells) == [(0.5, 0.5), (0, 0)] and "to 3 (row 0, column 0)" in alt


def test_explained_draws_the_evidence_for_the_class_it_names():
    known = predict(torch.arange(64 * 64 * 3).reshape(3, 64, 64).to(torch.uint8), "synthetic")
    (_, cells, chart, bar), alt = read(plotting.explained([("mine.png", known)], "Tiles"))
    top = known.probabilities.argmax().item()
    evidence = patch_evidence(known.model, normalize(known.image)[None])[0, :, top].numpy()
    assert pixels(cells) == pytest.approx(evidence.reshape(8, 8)) and len(corners(cells)) == 1
    assert f"Tiles. mine.png: {known}. 8 x 8 cells, evidence in logits" in alt
    assert CLASSES[top] in cells.get_title() and CLASSES[top] in texts(chart)[0]
    assert bar.get_xlim() == cells.images[0].get_clim() and bar.get_xlabel() == "evidence in logits"


def test_curves_draw_each_line_with_its_own_color_and_dash():
    lines = {"training": [3.0, 2.0, 1.0], "test": ([1, 3], [3.0, np.nan]), "none yet": []}
    [axis], alt = read(plotting.curves(lines, title="Tiles", xlabel="epoch", ylabel="loss", logy=True))
    assert axis.lines[0].get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]] and axis.get_yscale() == "log"
    looks = [(line.get_color(), line.get_linestyle()) for line in axis.lines]
    assert looks == list(zip(COLORS, plotting.STYLES, strict=True))[:3]
    assert "loss against epoch: training from 3 to 1; test from 3 to nan; none yet without values." in alt
    [axis], _ = read(plotting.curves({"a": ([100, 1000, 21_600], [0.6, 0.8, 0.9])}, title="Tiles", logx=True))
    labels = [label.get_text() for label in axis.get_xticklabels(which="both")]
    assert {"100", "500", "1,000", "20,000"} <= set(labels) and "10^" not in "".join(labels)     # plain


def test_charts_draw_and_write_their_numbers():
    [axis], alt = read(plotting.bars(["Forest", "River"], torch.tensor([0.25, 1.0]), "Tiles", "accuracy"))
    assert [bar.get_width() for bar in axis.patches] == [0.25, 1] and texts(axis) == ["25.0%", "100.0%"]
    assert axis.yaxis_inverted() and alt.endswith("Forest 25.0%; River 100.0%.")
    assert [name.get_text() for name in axis.get_yticklabels()] == ["Forest", "River"]
    (axis, _), alt = read(plotting.heatmap(CELLS[1], "Tiles", rows="pq", columns="xy", numbers=".0f"))
    assert np.array_equal(pixels(axis), CELLS[1]) and texts(axis) == ["3", "2", "1", "-1"]
    assert axis.texts[0].get_color() == "black" and axis.texts[3].get_color() == "white"     # on yellow, blue
    assert axis.get_yticklabels()[1].get_text() == "q" and axis.texts[1].get_position() == (1, 0)
    assert alt.endswith("to 3, largest in row 0, column 0.")
    (axis, bar), alt = read(plotting.heatmap([[9, 2], [1, 8]], "Tiles", numbers=",d", diagonal=False))
    assert axis.images[0].get_clim() == (1, 2) == bar.get_ylim() and texts(axis) == ["9", "2", "1", "8"]
    assert axis.images[0].get_array().mask.tolist() == [[True, False], [False, True]] and "column 1." in alt
    dots = [torch.tensor([0.5, 1.5]), []]
    [axis], alt = read(plotting.bars("ab", [1, 20], "Tiles", "m", ".1f", points=dots, limit=30))
    assert axis.get_xlim() == (0, 30) and alt.endswith("a 1.0 (0.5 to 1.5); b 20.0.")
    assert axis.lines[0].get_xydata().tolist() == [[0.5, 0], [1.5, 0]]
    (curve, _), alt = read(plotting.reliability([0, 4], [np.nan, 0.75], [np.nan, 0.5], "Tiles"))
    assert curve.lines[1].get_xydata()[1].tolist() == [0.75, 0.5] and alt.endswith("m: 75% sure, 50% right")


def test_detections_draw_found_boxes_over_the_true_ones():
    found, truth = (BOXES, torch.tensor([1, 2]), torch.tensor([0.9, 0.4])), (BOXES, torch.tensor([1, 3]))
    [axis], alt = read(plotting.detections(IMAGES[:1], [found], [truth], "abcd", "Tiles", 1, labels=[0]))
    assert corners(axis)[1:] == [(0, 0), (0.5, 0.25), (0.5, 0.25), (0.5, 0.25), (0, 0)]     # true ones twice
    wrong, right = axis.patches[4:]                          # the surest on top
    assert [box.get_edgecolor() for box in (right, wrong)] == [to_rgba(color) for color in COLORS[:2]]
    assert right.get_linestyle() == "-" != wrong.get_linestyle() and right.get_height() == -0.5
    assert texts(axis) == ["c 40%", "b 90%"] and axis.get_title() == "0" and "2 true, 2 found, 1 right" in alt
    [axis], alt = read(plotting.detections(IMAGES[:1], None, [truth], "abcd", "Tiles", 1))
    assert texts(axis) == ["b", "d"] and len(axis.patches) == 4 and alt.endswith("boxes dashed: b, d.")


def test_regions_are_drawn_with_their_names_and_agreement_is_told():
    axes, alt = read(plotting.segmentations(IMAGES[:2], dict(a=REGIONS, b=REGIONS.flip(0)), CLASSES, "Tiles"))
    assert np.array_equal(pixels(axes[4]), REGIONS[1]) and alt.endswith("b 75%; b 75%.")
    wide = plotting.segmentations(IMAGES[:1], {"a": REGIONS[:1]}, CLASSES, "Tiles", wide=True)
    (_, truth), alt = read(wide)
    assert np.array_equal(pixels(truth), REGIONS[0]) and texts(truth) == ["AC", "Re"]
    assert truth.texts[0].get_position()[0] < 8 < truth.texts[1].get_position()[0]
    assert truth.get_title() == "a" and alt.endswith("with each its a as colored regions.")
    assert len({scenes.short_name(name) for name in CLASSES}) == 10


def test_drawings_of_axes_end_as_the_tensors_do():
    image = torch.arange(24).reshape(4, 6)
    axes, pairs = dict(row=2, y=2, column=3, x=2), [["row", "y"], ["column", "x"]]
    merge = [["column", "row"], ["y", "x"]]
    _, alt = read(plotting.axes_boxes(axes, ["column", "row", "y", "x"], pairs, merge, "Tiles"))
    split = image.reshape(2, 2, 3, 2)
    assert f"at first (4, 6): row * y, column * x. reshape {tuple(split.shape)}" in alt
    assert f"permute(2, 0, 1, 3) {tuple(split.permute(2, 0, 1, 3).shape)}" in alt and "(6, 4)" in alt


def test_a_notebook_shows_the_picture_and_below_it_its_words(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append(data))
    plotting.bars(["a < b", "c"], [0.25, 0.75], title="Tiles")._ipython_display_()
    assert shown[0]["image/png"][1:4] == b"PNG" and "text/html" not in shown[0]
    assert "<summary>The figure in words</summary>Tiles. Bars of : a &lt; b 25.0%" in shown[1]["text/html"]
