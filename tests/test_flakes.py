"""The command that looks for tests which do not always pass: a seed decides the order, and the counts are right."""

import flakes
import pytest

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
