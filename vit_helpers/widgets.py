"""Every control of the course: ipywidgets around functions of `plotting`. Tab goes to the next control, arrow keys move it.

Each function returns a box to show as the last expression of a cell. When a value changes, the picture is drawn again; where
the values do not fit together, the reason stands in its place. A notebook stores no controls: run the cell to get them.
"""

import base64
import html

import ipywidgets
import torch

from . import arguments, plotting
from .data import normalize
from .heads import generate, random_visible
from .patches import patch_grid, patchify, unpatchify


class Box(ipywidgets.VBox):
    """A text, its controls by name, and the picture that they steer, an HTML widget; `beside` stands next to it."""

    def __init__(self, about, draw, /, *beside, **controls):
        self.controls, self.picture, self.draw, self.drawn = controls, ipywidgets.HTML(), draw, {}
        for control in controls.values():
            control.observe(self.renew, "value")
        hint = ipywidgets.HTML(f"<em>{html.escape(about)} Tab: next control. Arrow keys: change it.</em>")
        super().__init__([hint, *controls.values(), ipywidgets.HBox([self.picture, *beside])])
        self.add_class("vit-box")                # a name to find it by in the page
        self.renew()

    def renew(self, _=None):
        """Show the picture for the values as they are now, or say why there is none."""
        self.picture.value = self.shown(**{name: control.value for name, control in self.controls.items()})

    def shown(self, **values):
        """The picture for these values as HTML; what was drawn once is kept."""
        key = tuple(values.values())
        if key not in self.drawn:
            try:
                picture = self.draw(**values)
            except ValueError as problem:
                return f'<p role="alert"><b>No picture:</b> {html.escape(str(problem))}</p>'
            encoded = base64.b64encode(picture._repr_mimebundle_()[0]["image/png"]).decode()
            self.drawn[key] = (f'<img alt="{html.escape(picture.alt, quote=True)}" style="max-width: 100%" '
                               f'src="data:image/png;base64,{encoded}">')
        return self.drawn[key]


LOOK = {"style": {"description_width": "9em"}, "layout": {"width": "32em"}}


def number(label, low, high, value, told, step=1):
    """A slider over whole numbers; `told` says what they are."""
    return ipywidgets.IntSlider(value, low, high, step, description=label, tooltip=told, continuous_update=False, **LOOK)


def steps(label, options, value, told):
    """A slider over a few values, given as [(text, value), ...] or as they are.

    For names too, where a list would be usual: JupyterLab takes the arrow keys away from a list, to go to the next cell.
    """
    return ipywidgets.SelectionSlider(options=options, value=value, description=label, tooltip=told, continuous_update=False,
                                      **LOOK)


def place(grid, cell, image=None):
    """Sliders for the row and the column of a patch, and a box of all patches to click on, in their mean colors."""
    arguments.grid(grid=grid)
    arguments.as_many(2, cell=cell)
    arguments.whole(0, grid[0] - 1, **{"cell[0]": cell[0]})
    arguments.whole(0, grid[1] - 1, **{"cell[1]": cell[1]})
    row = number("row", 0, grid[0] - 1, cell[0], "row of the patch, 0 is the top")
    column = number("column", 0, grid[1] - 1, cell[1], "column of the patch, 0 is the left")
    colors = torch.full((grid[0] * grid[1], 3), 120)
    if image is not None:
        height, width = image.shape[-2] // grid[0], image.shape[-1] // grid[1]
        pixels = torch.tensor(plotting.as_pixels(image)).permute(2, 0, 1)[None].float()
        colors = patchify(pixels, (height, width))[0].unflatten(1, (3, -1)).mean(dim=2).int()        # (N, 3)

    def go_to(button):
        row.value, column.value = button.cell

    buttons, size = [], {"width": "26px", "height": "26px", "padding": "0", "margin": "1px"}
    for i, (red, green, blue) in enumerate(colors.tolist()):
        r, c = divmod(i, grid[1])
        button = ipywidgets.Button(tooltip=f"row {r}, column {c}", layout=size, tabbable=False,      # 64 strokes of Tab
                                   style={"button_color": f"#{red:02x}{green:02x}{blue:02x}"})
        button.cell = r, c
        button.on_click(go_to)
        buttons.append(button)
    rows = [ipywidgets.HBox(buttons[r * grid[1]:(r + 1) * grid[1]]) for r in range(grid[0])]
    return row, column, ipywidgets.VBox([ipywidgets.Label("click a patch:"), *rows], layout={"flex": "0 0 auto"})


