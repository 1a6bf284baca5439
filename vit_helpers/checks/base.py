"""What all checkers share: run an answer safely, compare it with the reference, say what is wrong."""

import copy
import numbers
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

SECONDS = 10.0                     # how long the checker waits for an answer to all cases together


class Wrong(Exception):
    """Why an answer is not right, as a sentence for the learner."""


@dataclass
class Exercise:
    """A checker: called with an answer, it says whether it is right, and returns what to go on with.

    reference: the right answer. cases(): argument tuples, the first small enough to check by hand. mistakes:
    what is probably wrong, a sentence, and an answer that does it. use(answer, *case): how to use an answer
    that is a class; default: call it. judge(result, *case): what is wrong with a result that may differ from
    the reference's, such as a random one, or None. tolerance: relative and absolute.
    """

    reference: Callable
    cases: Callable
    mistakes: dict
    use: Callable = lambda answer, *case: answer(*case)
    judge: Callable | None = None
    tolerance: float = 1e-5
    solved = False

    @property
    def name(self):
        return self.reference.__name__

    def __call__(self, answer):
        """Check `answer`, print one or a few lines, and return it if it is right, else the reference."""
        problem = self.problem(answer)
        self.solved = problem == ""
        if not self.solved:
            print(f"{self.name}: {problem}\nThe notebook goes on with the reference.")
            return self.reference
        module = vars(sys.modules[self.reference.__module__])
        lesson = [checker.solved for checker in module.values() if isinstance(checker, Exercise)]
        print(f"{self.name}: right. {sum(lesson)} of {len(lesson)} exercises of this lesson done.")
        return answer

    def problem(self, answer):
        """What is wrong with an answer, as text for the learner; empty if it is right. Prints nothing."""
        if answer is self.reference:
            return "not written yet: this is the reference. Write your answer in the cell above, and run it."
        if not callable(answer):
            return (f"not right yet. This is a value ({type(answer).__name__}), not a function: "
                    f"write `{self.name} = checks.{self.name}({self.name})`, with the name only.")
        with torch.random.fork_rng(devices=[]):      # the notebook's own draws stay what they were
            torch.manual_seed(0)
            cases = self.cases()
            # Reference first: what is slow the first time, such as imports, is done before the clock runs.
            right = [self.result(self.reference, case) for case in cases]
            tried, error = in_time(lambda *both: self.tried(answer, *both), zip(cases, right, strict=True))
            calls = [f"not right yet.\nTried: {self.name}({', '.join(map(words, case))})" for case in cases]
            for call, (_, problem) in zip(calls, tried, strict=False):   # a wrong result goes before an error
                if problem:
                    return f"{call}\n{problem}{self.probably([result for result, _ in tried], cases)}"
        if error is None:
            return ""
        if isinstance(error, NotImplementedError) and not error.args:    # torch raises it too, with a text
            return "not written yet."
        if isinstance(error, Wrong):
            return f"not right yet.\n{error}"
        return f"{calls[len(tried)]}\n{in_their_words(error, answer)}"

    def result(self, answer, case):
        """What the answer gives for one case, with the same random draws each time."""
        mine = copy.deepcopy(case)
        torch.manual_seed(1)
        result = self.use(answer, *mine)
        changed = [kind(before) for before, now in zip(case, mine, strict=True) if not same(now, before)]
        if changed:
            raise Wrong(f"It changes its input ({' and '.join(changed)}), which the caller may still need: "
                        "work on a copy, such as x.clone() or dict(x), with nothing in place (x += 1, "
                        "x[0] = 1, x.add_(), x.pop()).")
        return result

    def tried(self, answer, case, right):
        """(The answer's result for one case, what is wrong with it or None)."""
        result = self.result(answer, case)
        if self.judge and isinstance(result, type(right)):
            return result, self.judge(result, *case)
        return result, difference(result, right, self.tolerance)

    def probably(self, results, cases):
        """The mistake that gives exactly these results of all cases, if it is one that we know."""
        for sentence, mistake in self.mistakes.items():
            try:
                if all(difference(result, self.result(mistake, case), self.tolerance) is None
                       for result, case in zip(results, cases, strict=False)):
                    return f"\nProbably: {sentence}"
            except Exception:                        # this mistake fails on this case, so it is not the one
                continue
        return ""


def exercise(**options):
    """Make an `Exercise` of the reference that follows: @exercise(cases=..., mistakes=...)."""
    return lambda reference: Exercise(reference, **options)


def in_time(work, cases):
    """work(*case) case by case, for at most SECONDS: (the results, the error that ended it early or None).

    In a thread, since Windows has no alarm signals. Nothing can safely stop a thread from outside: a late one
    is left behind, and goes no further than the case that it is at.
    """
    results, errors, done, left = [], [], threading.Event(), threading.Event()

    def run():
        try:
            for case in cases:
                if left.is_set():
                    return
                results.append(work(*case))
        except BaseException as error:               # sys.exit() too, which would end the thread silently
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=run, daemon=True).start()
    try:
        finished = done.wait(SECONDS)
    finally:                                         # the learner may have interrupted
        left.set()
    if not finished:
        return [], Wrong(f"It is not done after {SECONDS:g} seconds, and should need a fraction of one: is "
                         "there a loop that never ends, or a loop over single pixels? It is still running in "
                         "the background; restart the kernel to stop it.")
    return results, errors[0] if errors else None


