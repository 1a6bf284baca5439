"""What all checkers share: run an answer safely, compare it with the reference, say what is probably wrong."""

import copy
import ctypes
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from .compare import call_text, difference, kind, same

SECONDS = 10.0                     # an answer that needs longer than this for all cases together is stopped


class Wrong(Exception):
    """Why an answer is not right, as a sentence for the learner."""


class OutOfTime(BaseException):
    """Raised inside an answer that takes too long; a BaseException, so that no `except Exception` of the answer eats it."""


@dataclass
class Exercise:
    """A checker: called with the learner's answer, it says whether it is right and hands back what the notebook goes on with.

    reference: the right answer. cases(): a list of argument tuples, the first small enough to check by hand. mistakes: what is
    probably wrong, in a sentence, and an answer that makes this mistake. use(answer, *case): how to use an answer that is a
    class; by default it is called. judge(result, *case): instead of the comparison with the reference, a sentence about what
    is wrong with the result, or None; for answers that are free to differ, such as random ones. tolerance: largest difference
    of numbers that still counts as equal.
    """

    reference: Callable
    cases: Callable
    mistakes: dict
    use: Callable = lambda answer, *case: answer(*case)
    judge: Callable | None = None
    tolerance: float = 1e-5
    solved: bool = field(default=False, init=False)

    @property
    def name(self):
        return self.reference.__name__

    def __call__(self, answer):
        """Check `answer`, print one or a few lines, and return it if it is right, else the reference."""
        problem = self.problem(answer)
        self.solved = problem == ""
        if self.solved:
            lesson = [e.solved for e in vars(sys.modules[self.reference.__module__]).values() if isinstance(e, Exercise)]
            print(f"{self.name}: right. {sum(lesson)} of {len(lesson)} exercises of this lesson done.")
            return answer
        print(f"{self.name}: {problem}\nThe notebook goes on with the reference.")
        return self.reference

    def problem(self, answer):
        """What is wrong with an answer, as text for the learner; empty if it is right. Prints and raises nothing."""
        if answer is self.reference:
            return "not written yet: this is the reference. Write your answer in the cell above and run it first."
        if not callable(answer):
            return (f"not right yet. This is a value ({type(answer).__name__}), not a function: "
                    f"write `{self.name} = checks.{self.name}({self.name})`, with the name only.")
        with torch.random.fork_rng(devices=[]):      # the notebook's own draws stay what they were
            return self.tried(answer)

    def tried(self, answer):
        """The first thing that is wrong, case by case; a result that is wrong goes before an error in a later case."""
        results, cases, stopped = [], self.seeded_cases(), None
        try:
            try:
                within(SECONDS, lambda: [results.append(self.result(answer, case)) for case in self.seeded_cases()])
            except (Exception, SystemExit, OutOfTime) as error:      # not the learner's own interruption
                stopped = error
            for case, result in zip(cases, results, strict=False):
                self.compare(result, case)
            if stopped:
                raise stopped
        except Wrong as wrong:
            return f"not right yet.\n{wrong}{self.probably(results)}"
        except OutOfTime:
            return (f"stopped after {SECONDS:g} seconds. It should need a fraction of a second: "
                    "is there a loop that never ends, or a loop over single pixels?")
        except (Exception, SystemExit) as error:
            if isinstance(error, NotImplementedError) and not error.args:    # torch raises it too, with a text
                return "not written yet."
            tried = call_text(self.name, cases[min(len(results), len(cases) - 1)])
            return f"not right yet.\n{tried}\n{in_their_words(error, answer)}"
        return ""

    def seeded_cases(self):
        torch.manual_seed(0)
        return self.cases()

    def result(self, answer, case):
        """What the answer gives for one case, the same draws of random numbers each time; its arguments are looked after."""
        mine = copy.deepcopy(case)
        torch.manual_seed(1)
        result = self.use(answer, *mine)
        changed = [kind(before) for before, now in zip(case, mine, strict=True) if not same(now, before)]
        if changed:
            raise Wrong(f"It changes its input ({' and '.join(changed)}), which whoever called it may still need: work on a "
                        "copy, such as x.clone() or dict(x), with nothing in place (x += 1, x[0] = 1, x.add_(), x.pop()).")
        return result

    def compare(self, result, case):
        wanted = self.result(self.reference, case)
        judged = self.judge and same_kind(result, wanted)
        problem = self.judge(result, *case) if judged else difference(result, wanted, self.tolerance)
        if problem:
            raise Wrong(f"{call_text(self.name, case)}\n{problem}")

    def probably(self, results):
        """The mistake that gives exactly these results of all cases, if it is one that we know."""
        for sentence, mistake in self.mistakes.items():
            try:
                if results and all(difference(result, self.result(mistake, case), self.tolerance) is None
                                   for result, case in zip(results, self.seeded_cases(), strict=False)):
                    return f"\nProbably: {sentence}"
            except (Exception, OutOfTime):       # this mistake fails on this case, so it is not the one
                continue
        return ""


def exercise(**options):
    """Make an `Exercise` of the reference that follows: @exercise(cases=..., mistakes=...)."""
    return lambda reference: Exercise(reference, **options)


def same_kind(result, wanted):
    return isinstance(result, type(wanted)) and not isinstance(result, np.ndarray)


def in_their_words(error, answer):
    """An error of the answer's own code: what it is, and in which of its lines."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source_file(answer)]
    place = f" in its line {own[-1].lineno}, `{own[-1].line}`" if own else ""
    return f"It stopped with {type(error).__name__}{place}:\n{str(error).strip() or 'no text'}"


def source_file(answer):
    """The file, or the notebook cell, that a function or class was written in."""
    parts = vars(answer).values() if isinstance(answer, type) else [answer]
    return next((part.__code__.co_filename for part in parts if hasattr(part, "__code__")), "")


def take_weights(layer, weights):
    """Load a state dict into the answer's layer, or say how its parameters would have to be called and shaped.

    Buffers of its own do no harm, but what is to be learned has to be an nn.Parameter that is not frozen.
    """
    own = {name: tuple(p.shape) for name, p in layer.named_parameters() if p.requires_grad}
    wanted = {name: tuple(value.shape) for name, value in weights.items()}
    told = []
    for name in {**own, **wanted}:
        if name not in wanted:
            told.append(f"{name} {own[name]} is not wanted")
        elif name not in own and hasattr(layer, name.split(".")[0]):
            told.append(f"{name} {wanted[name]} is not among the learned ones (a tensor has to be an nn.Parameter, and layers "
                        "have to be an attribute, or in an nn.ModuleList instead of a list)")
        elif name not in own:
            told.append(f"{name} {wanted[name]} is missing")
        elif own[name] != wanted[name]:
            told.append(f"{name} has the shape {own[name]} instead of {wanted[name]}")
    if told:
        more = f"; and {len(told) - 4} more" if len(told) > 4 else ""
        raise Wrong(f"Its parameters are not those that are asked for: {'; '.join(told[:4])}{more}.")
    layer.load_state_dict(weights, strict=False)
    return layer


def within(seconds, work):
    """The result of work(), or OutOfTime. In a thread of its own: Windows has no alarm signals, nor have other threads."""
    outcome, done = {}, threading.Event()        # not thread.join: interrupted, older Pythons take the thread for finished

    def run():
        try:
            outcome["result"] = work()
        except BaseException as error:
            outcome["error"] = error
        finally:
            done.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        done.wait(seconds)
    finally:                                     # out of time, or the learner interrupts: stop it at its next line of Python
        late = not done.is_set()
        if late:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(OutOfTime))
            done.wait(1)
    if late:
        raise OutOfTime
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]
