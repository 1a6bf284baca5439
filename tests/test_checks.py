"""Exercises: the reference and the folded solutions pass, typical wrong answers are refused with the reason."""

import importlib
import inspect
import json
import re
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import vit_helpers.__main__ as command_line
from vit_helpers.checks import Exercise, base, exercise

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("[0-9]*.ipynb"))[1:]         # 00 is the map, not a lesson
LESSONS = {path: importlib.import_module(f"vit_helpers.checks.lesson_{path.stem[:2]}") for path in NOTEBOOKS}
EXERCISES = {f"{path.stem[:2]}-{name}": value for path, lesson in LESSONS.items()
             for name, value in vars(lesson).items() if isinstance(value, Exercise)}
FUNCTIONS = {name: e for name, e in EXERCISES.items() if not isinstance(e.reference, type)}
TENSORS = {name: e for name, e in FUNCTIONS.items()          # exercises about one tensor
           if all(isinstance(e.result(e.reference, case), torch.Tensor) for case in e.seeded_cases())}
CHANGEABLE = {name: e for name, e in FUNCTIONS.items() if any(isinstance(x, torch.Tensor) for x in e.seeded_cases()[0])}
MISTAKES = [pytest.param(e, sentence, id=f"{name}-{i}")
            for name, e in EXERCISES.items() for i, sentence in enumerate(e.mistakes)]


def renamed(reference):
    """The same answer, but not the very object, which a checker takes for the one that it handed back."""
    return type(reference.__name__, (reference,), {}) if isinstance(reference, type) else lambda *case: reference(*case)


@pytest.fixture(params=EXERCISES.values(), ids=EXERCISES)
def one(request):
    return request.param


def test_the_reference_is_right(one, capsys):
    answer = renamed(one.reference)
    assert one(answer) is answer and one.solved
    assert capsys.readouterr().out.startswith(f"{one.name}: right. ")


@pytest.mark.parametrize("one, sentence", MISTAKES)
def test_a_typical_mistake_is_refused_and_named(one, sentence):
    assert f"Probably: {sentence}" in one.problem(one.mistakes[sentence])
    assert len(sentence) > 25 and sentence.endswith((".", "?")), "a sentence"


def test_at_least_three_typical_mistakes_are_known(one):
    assert len(one.mistakes) >= 3


def test_the_first_case_is_small_enough_to_check_by_hand(one):
    first = one.seeded_cases()[0]
    assert sum(value.numel() for value in first if isinstance(value, torch.Tensor)) <= 200


def test_an_unwritten_exercise_lets_the_notebook_run_on(one, capsys):
    def unwritten(*_):
        raise NotImplementedError

    assert one(unwritten) is one.reference and not one.solved
    assert capsys.readouterr().out == f"{one.name}: not written yet.\nThe notebook goes on with the reference.\n"
    assert "this is the reference" in one.problem(one.reference)


def test_none_and_words_are_refused_with_a_sentence(one):
    if isinstance(one.reference, type):
        assert re.search("stopped with (TypeError|AttributeError)|None|parameters", one.problem(lambda *_: None))
    else:
        assert "It returned None: is there a `return` at the end?" in one.problem(lambda *_: None)
        assert "not right yet.\nTried: " in one.problem(lambda *_: "words")
    assert "This is a value (int), not a function" in one.problem(3)


@pytest.mark.parametrize("function", TENSORS.values(), ids=TENSORS)
def test_a_result_of_another_kind_is_refused(function):
    reference = function.reference
    assert "NumPy array" in function.problem(lambda *case: reference(*case).detach().numpy())
    assert "wanted is a torch.Tensor of shape" in function.problem(lambda *case: reference(*case).tolist())
    assert "torch.complex64" in function.problem(lambda *case: reference(*case).to(torch.complex64))
    assert "of shape" in function.problem(lambda *case: reference(*case)[None])


@pytest.mark.parametrize("function", CHANGEABLE.values(), ids=CHANGEABLE)
def test_an_answer_that_changes_its_input_is_refused(function):
    def changes(*case):
        result = function.reference(*case)
        for value in case:
            if isinstance(value, torch.Tensor):
                value.zero_() if value.any() else value.add_(1)
        return result

    assert "It changes its input" in function.problem(changes)


def test_sorting_a_list_that_was_given_is_a_change_too():
    @exercise(cases=lambda: [([{"rate": 2.0}, {"rate": 1.0}],)], mistakes={})
    def smallest(rows):
        return min(row["rate"] for row in rows)

    def sorts(rows):
        rows.sort(key=lambda row: row["rate"])
        return rows[0]["rate"]

    assert smallest.problem(lambda rows: sorted(row["rate"] for row in rows)[0]) == ""
    assert "It changes its input (a list)" in smallest.problem(sorts)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_an_error_of_the_answer_is_told_with_its_line(function):
    def fails(*case):
        return {}["nothing"]

    problem = function.problem(fails)
    assert "It stopped with KeyError in its line" in problem and 'return {}["nothing"]' in problem
    assert "takes 0 positional arguments" in function.problem(lambda: None)
    assert "It stopped with SystemExit" in function.problem(lambda *_: sys.exit())


