"""Slides from a lesson: `jupyter nbconvert --to slides` with this preprocessor; see README."""

import re

from nbconvert.preprocessors import Preprocessor


class ByHeading(Preprocessor):
    """A chapter (# or ##) starts a slide to the right; every other text a step downward, with the code that follows it."""

    def preprocess_cell(self, cell, resources, index):
        if cell.cell_type == "markdown":
            chapter = re.search(r"\A# |(?m:^## )", cell.source)
            cell.metadata["slideshow"] = {"slide_type": "slide" if chapter else "subslide"}
        return cell, resources
