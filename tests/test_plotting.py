"""Pictures: what is drawn is the data, not compared by pixels, and every picture can be read without being seen."""

import io

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb, to_rgba
from matplotlib.text import Text
from PIL import Image

from vit_helpers import CLASSES, normalize, patch_evidence, plotting, predict, sincos_positions
from vit_helpers.plotting.base import COLORS
from vit_helpers.plotting.land import LAND

RANDOM = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (6, 3, 16, 16), generator=RANDOM, dtype=torch.uint8)
PROBABILITIES = torch.rand(6, 10, generator=RANDOM).softmax(dim=1)
MATRIX = torch.tensor([[0.1, 0.9, 0.0], [0.5, 0.2, 0.3]])

EXPLAINED = predict(torch.arange(64 * 64 * 3).reshape(3, 64, 64).to(torch.uint8), "synthetic")

FOUND = [(torch.tensor([[0, 0, 0.5, 0.5], [0.5, 0.25, 1, 0.75]]), torch.tensor([1, 2]), torch.tensor([0.9, 0.4])),
         (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))]

REGIONS = torch.zeros(2, 16, 16, dtype=torch.long)
REGIONS[0, :, 8:] = 7
REGIONS[1, :, 4:] = 7

PICTURES = {
    "image_grid": lambda: plotting.image_grid(IMAGES, list("aabbcc"), columns=4, title="Tiles"),
    "patch_lines": lambda: plotting.patch_lines(IMAGES[0], 8, title="Tiles"),
    "film_strips": lambda: plotting.film_strips(IMAGES.unflatten(0, (2, 3)), ["a", "b"], "Tiles", wrong=[False, True]),
    "detections": lambda: plotting.detections(IMAGES[:2], FOUND, [(FOUND[0][0][:1], FOUND[0][1][:1])] * 2, CLASSES, "Tiles"),
    "query_places": lambda: plotting.query_places(torch.rand(9, 2, 4).sort().values, torch.arange(18).reshape(9, 2) > 3, (1, 2),
                                                  torch.rand(2, 2), "Tiles"),
    "heatmap": lambda: plotting.heatmap(MATRIX, "Tiles", xlabel="key", ylabel="query", numbers=".1f", unit="weight"),
    "cell_maps": lambda: plotting.cell_maps(torch.rand(5, 4, 4), list("abcde"), "Tiles", mark=(1, 2), unit="weight"),
    "attention_on_image": lambda: plotting.attention_on_image(IMAGES[0], torch.rand(2, 4, 4), (0, 3), "Tiles"),
    "maps_on_images": lambda: plotting.maps_on_images(IMAGES[:2], {"flow": torch.rand(2, 4, 4), "for": torch.randn(2, 4, 4)},
                                                      ["a", "b"], "Tiles"),
    "projection": lambda: plotting.projection(IMAGES[0], torch.randn(3, 4, 4), torch.rand(4, 4), "Tiles"),
    "explained": lambda: plotting.explained([("one", EXPLAINED), ("two", EXPLAINED)], "Tiles"),
    "curves": lambda: plotting.curves({"training": [3, 2, 1], "test": [3, 2.5, 2]}, title="Tiles", ylabel="loss"),
    "bars": lambda: plotting.bars(["a", "b"], [0.25, 0.75], title="Tiles", xlabel="accuracy"),
    "predictions": lambda: plotting.predictions(IMAGES, PROBABILITIES, CLASSES, torch.zeros(6), title="Tiles"),
    "reliability": lambda: plotting.reliability([0, 4], [np.nan, 0.75], [np.nan, 0.5], title="Tiles"),
    "scatter": lambda: plotting.scatter(torch.arange(20), torch.arange(20), torch.arange(20) % 10, CLASSES, title="Tiles"),
    "segmentations": lambda: plotting.segmentations(IMAGES[:2], {"truth": REGIONS, "said": REGIONS.flip(1)}, CLASSES, "Tiles"),
    "land_use": lambda: plotting.land_use(IMAGES[0], {"truth": REGIONS[0], "said": REGIONS[1]}, CLASSES, "Tiles"),
    "stages": lambda: plotting.stages(IMAGES[0], 8, torch.rand(4, 12), sincos_positions((2, 2), 12), torch.rand(4, 4),
                                      PROBABILITIES[0], CLASSES, title="Tiles"),
}