def forever(*_):
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            continue


@pytest.mark.parametrize("name", [next(iter(EXERCISES))])
def test_an_answer_that_never_ends_is_stopped(name, monkeypatch):
    monkeypatch.setattr(base, "SECONDS", 0.3)
    start = time.monotonic()
    assert "stopped after 0.3 seconds" in EXERCISES[name].problem(forever)
    assert time.monotonic() - start < 3


def test_an_interrupted_check_leaves_nothing_running():
    before = threading.active_count()
    threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        next(iter(EXERCISES.values())).problem(forever)
    until = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.05)
    assert threading.active_count() == before


def test_checking_leaves_the_random_numbers_of_the_notebook_alone(one):
    before = torch.get_rng_state()
    one.problem(renamed(one.reference))
    assert torch.equal(torch.get_rng_state(), before)


def test_random_answers_are_judged_by_their_draws_or_by_a_judge():
    @exercise(cases=lambda: [(3,)], mistakes={}, judge=lambda result, n: None if len(result) == n else f"{n} numbers, please.")
    def draw(n):
        return torch.rand(n)

    assert draw.problem(lambda n: torch.rand(n) + 1) == ""
    assert "3 numbers, please." in draw.problem(lambda n: torch.rand(n + 1))
    assert "It returned None" in draw.problem(lambda n: None)


@pytest.mark.parametrize("wanted, got, said", [
    (1.5, 2.5, "It returned 2.5, wanted is 1.5."), (3, True, "a bool, wanted is a number"), (True, 1, "wanted is True"),
    (1.5, torch.tensor(1.5), None), ("a", "b", "It returned 'b', wanted is 'a'."),
    ((1, 2), 1, "It returned an int, wanted is a tuple of 2 values, as in `return a, b`."),
    ((1, 2), (1, 2, 3), "a tuple of 3 values, wanted are 2"),
    ((1, 2), [1, 3], "In what it returned, value 2 is 3, wanted is 2."), ([1.0], 1.0, "a float, wanted is a list."),
    ((0, (1, 2)), (0, (1, 3)), "In what it returned, value 2, value 2 is 3, wanted is 2."),
    ({"a": 1}, {"b": 1}, "wanted is a dictionary with ['a']"), ({"a": 1}, {"a": 2}, "In what it returned, ['a'] is 2"),
    (torch.zeros(2), torch.full((2,), torch.nan), "nan or infinite"), (torch.zeros(2), np.zeros(2), "NumPy"),
    (torch.zeros(2), torch.zeros(2, dtype=torch.float64), "torch.float64, wanted is torch.float32"),
    (torch.zeros(20), torch.arange(20.0), "95% of them are off, most of all at [19]: 19, wanted is 0."),
    (torch.zeros(2), torch.tensor([0.0, 1.0]), "[0.0, 1.0]\nwanted is    [0.0, 0.0]")])
def test_differences_are_put_into_words(wanted, got, said):
    found = base.difference(got, wanted, 1e-5)
    assert found is None if said is None else said in found


def test_parameters_with_other_names_or_shapes_are_told():
    wanted = nn.ModuleDict({"a": nn.Linear(3, 2, bias=False)}).state_dict()
    with pytest.raises(base.Wrong, match=r"b.weight \(3, 3\) is not wanted; a.weight \(2, 3\) is missing."):
        base.take_weights(nn.ModuleDict({"b": nn.Linear(3, 3, bias=False)}), wanted)
    with pytest.raises(base.Wrong, match=r"a.weight has the shape \(4, 3\) instead of \(2, 3\)."):
        base.take_weights(nn.ModuleDict({"a": nn.Linear(3, 4, bias=False)}), wanted)
    frozen = nn.ModuleDict({"a": nn.Linear(3, 2, bias=False)}).requires_grad_(False)
    with pytest.raises(base.Wrong, match=r"a.weight \(2, 3\) is not among the learned ones \(a tensor has to be an nn.Param"):
        base.take_weights(frozen, wanted)
    with_buffer = nn.ModuleDict({"a": nn.Linear(3, 2, bias=False)})
    with_buffer.register_buffer("scale", torch.ones(()))
    assert torch.equal(base.take_weights(with_buffer, wanted)["a"].weight, wanted["a.weight"])


def test_a_wrong_result_goes_before_an_error_in_a_later_case():
    @exercise(cases=lambda: [(1,), (2,), (0,)], mistakes={"it is the half.": lambda n: n / 2})
    def inverse(n):
        return 1 / n if n else 0.0

    assert inverse.problem(lambda n: 2 / n).startswith("not right yet.\nTried: inverse(1)\nIt returned 2, wanted is 1")
    assert inverse.problem(lambda n: 1 / n).startswith("not right yet.\nTried: inverse(0)\nIt stopped with ZeroDivisionError")
    assert inverse.problem(lambda n: n / 2 if n else 1 / n).endswith("Probably: it is the half.")