# The controls, lesson by lesson


def patch_sizes(image, patch_size=8):
    """Lesson 02: an image (3, H, W) in patches of any size; sizes that do not fit are explained in the picture's place."""
    arguments.tensor("3 H W", image=image)
    sides = image.shape[-2:]
    arguments.whole(1, min(sides), patch_size=patch_size)

    def draw(patch_size):
        rows, columns = patch_grid(tuple(sides), patch_size)
        title = (f"{rows} x {columns} = {rows * columns:,} tokens of {3 * patch_size**2:,} numbers, "
                 f"{(rows * columns) ** 2:,} pairs")
        return plotting.patch_lines(image, patch_size, title, numbers=rows * columns <= 64)

    return Box("How many tokens does a patch size make?", draw,
               patch_size=number("patch size", 1, min(sides), patch_size, "side of a patch in pixels"))


def projections(image, filters):
    """Lesson 03: one filter of {name: (M, 3, P, P)}, and the number that it makes of each patch of an image (3, H, W)."""
    arguments.tensor("3 H W", image=image)
    arguments.named(filters=filters)
    for name, several in filters.items():
        arguments.tensor("M 3 P Q", "float", **{name: several})
        if any(side < patch for side, patch in zip(image.shape[1:], several.shape[2:], strict=True)):
            raise ValueError(f"an image of {image.shape[1]} x {image.shape[2]} pixels is smaller than the {name}, "
                             f"{several.shape[2]} x {several.shape[3]}; give a larger one")
    normalized = image if image.is_floating_point() else normalize(image)

    def draw(kind, index):
        several = filters[kind].detach()
        if index >= len(several):
            raise ValueError(f"there are {len(several)} {kind}; the last one is number {len(several) - 1}")
        one = several[index]
        values = torch.nn.functional.conv2d(normalized[None], one[None].to(normalized), stride=one.shape[1:])[0, 0]
        return plotting.projection(image, one, values, f"{kind}, number {index}: one number for each patch")

    return Box("Each filter makes one number of each patch.", draw,
               kind=steps("filters", list(filters), next(iter(filters)), "which filters"),
               index=number("number", 0, max(map(len, filters.values())) - 1, 0, "which of these filters"))


def position_similarity(tables, grid, cell=(3, 3)):
    """Lesson 04: the cosine of one place with all others, for tables {name: (N, D)} of positions on a grid (rows, columns)."""
    row, column, click = place(grid, cell)
    arguments.named(tables=tables)
    for name, table in tables.items():
        arguments.tensor(f"{grid[0] * grid[1]} D", "float", **{name: table})
        arguments.no_nan(**{name: table})

    def draw(table, row, column):
        unit = torch.nn.functional.normalize(tables[table].detach().float(), dim=1)
        cosines = (unit @ unit[row * grid[1] + column]).unflatten(0, grid)               # (N,) -> (rows, columns)
        return plotting.cell_maps(cosines[None], [f"{table}: row {row}, column {column}"], mark=(row, column), unit="cosine",
                                  title="Which places are like the framed one?")

    return Box("Compare one place with all others.", draw, click, row=row, column=column,
               table=steps("positions", list(tables), next(iter(tables)), "which table of positions"))