def pixels(axis):
    return np.asarray(axis.images[0].get_array())


def texts(axis):
    return [text.get_text() for text in axis.texts]


def test_every_picture_of_the_package_is_tested_here():
    functions = {name for name, value in vars(plotting).items()
                 if callable(value) and getattr(value, "__module__", "").startswith(plotting.__name__)}
    assert functions - {"Picture", "as_pixels"} == PICTURES.keys()


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_one_png_with_alt_text(name):
    picture = PICTURES[name]()
    assert picture.alt.startswith("Tiles. ") and len(picture.alt) > 30 and "nan" not in picture.alt
    data, metadata = picture._repr_mimebundle_()
    assert data["text/plain"] == metadata["image/png"]["alt"] == picture.alt
    drawn = Image.open(io.BytesIO(data["image/png"]))
    assert drawn.format == "PNG" and 200 <= drawn.width <= 1400 and len(data["image/png"]) < 300_000
    assert len(np.unique(np.asarray(drawn.convert("L")))) > 5            # not an empty sheet
    assert picture.canvas.manager is None                    # unknown to pyplot: shown once, and not kept in memory


def test_drawing_leaves_the_data_alone():
    before = IMAGES.clone()
    for draw in PICTURES.values():
        draw()
    assert torch.equal(IMAGES, before)


def test_pixels_are_those_of_the_image_normalized_or_not():
    wanted = IMAGES[0].permute(1, 2, 0).numpy()
    assert np.array_equal(plotting.as_pixels(IMAGES[0]), wanted)
    assert np.array_equal(plotting.as_pixels(normalize(IMAGES[0])), wanted)
    assert np.array_equal(plotting.as_pixels(normalize(IMAGES[0]).requires_grad_()), wanted)
    assert plotting.as_pixels(torch.full((3, 1, 1), 7.0)).tolist() == [[[255, 255, 255]]]


def test_image_grid_shows_each_image_under_its_label():
    picture = plotting.image_grid(IMAGES, ["Forest"] * 5 + ["HerbaceousVegetation"], columns=4)
    shown = [axis for axis in picture.axes if axis.images]
    assert len(picture.axes) == 8 and len(shown) == 6
    for axis, image in zip(shown, IMAGES, strict=True):
        assert np.array_equal(pixels(axis), plotting.as_pixels(image))
    assert shown[0].get_title() == "Forest" and shown[5].get_title().split() == ["Herbaceous", "Vegetation"]
    assert "6 images in 2 rows" in picture.alt and "Forest, HerbaceousVegetation" in picture.alt


def test_patch_lines_frame_and_number_the_patches_in_reading_order():
    image = torch.zeros(3, 16, 24, dtype=torch.uint8)
    axis = plotting.patch_lines(image, 8).axes[0]
    across, down = ([line.tolist() for line in lines.get_segments()] for lines in axis.collections)
    assert across == [[[-0.5, y], [23.5, y]] for y in (-0.5, 7.5, 15.5)]             # 0.5: the edge of a pixel
    assert down == [[[x, -0.5], [x, 15.5]] for x in (-0.5, 7.5, 15.5, 23.5)]
    assert texts(axis) == ["0", "1", "2", "3", "4", "5"]
    assert [text.get_position() for text in axis.texts[:4]] == [(3.5, 3.5), (11.5, 3.5), (19.5, 3.5), (3.5, 11.5)]
    assert axis.texts[5].get_position() == (19.5, 11.5)      # the middle of the last patch
    assert texts(plotting.patch_lines(image, 8, numbers=False).axes[0]) == []


