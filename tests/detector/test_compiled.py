"""Compiled functions, where there is a place to keep them and where there is none."""

from __future__ import annotations

from typing import Any

from detector.compiled import compiled


def test_a_function_that_can_be_kept_nowhere_is_compiled_all_the_same() -> None:
    module: dict[str, Any] = {}
    exec("def doubled(number): return 2 * number", module)  # of no file, so that numba finds no place for it

    assert compiled(module["doubled"])(21) == 42
