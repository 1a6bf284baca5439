"""Every control of the course: ipywidgets around functions of `plotting`, to show at the end of a cell."""

import base64
import functools
import html

import ipywidgets
import torch
import torch.nn.functional as F

from . import plotting
from .data import normalize
from .heads import generate
from .patches import patch_grid, patchify, random_patches, unpatchify

LOOK = {"style": {"description_width": "9em"}, "layout": {"width": "32em"}, "continuous_update": False}


class Box(ipywidgets.VBox):
    """A text, its controls by name, and the picture that they steer; `beside` stands next to the picture."""

    def __init__(self, about, draw, /, *beside, **controls):
        self.controls, self.picture, self.draw = controls, ipywidgets.HTML(), functools.lru_cache(32)(draw)
        for control in controls.values():
            control.observe(self.renew, "value")
        hint = ipywidgets.HTML(f"<em>{html.escape(about)} Tab: next control. Arrow keys: change it.</em>")
        super().__init__([hint, *controls.values(), ipywidgets.HBox([self.picture, *beside])])
        self.add_class("vit-box")                # a name to find it by in the page
        self.renew()

    def renew(self, _=None):
        """Show the picture for the values as they are now, or say why there is none."""
        try:
            picture = self.draw(**{name: control.value for name, control in self.controls.items()})
        except ValueError as problem:
            self.picture.value = f'<p role="alert"><b>No picture:</b> {html.escape(str(problem))}</p>'
            return
        png = base64.b64encode(picture._repr_mimebundle_()[0]["image/png"]).decode()
        alt = html.escape(picture.alt, quote=True)
        self.picture.value = f'<img alt="{alt}" style="max-width: 100%" src="data:image/png;base64,{png}">'


def number(label, low, high, value, tip, step=1):
    return ipywidgets.IntSlider(value, low, high, step, description=label, tooltip=tip, **LOOK)


def steps(label, options, value, tip):
    # Also for names, where a list would be usual: JupyterLab takes the arrow keys away from a list.
    return ipywidgets.SelectionSlider(options=options, value=value, description=label, tooltip=tip, **LOOK)


def place(grid, cell, image=None):
    """Sliders for the row and the column of a patch, and a box of all patches in their colors, to click."""
    row = number("row", 0, grid[0] - 1, cell[0], "row of the patch, 0 is the top")
    column = number("column", 0, grid[1] - 1, cell[1], "column of the patch, 0 is the left")
    pixels = torch.full((1, 1, 3), 120) if image is None else torch.tensor(plotting.as_pixels(image))
    means = F.interpolate(pixels.permute(2, 0, 1)[None].float(), grid, mode="area")  # (1, 3, rows, columns)

    def go_to(button):
        row.value, column.value = button.cell

    buttons, size = [], {"width": "26px", "height": "26px", "padding": "0", "margin": "1px"}
    for i, color in enumerate(means[0].flatten(1).T.int().tolist()):
        button = ipywidgets.Button(layout=size, tabbable=False)      # 64 strokes of Tab are too many
        button.style.button_color = "#{:02x}{:02x}{:02x}".format(*color)
        button.cell = divmod(i, grid[1])
        button.tooltip = "row {}, column {}".format(*button.cell)
        button.on_click(go_to)
        buttons.append(button)
    patches = ipywidgets.GridBox(buttons, layout={"grid_template_columns": f"repeat({grid[1]}, 28px)"})
    click = ipywidgets.VBox([ipywidgets.Label("click a patch:"), patches], layout={"flex": "0 0 auto"})
    return row, column, click


def patch_sizes(image, patch_size=8):
    """Lesson 02: an image (3, H, W) in patches of any size; one that does not fit is explained."""
    def draw(patch_size):
        rows, columns = patch_grid(image.shape[1:], patch_size)
        N = rows * columns
        title = f"{rows} x {columns} = {N:,} tokens of {3 * patch_size**2:,} numbers, {N**2:,} pairs"
        return plotting.patch_lines(image, patch_size, title, numbers=N <= 64)

    size = number("patch size", 1, min(image.shape[1:]), patch_size, "side of a patch in pixels")
    return Box("How many tokens does a patch size make?", draw, patch_size=size)


def projections(image, filters):
    """Lesson 03: a filter of {name: (M, 3, P, P)}, and its number for each patch of an image (3, H, W)."""
    normalized = image if image.is_floating_point() else normalize(image)

    def draw(kind, index):
        several = filters[kind].detach()
        if index >= len(several):
            raise ValueError(f"there are {len(several)} {kind}; the last one is number {len(several) - 1}")
        one = several[index]
        values = F.conv2d(normalized[None], one[None].to(normalized), stride=one.shape[1:])[0, 0]
        return plotting.projection(image, one, values, f"{kind}, number {index}: one number for each patch")

    last = max(map(len, filters.values())) - 1
    return Box("Each filter makes one number of each patch.", draw,
               kind=steps("filters", list(filters), next(iter(filters)), "which filters"),
               index=number("number", 0, last, 0, "which of these filters"))