def test_a_projection_shows_tile_filter_and_numbers_and_frames_the_extremes():
    values = torch.zeros(4, 4)
    values[1, 2], values[3, 0] = 5, -5
    weights = torch.zeros(3, 4, 4)
    weights[0, 0, 0], weights[1, 0, 0] = 2, -2
    picture = plotting.projection(IMAGES[0], weights, values)
    tile, filter_, cells = picture.axes[:3]
    assert np.array_equal(pixels(tile), plotting.as_pixels(IMAGES[0])) and np.array_equal(pixels(cells), values)
    assert pixels(filter_)[0, 0].tolist() == [255, 0, 128] and pixels(filter_)[1, 1].tolist() == [128] * 3      # gray is zero
    framed = {patch.get_linestyle(): patch.get_xy() for patch in tile.patches}
    assert framed == {"--": (-0.5, 11.5), "-": (7.5, 3.5)}                   # the corners of cells (3, 0) and (1, 2)
    assert "from -5 (row 3, column 0) to 5 (row 1, column 2)" in picture.alt


def test_heatmap_shows_values_names_and_numbers():
    picture = plotting.heatmap(MATRIX, rows=["p", "q"], columns=["x", "y", "z"], numbers=".1f", unit="weight")
    axis, bar = picture.axes
    assert np.allclose(pixels(axis), MATRIX) and axis.images[0].get_cmap().name == "cividis"
    assert texts(axis) == ["0.1", "0.9", "0.0", "0.5", "0.2", "0.3"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["p", "q"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["x", "y", "z"]
    assert bar.get_ylabel() == "weight"
    assert "2 x 3 cells" in picture.alt and "from 0 to 0.9, largest in row 0, column 1" in picture.alt
    assert axis.texts[1].get_color() == "black" and axis.texts[2].get_color() == "white"       # readable on light and dark
    assert plotting.heatmap(MATRIX, limits=(0, 1)).axes[0].images[0].get_clim() == (0, 1)


def test_cell_maps_share_one_scale_and_frame_one_cell():
    maps = torch.arange(48.0).reshape(3, 4, 4)
    picture = plotting.cell_maps(maps, ["a", "b", "c"], mark=(1, 2))
    shown = [axis for axis in picture.axes if axis.get_title()]
    for axis, values, label in zip(shown, maps, "abc", strict=True):
        assert np.array_equal(pixels(axis), values) and axis.get_title() == label
        assert axis.images[0].get_clim() == (0, 47)
        assert axis.patches[0].get_xy() == (1.5, 0.5)        # row 1, column 2
        assert axis.images[0].get_interpolation() == "nearest"           # cells, not smoothed into false detail


def test_attention_on_image_darkens_where_little_is_taken_from():
    white = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    weights = torch.tensor([[[0.0, 0.1], [0.2, 0.4]]])
    tile, seen = plotting.attention_on_image(white, weights, query=(0, 1)).axes
    assert (pixels(tile) == 255).all()
    light = pixels(seen)[4::8, 4::8, 0]                      # the middle of each of the four cells
    assert light[1, 1] == 255 and light[0, 0] < light[0, 1] < light[1, 0] < light[1, 1] and light[0, 0] > 0
    assert (pixels(seen)[:8, :8] == light[0, 0]).all()       # a cell is one shade
    assert [axis.patches[0].get_xy() for axis in (tile, seen)] == [(7.5, -0.5)] * 2


def test_curves_draw_each_line_with_its_own_color_and_dash():
    values = {"training": [3.0, 2.0, 1.0], "test": ([1, 3], [3.0, np.nan]), "none yet": []}
    picture = plotting.curves(values, xlabel="epoch", ylabel="loss", logy=True)
    axis = picture.axes[0]
    assert [line.get_xydata().tolist() for line in axis.lines[:1]] == [[[1, 3], [2, 2], [3, 1]]]
    assert axis.lines[1].get_xdata().tolist() == [1, 3] and len(axis.lines[2].get_xdata()) == 0
    assert [line.get_label() for line in axis.lines] == list(values)
    assert len({to_hex(line.get_color()) for line in axis.lines}) == 3
    assert len({line.get_linestyle() for line in axis.lines}) == 3
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_yscale()) == ("epoch", "loss", "log")
    assert "loss against epoch: training from 3 to 1" in picture.alt and "none yet without values" in picture.alt


def test_bars_show_and_write_their_values():
    picture = plotting.bars(["Forest", "River"], torch.tensor([0.25, 1.0]), xlabel="accuracy")
    axis = picture.axes[0]
    assert [bar.get_width() for bar in axis.patches] == [0.25, 1]
    assert texts(axis) == ["25.0%", "100.0%"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["Forest", "River"]
    assert axis.yaxis_inverted() and axis.get_xlim()[1] > 1  # read from the top, with room for the numbers
    assert "Forest 25.0%, River 100.0%" in picture.alt


def test_predictions_show_the_three_most_probable_classes():
    probabilities = torch.tensor([[0.1, 0.6, 0.0, 0.3], [0.7, 0.05, 0.2, 0.05]])
    picture = plotting.predictions(IMAGES[:2], probabilities, ["a", "b", "c", "d"], torch.tensor([1, 2]), columns=2)
    tile, chart, _, other = picture.axes
    assert np.array_equal(pixels(tile), plotting.as_pixels(IMAGES[0])) and tile.get_title() == "b"
    assert [bar.get_width() for bar in chart.patches] == pytest.approx([0.6, 0.3, 0.1])
    assert texts(chart) == ["b 60%", "d 30%", "a 10%"] and texts(other)[:2] == ["a 70%", "c 20%"]
    assert not chart.patches[0].get_hatch() and other.patches[0].get_hatch()         # a wrong answer is hatched
    assert [bar.patches[0].get_facecolor() for bar in (chart, other)] == [to_rgba(color) for color in COLORS[:2]]
    assert "b predicted b (60%), c predicted a (70%)" in picture.alt


def test_reliability_shows_accuracy_against_confidence():
    picture = plotting.reliability([0, 4], [np.nan, 0.75], [np.nan, 0.5])
    curve, counts = picture.axes
    assert curve.lines[1].get_xydata()[1].tolist() == [0.75, 0.5]
    assert [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in counts.patches] == [(0.25, 0), (0.75, 4)]
    assert picture.alt.endswith("75% sure, 50% right")


def test_scatter_draws_each_class_by_itself():
    labels = torch.arange(20) % 10
    picture = plotting.scatter(torch.arange(20), -torch.arange(20), labels, CLASSES)
    groups = picture.axes[0].collections
    assert [group.get_label() for group in groups] == list(CLASSES)
    assert groups[3].get_offsets().tolist() == [[3, -3], [13, -13]]
    assert len({str(group.get_paths()[0].vertices.tolist()) for group in groups}) == 10          # never color alone


def test_detections_draw_found_boxes_over_the_true_ones():
    image = torch.zeros(2, 3, 20, 40, dtype=torch.uint8)
    truth = [(FOUND[0][0][:1], torch.tensor([1])), (torch.tensor([[0.25, 0, 1, 1]]), torch.tensor([3]))]
    picture = plotting.detections(image, FOUND, truth, list("abcd"), columns=2, labels=["x", "y"])
    first, second = picture.axes
    corners = [(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in first.patches]
    assert corners == [(-0.5, -0.5, 20, 10)] * 3 + [(19.5, 4.5, 20, 10)]         # true (twice: white, black), then found
    right, wrong = first.patches[2:]
    assert right.get_linestyle() in ("-", "solid") and wrong.get_linestyle() not in ("-", "solid")       # never color alone
    assert right.get_edgecolor() != wrong.get_edgecolor()
    assert texts(first) == ["b 90%", "c 40%"] and (first.get_title(), second.get_title()) == ("x", "y")
    assert len(second.patches) == 2 and not texts(second)
    numbered = plotting.detections(image, FOUND, truth, list("abcd"), columns=2, labels=[0, 7])
    assert [axis.get_title() for axis in numbered.axes] == ["0", "7"]
    assert "1 true, 2 found, 1 right; 1 true, 0 found, 0 right" in picture.alt
    assert not texts(plotting.detections(image, FOUND, truth, list("abcd"), names=False).axes[0])


def test_query_places_show_the_boxes_that_each_query_found():
    boxes = torch.tensor([[[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1.0]], [[0, 0.5, 1, 1], [0, 0, 1, 1]]])      # (n, Q, 4)
    used = torch.tensor([[True, False], [True, False]])
    picture = plotting.query_places(boxes, used, (1, 2), torch.tensor([[0.25, 0.5], [0.75, 0.5]]))
    first, second = picture.axes
    assert first.collections[0].get_offsets().tolist() == [[0.25, 0.25], [0.5, 0.75]] and first.yaxis_inverted()
    assert first.lines[0].get_xydata().tolist() == [[0.25, 0.5]] and len(second.collections[0].get_offsets()) == 0
    assert [axis.get_title() for axis in picture.axes] == ["query 0: 100%", "query 1: 0%"]
    assert "1 x 2 panels" in picture.alt and "30% of the side" in picture.alt            # 0.25 and 0.354
    assert "no query found" in plotting.query_places(boxes, used & False, (1, 2), torch.rand(2, 2)).alt


def test_stages_show_what_the_model_does_to_one_tile():
    positions = sincos_positions((2, 2), 12)
    picture = plotting.stages(IMAGES[0], 8, torch.rand(4, 12), positions, torch.rand(4, 4), PROBABILITIES[0], CLASSES)
    assert len(picture.axes) == 6
    assert np.array_equal(pixels(picture.axes[0]), plotting.as_pixels(IMAGES[0]))
    assert np.array_equal(pixels(picture.axes[1])[:8, :8], plotting.as_pixels(IMAGES[0])[:8, :8])
    assert np.allclose(pixels(picture.axes[3]), positions)
    assert [bar.get_width() for bar in picture.axes[5].patches] == pytest.approx(PROBABILITIES[0].tolist())
    assert CLASSES[int(PROBABILITIES[0].argmax())] in picture.alt


def test_a_logarithmic_axis_has_plain_numbers():
    picture = plotting.curves({"a": ([100, 1000, 21_600], [0.6, 0.8, 0.9])}, logx=True)
    picture.canvas.draw()
    labels = [label.get_text() for label in picture.axes[0].get_xticklabels(which="both") if label.get_text()]
    assert picture.axes[0].get_xscale() == "log" and {"100", "200", "500", "1,000", "20,000"} <= set(labels)
    assert not any("10^" in label for label in labels)


def test_maps_lie_over_the_tile_as_cells():
    maps = torch.zeros(1, 2, 4)
    maps[0, 1, 2], maps[0, 0, 0] = 3.0, -1.5
    image = torch.full((3, 16, 16), 200, dtype=torch.uint8)
    picture = plotting.maps_on_images(image[None], {"flow": maps}, ["Forest"], "Tiles")
    tile, flow = picture.axes
    assert tile.get_title() == "Forest" and (pixels(tile) == 200).all()
    assert flow.get_title() == "flow\n-1.5 to 3"
    largest, smallest, between = pixels(flow)[15, 11], pixels(flow)[0, 0], pixels(flow)[0, 15]       # yellow, blue, gray
    assert largest[0] > between[0] > smallest[0] and largest[0] > largest[2] and smallest[2] > smallest[0]
    assert (pixels(flow)[8:, 8:12] == largest).all() and (pixels(flow)[:8, :4] == smallest).all()
    assert [frame.get_xy() for frame in flow.patches] == [(7.5, 7.5)]
    assert "Forest, flow: largest in row 1, column 2" in picture.alt


def test_maps_of_one_value_are_drawn_without_a_warning():
    maps = {"flat": torch.ones(1, 4, 4), "none": torch.zeros(1, 4, 4)}
    assert plotting.maps_on_images(IMAGES[:1], maps).alt


def test_explained_draws_the_evidence_for_the_class_it_names():
    picture = plotting.explained([("mine.png", EXPLAINED)])
    tile, cells, chart = picture.axes
    top = EXPLAINED.probabilities.argmax().item()
    assert tile.get_title() == "mine.png" and cells.get_title().startswith(f"evidence for {CLASSES[top]}\n")
    evidence = patch_evidence(EXPLAINED.model, normalize(EXPLAINED.image)[None])[0, :, top]
    row, column = divmod(evidence.argmax().item(), 8)
    assert [frame.get_xy() for frame in cells.patches] == [(8 * column - 0.5, 8 * row - 0.5)]
    assert texts(chart)[0].startswith(CLASSES[top]) and str(EXPLAINED) in picture.alt


def test_regions_are_drawn_with_their_names_and_agreement_is_told():
    picture = PICTURES["segmentations"]()
    _, truth, said = np.array(picture.axes).reshape(3, 2).T[0]
    assert np.array_equal(pixels(truth), REGIONS[0].numpy()) and np.array_equal(pixels(said), REGIONS.flip(1)[0].numpy())
    assert sorted(texts(truth)) == ["AC", "Re"]
    positions = {text.get_text(): text.get_position() for text in truth.texts}
    assert positions["AC"][0] < 8 <= positions["Re"][0]
    assert "said 100%; said 100%" in picture.alt
    assert len({to_hex(plotting.land.LAND(c)) for c in range(10)}) == 10
    assert "said (75% of the pixels as in the first)" in PICTURES["land_use"]().alt


def test_short_names_of_classes_differ():
    assert len({plotting.land.short_name(name) for name in CLASSES}) == 10
    assert plotting.land.short_name("HerbaceousVegetation") == "HV" and plotting.land.short_name("Forest") == "Fo"


def test_a_notebook_shows_the_picture_and_below_it_its_words(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, metadata=None, raw=False: shown.append((data, metadata, raw)))
    picture = plotting.bars(["a < b", "c"], [0.25, 0.75], title="Tiles")
    picture._ipython_display_()
    (first, metadata, raw), (second, _, also_raw) = shown
    assert raw and also_raw and first["image/png"][1:4] == b"PNG" and metadata["image/png"]["alt"] == picture.alt
    assert second["text/html"].startswith("<details><summary>The figure in words</summary>Tiles. Bars of : a &lt; b 25.0%")
    assert second["text/plain"] == picture.alt


# Color vision: what an eye without one kind of cone sees, as a matrix on linear RGB (Machado et al. 2009, severity 1).
CONES = {"protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
         "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
         "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]}


def lab(colors, cones):
    """sRGB colors (N, 3), 0..1, as CIE L*a*b* (N, 3), the way that an eye with these cones sees them."""
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4) @ np.array(cones).T
    xyz = linear.clip(0, 1) @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    f = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("kind", ["all cones", *CONES])
def test_colors_can_be_told_apart_with_any_kind_of_color_vision(kind):
    cones = CONES.get(kind, np.eye(3))
    for colors in (plotting.COLORS, LAND.colors):
        seen = lab(np.array([to_rgb(color) for color in colors]), cones)
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)[np.triu_indices(len(seen), 1)]
        assert apart.min() > 10, "differences below about 10 are hard to see between thin lines"
    steps = lab(colormaps[plotting.MAP](np.linspace(0, 1, 64))[:, :3], cones)
    assert (np.diff(steps[:, 0]) > 0).all() and steps[-1, 0] - steps[0, 0] > 60          # brighter all the way


@pytest.mark.parametrize("name", PICTURES)
def test_maps_of_numbers_have_the_safe_colors_and_letters_are_large_enough(name):
    picture = PICTURES[name]()
    picture.draw_without_rendering()
    for axis in picture.axes:
        for image in axis.images:
            assert image.get_array().ndim == 3 or image.get_cmap().name in (plotting.MAP, LAND.name)
        for text in axis.findobj(Text):
            assert not text.get_text() or text.get_fontsize() >= 6, f"{text.get_text()!r} is too small to read"
