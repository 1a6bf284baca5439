"""Exercises: references and folded solutions pass, typical wrong answers are refused with the reason."""

import inspect
import json
import re
import sys
import threading
import time

import numpy as np
import pytest
import torch
from lessons import NOTEBOOKS, checkers_of
from torch import nn

import vit_helpers
import vit_helpers.__main__ as command_line
from vit_helpers.checks import base, exercise


def cells_of(path):
    """The sources (text, stub, checker, solution) of each exercise in a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [["".join(cell["source"]) for cell in cells[i - 1:i + 3]]
            for i, cell in enumerate(cells) if "exercise" in cell["metadata"].get("tags", [])]


def defined(code, name):
    space = {"torch": torch, "nn": nn, "F": nn.functional, "np": np, "vit_helpers": vit_helpers}
    exec(compile(code, "<exercise>", "exec"), space)
    return space[name]


@pytest.mark.parametrize("path, number, checker", [
    pytest.param(path, number, checker, id=f"{path.stem[:2]}-{checker.name}")
    for path in NOTEBOOKS[1:] for number, checker in enumerate(checkers_of(path))])
def test_an_exercise(path, number, checker, capsys):
    """Text, stub, checker and folded solution in the notebook; the mistakes that the checker knows."""
    text, stub, call, solution = cells_of(path)[number]
    assert 3 <= len(cells_of(path)) == len(checkers_of(path)) <= 5
    random_state, name, reference = torch.get_rng_state(), checker.name, checker.reference
    heading = rf"^### Exercise {int(path.stem[:2])}\.{number + 1} · .+ · \d+ minutes? · (★☆☆|★★☆|★★★)$"
    assert re.search(heading, text, re.M) and "<details><summary>Hint" in text
    assert call.splitlines()[-1] == f"{name} = checks.{name}({name})"

    unwritten = defined(stub, name)
    assert list(inspect.signature(unwritten).parameters) == list(inspect.signature(reference).parameters)
    assert checker(unwritten) is reference and not checker.solved
    assert capsys.readouterr().out == f"{name}: not written yet.\nThe notebook goes on with the reference.\n"

    assert solution.startswith("<details><summary>Solution")
    code = re.findall(r"```python\n(.*?)```", solution, re.S)
    answer = defined(code[0], name)
    assert checker.problem(answer) == "" and len(code) == 1
    assert checker(answer) is answer and checker.solved
    assert capsys.readouterr().out.startswith(f"{name}: right. ")
    same = type(name, (reference,), {}) if inspect.isclass(reference) else lambda *case: reference(*case)
    assert checker.problem(same) == "" and "this is the reference" in checker.problem(reference)

    assert len(checker.mistakes) >= 3
    for sentence, mistake in checker.mistakes.items():
        assert checker.problem(mistake).endswith(f"\nProbably: {sentence}")
        assert len(sentence) > 25 and sentence.endswith((".", "?"))
    assert checker.problem(lambda *_: None).startswith("not right yet.")
    assert checker.problem(lambda *_: "words").startswith("not right yet.")
    assert torch.equal(torch.get_rng_state(), random_state), "the notebook's own draws stay what they were"
    first = checker.cases()[0]
    assert sum(x.numel() for x in first if isinstance(x, torch.Tensor)) <= 200, "to be checked by hand"


@exercise(cases=lambda: [(1.0,), (2.0,), (0.0,)], mistakes={"it is the half.": lambda n: n / 2})
def inverse(n):
    return 1 / n if n else 0.0


def test_a_wrong_result_goes_before_an_error_in_a_later_case():
    assert inverse.problem(lambda n: 1 / n if n else 0) == ""
    assert inverse.problem(lambda n: 2 / n) == "not right yet.\nTried: inverse(1)\nIt returned 2, expected 1."
    assert "Tried: inverse(0)\nIt stopped with ZeroDivisionError" in inverse.problem(lambda n: 1 / n)
    assert inverse.problem(lambda n: n / 2 if n else 1 / n).endswith("Probably: it is the half.")


def test_what_is_no_answer_is_told_with_its_line():
    def fails(n):
        return {}["nothing"]

    assert re.search(r'KeyError in its line \d+, `return {}\["nothing"\]`', inverse.problem(fails))
    assert "takes 0 positional arguments" in inverse.problem(lambda: None)
    assert "It stopped with SystemExit" in inverse.problem(lambda n: sys.exit())
    assert "It returned None: is there a `return` at the end?" in inverse.problem(lambda n: None)
    assert "This is a value (int), not a function" in inverse.problem(3)


def test_a_late_answer_is_left_behind_and_goes_no_further(monkeypatch):
    monkeypatch.setattr(base, "SECONDS", 0.2)
    started, release, before = [], threading.Event(), set(threading.enumerate())
    problem = inverse.problem(lambda n: started.append(n) or release.wait(10))
    assert problem.startswith("not right yet.\nIt is not done after 0.2 seconds")
    assert "still running in the background; restart the kernel" in problem
    release.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert started == [1.0]


def test_what_is_slow_the_first_time_only_does_not_count(monkeypatch):
    monkeypatch.setattr(base, "SECONDS", 0.3)
    warm = []

    @exercise(cases=lambda: [()], mistakes={})
    def imports_something_large():
        time.sleep(0 if warm else 1)
        warm.append(True)

    assert imports_something_large.problem(lambda: imports_something_large.reference()) == ""


def test_an_answer_that_changes_its_input_is_refused():
    @exercise(mistakes={}, cases=lambda: [(torch.tensor([2, torch.nan]), [{"a": 2}, {}], nn.Linear(1, 1))])
    def first(x, rows, layer):
        return x[0]

    assert first.problem(lambda x, rows, layer: layer.eval() and x[:1].sum()) == ""
    assert "input (a tensor of shape (2,))" in first.problem(lambda x, rows, layer: x.mul_(1.5)[0] / 1.5)
    assert "input (a list of 2 values)" in first.problem(lambda x, rows, layer: rows.reverse() or x[0])
    assert "input (a list of 2 values)" in first.problem(lambda x, rows, layer: rows[0].pop("a") / x[0])
    assert "input (a Linear)" in first.problem(lambda x, rows, layer: nn.init.ones_(layer.bias) * x[0])


@pytest.mark.parametrize("wanted, got, said", [
    (1.5, torch.tensor(1.5), None), ("a", "b", "expected 'a'."), (3, True, "a bool, expected a number"),
    (True, 1, "expected True"), ((1, 2), [1], "a list of 1 values"), ({"a": 1}, {}, "dictionary with ['a']"),
    ((0, {"a": 1}), (0, {"a": 2}), "Its result[1]['a'] is 2, expected 1."),
    (torch.zeros(2), torch.zeros(3), "of shape (3,), expected a tensor of shape (2,)"),
    (torch.zeros(2), torch.zeros(2).double(), "torch.float64, expected torch.float32"),
    (torch.zeros(2), np.zeros(2), "stay with torch"), (torch.zeros(1), torch.ones(1) / 0, "nan or infinite"),
    (torch.tensor([torch.nan]), torch.tensor([torch.nan]), None),
    (torch.zeros(20), torch.arange(20.0), "Mismatched elements: 19 / 20"),
    (torch.ones(1), torch.ones(1) + 1e-4, "Mismatched elements: 1 / 1"),
    (torch.tensor([True]), torch.tensor([False]), "tensor([False])\nexpected    tensor([True])")])
def test_differences_are_put_into_words(wanted, got, said):
    found = base.difference(got, wanted, 1e-5)
    assert found is None if said is None else said in found


def test_parameters_with_other_names_or_shapes_are_told():
    wanted = nn.ModuleDict({"a": nn.Linear(3, 2, bias=False)}).state_dict()
    for wrong, said in (
            ({"b": nn.Linear(3, 3, bias=False)}, "b.weight is (3, 3), expected no such name; a.weight is"),
            ({"a": nn.Linear(3, 4, bias=False)}, "a.weight is (4, 3), expected (2, 3)"),
            ({"a": nn.Linear(3, 2).requires_grad_(False)}, "a.weight is missing, expected (2, 3)")):
        with pytest.raises(base.Wrong, match=re.escape(said)):
            base.take_weights(nn.ModuleDict(wrong), wanted)
    own = nn.ModuleDict({"a": nn.Linear(3, 2, bias=False)})
    own.register_buffer("scale", torch.ones(()))
    assert base.take_weights(own, wanted)["a"].weight.equal(wanted["a.weight"])


def test_a_teacher_grades_what_students_really_hand_in(tmp_path, monkeypatch, capsys):
    lesson = NOTEBOOKS[2].read_text(encoding="utf-8")
    anna, dora = json.loads(lesson), json.loads(lesson)
    hers, others = ([cell for cell in notebook["cells"] if "= checks." in "".join(cell["source"])]
                    for notebook in (anna, dora))
    hers[0]["source"] = ["print('patch_number: right')"]     # edited, deleted, never run, right
    anna["cells"].remove(hers[1])
    del hers[2]["outputs"]
    said = ["stitch: right. 1 of 4 exercises", "patch_number: right. 1 of 4",
            "patchify_photos: not right yet.\n", "pad_to_fit: not right yet.\nIt is not done", ""]
    for cell, text in zip((hers[3], *others), said, strict=True):
        cell["outputs"] = [{"output_type": "stream", "text": [text]}]
    for name, text in {"anna": json.dumps(anna), "ben": lesson[:999], "cem": lesson, "dora": json.dumps(dora),
                       "eva": "[]", "finn": '{"cells": []}'}.items():
        (tmp_path / f"{name}.ipynb").write_text(text, encoding="utf-8-sig")      # with a BOM
    for files, code in (("*.ipynb", 2), ("cem.ipynb", 0)):
        monkeypatch.setattr(sys, "argv", ["vit_helpers", "grade", str(tmp_path / files)])
        assert command_line.main() == code
    said = capsys.readouterr()
    anna, cem, dora, again = said.out.splitlines()
    assert anna.endswith("1 of 4 right; patch_number missing; patchify_photos missing; pad_to_fit not run")
    assert "cem.ipynb: 0 of 4 right; patch_number not written; " in cem == again
    assert dora.endswith("1 of 4 right; patchify_photos wrong; pad_to_fit wrong; stitch not run")
    for line, words in zip(said.err.splitlines(), ("ben.ipynb is no notebook", "eva.ipynb is no notebook",
                                                   "finn.ipynb has no exercises"), strict=True):
        assert words in line