# The notebooks: stub, checker and solution of each exercise


def cells(path, tag):
    """(index, cell) of the cells with a tag, and all cells."""
    everything = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(i, cell) for i, cell in enumerate(everything) if tag in cell["metadata"].get("tags", [])], everything


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def path(request):
    return request.param


def defined(code, name):
    space = {"torch": torch, "nn": nn, "F": nn.functional, "np": np, "vit_helpers": importlib.import_module("vit_helpers")}
    exec(compile(code, "<exercise>", "exec"), space)
    return space[name]


def test_each_lesson_has_three_to_five_exercises_in_the_order_of_the_module(path):
    names = [value.name for value in vars(LESSONS[path]).values() if isinstance(value, Exercise)]
    stubs, _ = cells(path, "exercise")
    assert 3 <= len(names) <= 5
    assert [re.search(r"^(?:def|class) (\w+)", "".join(cell["source"]), re.M)[1] for _, cell in stubs] == names


def test_an_exercise_is_a_text_a_stub_a_checker_and_a_folded_solution(path):
    stubs, everything = cells(path, "exercise")
    for number, (i, _) in enumerate(stubs, 1):
        text, stub, check, solution = ("".join(part["source"]) for part in everything[i - 1:i + 3])
        name = re.search(r"^(?:def|class) (\w+)", stub, re.M)[1]
        heading = rf"^### Exercise {int(path.stem[:2])}\.{number} · .+ · \d+ minutes? · (★☆☆|★★☆|★★★)$"
        assert re.search(heading, text, re.M), text
        assert "<details><summary>Hint" in text and '"""' in stub and "raise NotImplementedError" in stub
        assert check.splitlines()[-1] == f"{name} = checks.{name}({name})"
        assert everything[i + 1]["cell_type"] == "code" and everything[i + 1]["outputs"][0]["text"][0] == (
            f"{name}: not written yet.\n")
        assert everything[i + 2]["metadata"]["tags"] == ["solution"] and solution.startswith("<details><summary>Solution")
        assert solution.rstrip().endswith("</details>")


def test_the_lesson_tells_how_long_its_exercises_take(path):
    everything = json.loads(path.read_text(encoding="utf-8"))["cells"]
    minutes = re.findall(r"^### Exercise .* · (\d+) minutes? · ", "\n".join("".join(c["source"]) for c in everything), re.M)
    first = "".join(everything[0]["source"])
    assert f"exercises {sum(map(int, minutes))} · **You need:**" in first


def test_stubs_are_unwritten_and_ask_for_what_the_reference_takes(path):
    for _, cell in cells(path, "exercise")[0]:
        code = "".join(cell["source"])
        name = re.search(r"^(?:def|class) (\w+)", code, re.M)[1]
        stub, checker = defined(code, name), vars(LESSONS[path])[name]
        assert checker.problem(stub) == "not written yet."
        assert list(inspect.signature(stub).parameters) == list(inspect.signature(checker.reference).parameters)


def test_the_folded_solutions_are_right(path):
    solutions, _ = cells(path, "solution")
    checkers = [value for value in vars(LESSONS[path]).values() if isinstance(value, Exercise)]
    assert len(solutions) == len(checkers)
    for (_, cell), checker in zip(solutions, checkers, strict=True):
        code, = re.findall(r"```python\n(.*?)```", "".join(cell["source"]), re.S)
        assert checker.problem(defined(code, checker.name)) == ""


def test_a_teacher_reads_off_what_the_checkers_said(tmp_path, monkeypatch, capsys):
    lesson = next(path for path in NOTEBOOKS if path.stem.startswith("05"))
    notebook, said = json.loads(lesson.read_text(encoding="utf-8")), iter((
        "scaled_scores: right. 1 of 4 exercises of this lesson done.\n", "attend: not right yet.\nTried: attend(...)\n",
        "split_heads: stopped after 10 seconds. It should need a fraction of a second\n", None))
    for cell in notebook["cells"]:
        if "= checks." in "".join(cell["source"]) and cell["cell_type"] == "code":
            text = next(said)
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": [text]}] if text else []
    mine = tmp_path / "mine.ipynb"
    mine.write_text(json.dumps(notebook), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["vit_helpers", "grade", str(mine), str(lesson)])
    assert command_line.main() == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{mine}: 1 of 4 right; attend wrong; split_heads wrong; Attention not run"
    assert second.startswith(f"{lesson}: 0 of 4 right; scaled_scores not written; attend not written; ")


@pytest.mark.parametrize("text, said", [("no JSON", "is no notebook; give files that end in .ipynb"), ("[]", "is no notebook"),
                                        ('{"cells": []}', "has no exercises; they are in lessons 01 to 17")])
def test_what_cannot_be_graded_is_said(tmp_path, monkeypatch, capsys, text, said):
    (tmp_path / "a.ipynb").write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["vit_helpers", "grade", str(tmp_path / "a.ipynb")])
    assert command_line.main() == 2
    assert said in capsys.readouterr().err
