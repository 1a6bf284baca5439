"""Device, eval mode, progress bar, whole files, and that importing the package stays quick."""

import io
import itertools
import subprocess
import sys
import types

import pytest
import torch

from vit_helpers import has_fast_bf16
from vit_helpers.runtime import Progress, atomic_write, eval_mode


def test_fast_bf16_needs_instructions_for_it_that_are_used(monkeypatch):
    for units, level, fast in (({"amx_bf16": True}, "AVX512", True), ({"avx512_bf16": True}, "AVX512", True),
                               ({"amx_bf16": True}, "AVX2", False), ({"amx_bf16": False}, "AVX512", False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda units=units: units, raising=False)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda level=level: level)
        assert has_fast_bf16("cpu") is fast and has_fast_bf16("mps") is False


def test_eval_mode_ends_with_the_block_even_after_an_error():
    model = torch.nn.Sequential(torch.nn.Dropout(1.0), torch.nn.Dropout(1.0)).train()
    model[1].eval()                                          # a layer may be frozen by itself
    with pytest.raises(ZeroDivisionError), eval_mode(model):
        assert model(torch.ones(1)) == 1 and not any(layer.training for layer in model.modules())
        raise ZeroDivisionError
    assert [layer.training for layer in model.modules()] == [True, True, False]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_is_rewritten_in_place_and_a_log_gets_the_finished_bar_only(monkeypatch, terminal):
    out = io.StringIO()
    out.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stdout", out)
    bar = Progress(total=3)
    for _ in range(3):
        bar.last_print_t -= terminal                         # as if a second had passed
        bar.update()
    bar.close()
    shown = out.getvalue().strip().split("\r")
    assert "3/3" in shown[-1] and all(len(line) <= 96 for line in shown)
    assert ("1/3" in out.getvalue()) is terminal and out.getvalue().count("\n") == 1


def test_a_notebook_gets_plain_text_in_one_display(monkeypatch):
    updates = []
    handle = types.SimpleNamespace(update=lambda data, raw: updates.append(data["text/plain"]))
    app = types.SimpleNamespace(IPKernelApp=types.SimpleNamespace(initialized=lambda: True))
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", app)
    monkeypatch.setattr("IPython.display.display", lambda *args, **kwargs: handle)
    assert list(Progress(range(10))) == [*range(10)] and "10/10" in updates[-1]
    assert all(before != after for before, after in itertools.pairwise(updates))     # nothing is sent twice


def test_a_file_is_replaced_whole_at_the_end_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    for text in ("old", "new"):
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
            assert not path.exists() if text == "old" else path.read_text(encoding="utf-8") == "old"
    for failure in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        with pytest.raises(type(failure)), atomic_write(path) as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise failure
    assert path.read_text(encoding="utf-8") == "new" and list(path.parent.iterdir()) == [path]


def test_importing_the_package_brings_in_nothing_slow():
    code = ("import sys, vit_helpers; slow = 'matplotlib torchvision IPython ipywidgets scipy pandas'; "
            "print(*[name for name in slow.split() if name in sys.modules])")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout.strip()) == (0, ""), result