def attention(image, maps, grid, cell=(4, 4)):
    """Lessons 05 and 10: whom a patch of an image (3, H, W) listens to; maps (L, H, N, N), without a CLS token.

    The temperature divides the scores before softmax: above 1 the shares are evened out, below 1 the largest take all.
    """
    arguments.tensor("L H N N", "float", maps=maps)
    arguments.no_nan(maps=maps)
    arguments.tensor("3 H W", image=image)
    arguments.grid(grid=grid)
    if maps.shape[-1] != grid[0] * grid[1]:
        raise ValueError(f"maps of {maps.shape[-1]} tokens do not belong to a grid of {grid[0]} x {grid[1]} patches; leave the "
                         "CLS token out")
    layers, heads = maps.shape[:2]
    row, column, click = place(grid, cell, image)
    logs = maps.clamp(min=1e-30).log()           # the scores, up to a number that is the same in the whole row

    def draw(block, head, temperature, row, column):
        chosen = slice(None) if head == "all" else slice(head, head + 1)
        shares = (logs[block, chosen, row * grid[1] + column] / temperature).softmax(dim=-1)         # (H, N)
        largest = zip(range(heads)[chosen], shares.amax(dim=1).tolist(), strict=True)
        labels = [f"head {h}: up to {share:.0%}" for h, share in largest]
        return plotting.attention_on_image(image, shares.unflatten(1, grid), (row, column),
                                           f"Block {block}, temperature {temperature:g}", labels)

    return Box("Whom does the framed patch listen to?", draw, click, row=row, column=column,
               block=number("block", 0, layers - 1, layers - 1, "which encoder block, 0 is the first"),
               head=steps("head", [("all", "all"), *((str(h), h) for h in range(heads))], "all",
                          "one head or all side by side"),
               temperature=steps("temperature", [0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0], 1.0,
                                 "divides the scores before softmax"))


def learning_rates(study):
    """Lesson 08: the stored curves of `measured("learning_rate")`, one learning rate beside the best one."""
    arguments.study(study, "learning_rate")
    rows = {row["learning_rate"]: row for row in study["rows"]}
    best = max(rows, key=lambda rate: rows[rate]["accuracy"][0])

    def draw(rate):
        lines = {name: ([(i + 0.5) * rows[r]["steps"] / len(rows[r]["loss"]) for i in range(len(rows[r]["loss"]))],
                        rows[r]["loss"]) for name, r in {f"{best:g}, the best": best, f"{rate:g}": rate}.items()}
        return plotting.curves(lines, xlabel="step", ylabel="training loss", limits=(0.5, 3.0),
                               title=f"Learning rate {rate:g}: {rows[rate]['accuracy'][0]:.1%} of {study['judged_on']} right")

    return Box("Too small, right, or too large?", draw,
               rate=steps("learning rate", [(f"{rate:g}", rate) for rate in rows], min(rows), "of Adam, constant"))