def position_similarity(tables, grid, cell=(3, 3)):
    """Lesson 04: the cosine of one place of a grid with all others, for positions {name: (N, D)}."""
    row, column, click = place(grid, cell)

    def draw(table, row, column):
        unit = F.normalize(tables[table].detach().float(), dim=1)
        cosines = (unit @ unit[row * grid[1] + column]).unflatten(0, grid)       # (N,) -> (rows, columns)
        return plotting.cell_maps(cosines[None], [f"{table}: row {row}, column {column}"], mark=(row, column),
                                  unit="cosine", title="Which places are like the framed one?")

    table = steps("positions", list(tables), next(iter(tables)), "which table of positions")
    return Box("Compare one place with all others.", draw, click, row=row, column=column, table=table)


def attention(image, maps, grid, cell=(4, 4)):
    """Lessons 05 and 10: where a patch of an image (3, H, W) looks, by maps (L, H, N, N) without CLS."""
    layers, heads = maps.shape[:2]
    row, column, click = place(grid, cell, image)
    logs = maps.clamp(min=1e-30).log()           # the scores, up to a number that is the same in a whole row

    def draw(block, head, temperature, row, column):
        chosen = list(range(heads)) if head == "all" else [head]
        shares = (logs[block, chosen, row * grid[1] + column] / temperature).softmax(dim=-1)     # (H, N)
        labels = [f"head {h}" for h in chosen]
        title = f"Block {block}, temperature {temperature:g}"
        return plotting.attention_on_image(image, shares.unflatten(1, grid), (row, column), title, labels)

    names, temperatures = ["all", *range(heads)], [0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0]
    return Box("Where does the framed patch look?", draw, click, row=row, column=column,
               block=number("block", 0, layers - 1, layers - 1, "which encoder block, 0 is the first"),
               head=steps("head", names, "all", "one head or all side by side"),
               temperature=steps("temperature", temperatures, 1.0, "divides the scores: below 1 sharpens"))


def predictions(tiles, result, shown=3):
    """Lesson 09: an Evaluation `result` on Tiles, by class, kind and confidence, `shown` tiles at a time."""
    confidence, said = result.probabilities.max(dim=1)
    kinds = {"all": said >= 0, "mistakes": said != result.labels, "right": said == result.labels}

    def draw(truth, kind, above, page):
        chosen = kinds[kind] & (confidence >= above / 100)
        if truth != "all":
            chosen &= result.labels == result.classes.index(truth)
        if not chosen.any():
            raise ValueError(f"no tile (class: {truth}, shown: {kind}) has a confidence of {above}% or more")
        found = chosen.nonzero()[:, 0]
        found = found[confidence[found].argsort(descending=True, stable=True)]   # the surest first
        pages = -(-len(found) // shown)
        page = min(page, pages - 1)
        some = found[page * shown:(page + 1) * shown]
        tiles_found = f"{len(found):,} tile{'s' * (len(found) > 1)}"
        title = f"{tiles_found}, page {page + 1} of {pages:,} (true class above)"
        return plotting.predictions(tiles.images[some], result.probabilities[some], result.classes,
                                    result.labels[some], title, columns=shown)

    return Box("Leaf through the answers.", draw,
               truth=steps("true class", ["all", *result.classes], "all", "the true class of the tiles"),
               kind=steps("show", list(kinds), "mistakes", "right answers, mistakes, or both"),
               above=number("confidence, %", 0, 100, 0, "the smallest confidence in percent", step=5),
               page=number("page", 0, 200, 0, "the next tiles; beyond the last page the last one is shown"))


def masked(image, model, hidden=75):
    """Lesson 16: a normalized image (3, H, W), what stays visible, and what a MaskedAutoencoder paints."""
    grid, size = model.encoder.grid, model.encoder.config["patch_size"]
    patches = patchify(image[None], size)                                        # (1, N, C * P * P)

    def draw(hidden):
        N, random = patches.shape[1], torch.Generator().manual_seed(0)
        visible = random_patches(1, N, 1 - hidden / 100, random)                 # (1, n)
        at = visible[..., None].expand(-1, -1, patches.shape[2])
        seen = patches.gather(1, at)
        with torch.no_grad():
            painted = model(image[None], visible).scatter(1, at, seen)
        only_seen = torch.zeros_like(patches).scatter(1, at, seen)
        pictures = [unpatchify(canvas, size, grid)[0] for canvas in (only_seen, painted)]
        labels = [f"{visible.shape[1]} patches seen", "painted", "truth"]
        return plotting.image_grid([*pictures, image], labels, 3, f"{hidden}% of {N} patches hidden", 2.0)

    share = number("hidden %", 5, 95, hidden, "share of the patches that is hidden", step=5)
    return Box("How much can be hidden?", draw, hidden=share)


def guidance(model, classes, solver_steps=8, options=(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)):
    """Lesson 16: a tile of each class by a generator, with more or less guidance, from the same noise."""
    def draw(guidance):
        random = torch.Generator().manual_seed(0)
        painted = generate(model, torch.arange(len(classes)), guidance, solver_steps, random)
        return plotting.image_grid(painted, classes, 5, f"Guidance {guidance:g}", 1.3)

    strength = steps("guidance", [(f"{v:g}", v) for v in options], 1.0, "0 ignores the class, 1 follows it")
    box = Box("From no class at all to its caricature.", draw, guidance=strength)
    for value in options:                        # painting takes a second, so it is done beforehand
        box.draw(guidance=value)
    return box
