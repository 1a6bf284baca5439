"""Budget, device, progress bar, whole files, and that importing the package stays quick."""

import io
import itertools
import subprocess
import sys
import threading
import time
import types

import pytest
import torch

import vit_helpers.runtime
from vit_helpers import by_budget, has_fast_bf16, pick_device
from vit_helpers.runtime import Progress, in_eval_mode, patiently, written_whole


def test_by_budget(monkeypatch):
    for name, value in (("smoke", 1), ("lesson", 2), ("full", 3)):
        monkeypatch.setenv("VIT_BUDGET", name)
        assert by_budget(smoke=1, lesson=2, full=3) == value
    monkeypatch.delenv("VIT_BUDGET")
    assert by_budget(smoke=1, lesson=2, full=3) == 2
    monkeypatch.setenv("VIT_BUDGET", "quick")
    with pytest.raises(ValueError, match="VIT_BUDGET='quick' is not a budget; choose 'smoke', 'lesson' or 'full'"):
        by_budget(smoke=1, lesson=2, full=3)


def test_pick_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device() == torch.device("cuda")
    assert pick_device("cpu") == torch.device("cpu")


def test_fast_bf16_needs_instructions_for_it(monkeypatch):
    for units, fast in (({"amx_bf16": True}, True), ({"avx512_bf16": True}, True),
                        ({"avx2": True, "amx_bf16": False}, False), ({}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda units=units: units, raising=False)
        assert has_fast_bf16("cpu") is fast
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert has_fast_bf16("cpu") is False
    assert has_fast_bf16("mps") is False


# Eval mode for a while

def modes(model):
    """The mode of each layer, and whether gradients are computed."""
    return [layer.training for layer in model.modules()] + [torch.is_grad_enabled()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_eval_mode_ends_with_the_work_even_after_an_error(training, gradients):
    model = torch.nn.Sequential(torch.nn.Dropout(1.0), torch.nn.Dropout(1.0)).train(training)
    model[1].train(not training)                             # a layer may be frozen by itself
    before = [training, training, not training, not gradients]
    with torch.set_grad_enabled(not gradients):
        assert in_eval_mode(model, lambda: (model(torch.ones(1)).item(), modes(model)), gradients) == (
            1, [False, False, False, gradients])
        assert modes(model) == before
        with pytest.raises(ZeroDivisionError):
            in_eval_mode(model, lambda: 1 / 0, gradients)
        assert modes(model) == before
    assert in_eval_mode(model, torch.is_grad_enabled) is False               # without gradients where nothing is said


def test_ctrl_c_at_any_moment_leaves_every_layer_and_the_gradients_as_they_were():
    """Python looks for Ctrl-C where a function begins and after it: one is raised at each of these moments in turn."""
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout()).train()
    before, inside = sys.gettrace(), 0
    for moment in itertools.count(1):
        left = itertools.count(moment, -1)

        def ctrl_c(frame, event, _, left=left):
            if event in ("call", "return") and next(left) == 0:
                raise KeyboardInterrupt
            return ctrl_c

        sys.settrace(ctrl_c)
        try:
            in_eval_mode(model, lambda: model(torch.ones(1)))
        except KeyboardInterrupt:                    # kept while it is looked at, as a notebook does
            inside += 1
            assert modes(model) == [True, True, True, True], moment
        else:
            break
        finally:
            sys.settrace(before)
    assert inside > 20


def test_a_network_that_is_silent_is_a_no_and_one_that_is_slow_is_not(monkeypatch):
    monkeypatch.setattr(vit_helpers.runtime, "PATIENCE", 0.5)
    silent, began, received = threading.Event(), time.monotonic(), itertools.count()
    with pytest.raises(TimeoutError, match=r"the network did not answer for 0\.5 seconds"):
        patiently(lambda: silent.wait(60), lambda: 0)
    assert time.monotonic() - began < 20
    assert patiently(lambda: time.sleep(1.5) or "all of it", lambda: next(received)) == "all of it"
    silent.set()


# The progress bar

def test_a_pipe_gets_the_finished_bar_only(monkeypatch):
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stdout", pipe)
    assert list(Progress(range(500), desc="steps")) == list(range(500))
    shown = pipe.getvalue().strip().split("\r")
    assert "500/500" in shown[-1] and len(shown) <= 2        # perhaps the empty bar, then the full one
    assert all(len(line) <= 96 for line in shown)


def test_a_terminal_is_rewritten_in_place(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    bar = Progress(total=3)
    for _ in range(3):
        bar.last_print_t -= 1                                # as if a second had passed
        bar.update()
    bar.close()
    for count in ("1/3", "2/3", "3/3"):
        assert count in terminal.getvalue()
    assert terminal.getvalue().count("\n") == 1


def test_a_notebook_gets_plain_text_in_one_display(monkeypatch):
    updates = []
    handle = types.SimpleNamespace(update=lambda data, raw: updates.append(data["text/plain"]))
    app = types.SimpleNamespace(IPKernelApp=types.SimpleNamespace(initialized=lambda: True))
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", app)
    monkeypatch.setattr("IPython.display.display", lambda *args, **kwargs: handle)
    bar = Progress(total=10)
    bar.set_postfix_str("loss 1.000")
    bar.update(10)
    bar.close()
    assert "10/10" in updates[-1] and "loss 1.000" in updates[-1]
    assert all(before != after for before, after in itertools.pairwise(updates))     # nothing is sent twice


def test_an_imported_ipykernel_is_not_yet_a_notebook(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.delitem(sys.modules, "ipykernel.kernelapp", raising=False)
    assert list(Progress(range(3))) == [0, 1, 2]
    assert "3/3" in capsys.readouterr().out


# Files are whole or not there

def test_written_whole_replaces_at_the_end_only(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    with written_whole(path) as temporary:
        temporary.write_text("first", encoding="utf-8")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "first"
    with written_whole(path) as temporary:
        temporary.write_text("second", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "first"
    assert path.read_text(encoding="utf-8") == "second" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(type(failure)), written_whole(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise failure
    assert path.read_text(encoding="utf-8") == "old" and list(tmp_path.iterdir()) == [path]


# Importing

def test_importing_the_package_brings_in_nothing_slow():
    """Torch is the slow part of the import; what would add to it is imported where it is needed."""
    code = ("import sys, vit_helpers; slow = 'matplotlib torchvision IPython ipywidgets PIL scipy pandas'.split(); "
            "print([name for name in slow if name in sys.modules])")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.strip() == "[]", result.stderr