def predictions(tiles, result, shown=3):
    """Lesson 09: a browser of an Evaluation `result` on Tiles by class, kind and confidence, `shown` tiles at a time."""
    arguments.tiles(tiles=tiles)
    if not hasattr(result, "probabilities") or len(result.labels) != len(tiles):
        raise TypeError(f"result must be an Evaluation of these {len(tiles)} tiles, not {arguments.told(result)}")
    arguments.whole(1, 100, shown=shown)
    confidence, said = result.probabilities.max(dim=1)
    right = said == result.labels

    def draw(truth, kind, above, page):
        chosen = confidence >= above / 100
        if truth != "all":
            chosen &= result.labels == result.classes.index(truth)
        if kind != "all":
            chosen &= right if kind == "right" else ~right
        found = chosen.nonzero()[:, 0]
        found = found[confidence[found].argsort(descending=True, stable=True)]           # the surest first
        if not len(found):
            raise ValueError(f"no tile of {'any class' if truth == 'all' else truth}, shown: {kind}, has a confidence of "
                             f"{above} % or more; lower the confidence, or choose another class or kind")
        pages = -(-len(found) // shown)
        here = min(page, pages - 1)              # the last page, if there are fewer
        some = found[here * shown:(here + 1) * shown]
        title = f"{len(found):,} tile{'s' * (len(found) > 1)}, page {here + 1} of {pages:,} (true class above)"
        return plotting.predictions(tiles.images[some], result.probabilities[some], result.classes, result.labels[some], title,
                                    columns=shown)

    return Box("Leaf through the answers.", draw,
               truth=steps("true class", ["all", *result.classes], "all", "the true class of the tiles"),
               kind=steps("show", ["all", "mistakes", "right"], "mistakes", "right answers, mistakes, or both"),
               above=number("confidence, %", 0, 100, 0, "the smallest confidence in percent", step=5),
               page=number("page", 0, 200, 0, "the next tiles; beyond the last page the last one is shown"))


def patch_size_study(image, study):
    """Lesson 11: an image (3, H, W) in patches of each size of `measured("patch_size")`, and what that brought and cost."""
    arguments.tensor("3 H W", image=image)
    arguments.study(study, "patch_size")
    rows = {row["patch_size"]: row for row in study["rows"]}

    def draw(patch_size):
        row = rows[patch_size]
        title = f"{row['tokens']} tokens: {sum(row['accuracy']) / len(row['accuracy']):.1%} after {row['seconds']:.0f} s"
        return plotting.patch_lines(image, patch_size, title, numbers=False)

    return Box("What does a patch size bring, and what does it cost?", draw,
               patch_size=steps("patch size", list(rows), next(iter(rows)), "side of a patch in pixels"))


def images_study(study):
    """Lesson 11: ViT and CNN after training on each number of images of `measured("images")`."""
    arguments.study(study, "images")
    counts = sorted({row["images"] for row in study["rows"]})

    def draw(images):
        rows = [row for row in study["rows"] if row["images"] == images]
        accuracies = [sum(row["accuracy"]) / len(row["accuracy"]) for row in rows]
        return plotting.bars([row["model"] for row in rows], accuracies, f"{images:,} training images",
                             f"accuracy on {study['judged_on']}", limit=1)

    return Box("How many images does each need?", draw,
               images=steps("training images", [(f"{n:,}", n) for n in counts], counts[0], "how many, with their labels"))


def masked(image, model, hidden=75):
    """Lesson 16: a normalized image (3, H, W), what stays visible of it, and what a MaskedAutoencoder paints."""
    arguments.device_of(model, ("encoder", "mask_token"))
    arguments.tensor("3 H W", "float", image=image)
    arguments.whole(5, 95, hidden=hidden)
    grid, size = model.encoder.grid, model.encoder.config["patch_size"]
    patches = patchify(image[None], size)                                                # (1, N, C * P * P)

    def draw(hidden):
        visible = random_visible(image[None], grid, 1 - hidden / 100, torch.Generator().manual_seed(0))       # (1, n)
        at = visible[..., None].expand(-1, -1, patches.shape[2])
        seen = patches.gather(1, at)
        with torch.no_grad():
            painted = model(image[None], visible).scatter(1, at, seen)
        only_seen = torch.zeros_like(patches).scatter(1, at, seen)
        pictures = [unpatchify(canvas, size, grid)[0] for canvas in (only_seen, painted)]
        return plotting.image_grid([*pictures, image], [f"{visible.shape[1]} patches seen", "painted", "truth"], columns=3,
                                   scale=2.0, title=f"{hidden} % of {grid[0] * grid[1]} patches hidden")

    return Box("How much can be hidden?", draw,
               hidden=number("hidden %", 5, 95, hidden, "share of the patches that is hidden", step=5))


def guidance(model, classes, solver_steps=8, options=(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)):
    """Lesson 16: a tile of each class, painted by the generator `model` with more or less guidance, from the same noise."""
    arguments.device_of(model, ("any_class", "encoder"))
    arguments.names(model.any_class, classes=classes)
    arguments.whole(1, solver_steps=solver_steps)
    options = arguments.numbers(options=options).tolist()
    arguments.number(0, **{f"options[{i}]": each for i, each in enumerate(options)})
    def draw(guidance):
        painted = generate(model, torch.arange(len(classes)), guidance, solver_steps, torch.Generator().manual_seed(0))
        return plotting.image_grid(painted, classes, columns=5, scale=1.3, title=f"Guidance {guidance:g}")

    box = Box("From no class at all to its caricature.", draw,
              guidance=steps("guidance", [(f"{v:g}", v) for v in options], 1.0, "0 ignores the class, 1 follows it"))
    for value in options:                        # painting takes a second, so it is done beforehand
        box.shown(guidance=value)
    return box
