"""The command that looks for tests which do not always pass: a seed decides the order, and the counts are right."""

import json
from pathlib import Path

import flakes
import pytest

from vit_helpers.pretrained import MEASURED

pytest.importorskip("pytest_randomly", reason="pytest-randomly is not installed: pip install -r requirements.txt")


def test_a_seed_gives_an_order_and_the_same_one_again(tmp_path):
    file, order = tmp_path / "test_order.py", tmp_path / "order"
    file.write_text("import pytest\n\n\n@pytest.mark.parametrize('number', range(10))\ndef test_one(number):\n"
                    f"    with open({str(order)!r}, 'a') as file:\n        file.write(str(number))\n    assert number != 3\n",
                    encoding="utf-8")
    words = ["-o", "addopts=", f"--rootdir={tmp_path}", str(file)]
    for seed in (1, 2, 1):
        passed, seconds = flakes.suite(seed, words)
        assert len(passed) == 10 and [name.rpartition("::")[2] for name, good in passed.items() if not good] == ["test_one[3]"]
        assert seconds > 0
    first, second, third = (order.read_text(encoding="utf-8")[i:i + 10] for i in (0, 10, 20))
    assert first == third != second and sorted(first) == sorted(second) == sorted("0123456789")


def test_what_fails_now_and_then_is_a_flake_and_counted():
    runs = [{"a": True, "b": False, "c": True}, {"a": True, "b": False, "c": False}, {"a": True, "b": False, "c": True}]
    assert flakes.flakes(runs) == {"b": 3, "c": 1}


def test_a_run_that_does_not_begin_is_no_pass(tmp_path):
    with pytest.raises(SystemExit, match="ended with 4"):
        flakes.suite(1, ["-o", "addopts=", str(tmp_path / "nothing.py")])


def test_runs_in_a_row_are_those_after_the_last_failure(tmp_path):
    runs = [{"seed": seed, "tests": 4000, "seconds": 60 * seed, "failed": ["tests.test_x::test_y"] * (seed == 2)}
            for seed in range(1, 6)]
    assert flakes.sentence(runs) == ("3 whole runs in a row passed, seeds 3 to 5, 4,000 tests each, 4 minutes a run.")
    assert flakes.sentence(runs[2:3]) == "1 whole run passed, seed 3, 4,000 tests each, 3 minutes a run."
    assert flakes.sentence(runs[:2]) == flakes.sentence([]) == "Not measured yet."
    flakes.keep(runs, tmp_path / "kept.json")
    assert json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))["flakes"]["runs"] == runs


def test_readme_says_what_was_recorded():
    readme = Path(flakes.ROOT, "README.md").read_text(encoding="utf-8")
    runs = json.loads(MEASURED.read_text(encoding="utf-8")).get("flakes", {}).get("runs", [])
    assert readme == flakes.with_sentence(readme, runs), "write it anew: python tests/benchmarks/flakes.py"