def in_their_words(error, answer):
    """An error of the answer's own code: what it is, and in which of its lines."""
    parts = vars(answer).values() if isinstance(answer, type) else [answer]
    file = next((part.__code__.co_filename for part in parts if hasattr(part, "__code__")), "")
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f" in its line {lines[-1].lineno}, `{lines[-1].line}`" if lines else ""
    return f"It stopped with {type(error).__name__}{place}:\n{str(error).strip() or 'no text'}"


def take_weights(layer, weights):
    """Load a state dict into the answer's layer, or say which parameters of which shapes it should have."""
    own = {name: tuple(p.shape) for name, p in layer.named_parameters() if p.requires_grad}
    wanted = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = [f"{name} is {own.get(name, 'missing')}, expected {wanted.get(name, 'no such name')}"
             for name in {**own, **wanted} if own.get(name) != wanted.get(name)]
    if wrong:
        raise Wrong(f"Parameters that are not as asked for: {'; '.join(wrong[:4])} ({len(wrong)} in all). "
                    "Learned tensors have to be nn.Parameters, not frozen; lists of layers an nn.ModuleList.")
    layer.load_state_dict(weights, strict=False)     # buffers of its own do no harm
    return layer


def difference(got, wanted, tolerance, where="It returned"):
    """What distinguishes `got` from `wanted`, both perhaps nested, in a sentence; None if nothing does."""
    if got is None and wanted is not None:
        return f"{where} None: is there a `return` at the end?"
    if isinstance(wanted, torch.Tensor):
        return tensor_difference(got, wanted, tolerance, where)
    if isinstance(wanted, (tuple, list, dict)):
        if keys(got) != keys(wanted):
            return f"{where} {kind(got)}, expected {kind(wanted)}."
        part = where.removesuffix(" is") if where.startswith("Its result") else "Its result"
        found = (difference(got[key], wanted[key], tolerance, f"{part}[{key!r}] is") for key in keys(wanted))
        return next(filter(None, found), None)
    if isinstance(got, (torch.Tensor, np.ndarray)) and got.ndim == 0:
        got = got.item()                             # one number is one number
    if isinstance(wanted, bool) or not isinstance(wanted, numbers.Number):
        right = type(got) is type(wanted) and got == wanted
    elif isinstance(got, bool) or not isinstance(got, numbers.Number):
        return f"{where} {kind(got)}, expected a number."
    else:
        right = mismatch(got, wanted, tolerance) is None
    return None if right else f"{where} {words(got)}, expected {words(wanted)}."


def keys(value):
    """What the parts of a dictionary, tuple or list are found under; None for anything else."""
    if isinstance(value, dict):
        return value.keys()
    return range(len(value)) if isinstance(value, (tuple, list)) else None


def tensor_difference(got, wanted, tolerance, where):
    if not isinstance(got, torch.Tensor) or got.shape != wanted.shape:
        return f"{where} {kind(got)}, expected {kind(wanted)}."
    if got.dtype != wanted.dtype:
        return f"{where} a tensor of {got.dtype}, expected {wanted.dtype}."
    if wanted.isfinite().all() and not got.isfinite().all():
        return f"{where} nan or infinite numbers: a division by zero, the log of zero, or numbers too large?"
    found = mismatch(got, wanted, tolerance)
    if found and wanted.numel() <= 16 and words(got) != words(wanted):
        return f"{where} {words(got)}\nexpected    {words(wanted)}"
    return found and f"{where} the right shape, but other numbers.\n{found}"


def mismatch(got, wanted, within):
    """How numbers of one shape and type differ, in the words of torch.testing; None within the tolerance."""
    try:
        torch.testing.assert_close(got, wanted, rtol=within, atol=within, equal_nan=True, check_dtype=False)
    except AssertionError as error:
        return str(error).removeprefix("Tensor-likes are not close!\n\n")


def same(now, before):
    """Whether an argument is what it was, to the bit; functions and other objects are not looked into."""
    if isinstance(before, torch.nn.Module):          # its mode may change: who asks a model sets it to eval
        now, before = now.state_dict(), before.state_dict()
    is_data = isinstance(before, (torch.Tensor, tuple, list, dict, str, numbers.Number))
    return not is_data or difference(now, before, tolerance=0) is None


def kind(value):
    """What a value is, such as "a tensor of shape (2, 3)"."""
    name = type(value).__name__
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return "a NumPy array (stay with torch from the input to the result)"
    if isinstance(value, (tuple, list)):
        return f"a {name} of {len(value)} values"
    if isinstance(value, dict):
        return f"a dictionary with {sorted(map(str, value))}"
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def words(value):
    """A value as short text: small tensors in full, others by their shape."""
    if isinstance(value, torch.Tensor):
        if value.numel() > 16:
            return f"tensor {tuple(value.shape)}"
        if value.is_floating_point():                # four digits, also of small numbers
            digits = [float(f"{number:.4g}") for number in value.flatten().tolist()]
            value = torch.tensor(digits, dtype=torch.float64).view(value.shape)
        return f"tensor({value.tolist()})"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = repr(value)
    return text if len(text) <= 60 and not isinstance(value, torch.nn.Module) else type(value).__name__
