"""The parts of the gate stand above one another as its docstring says, and rest on the standard library."""

import ast
import re
import sys
from pathlib import Path

import gate
import pytest

FOLDER = Path(gate.__file__).parent
ORDER = re.findall(r"(?:- |[;,] )`(\w+)`:", gate.__doc__)


def imported(module):
    tree = ast.parse((FOLDER / f"{module}.py").read_text())
    for node in ast.walk(tree):
        names = {ast.Import: lambda n: [a.name for a in n.names], ast.ImportFrom: lambda n: [n.module]}
        yield from names.get(type(node), lambda n: [])(node)


def test_every_part_is_named():
    assert sorted(ORDER) == sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("module", ORDER)
def test_a_part_imports_only_what_stands_above_it(module):
    above = {f"gate.{name}" for name in ORDER[: ORDER.index(module)]}
    assert {name for name in imported(module) if name.split(".")[0] not in sys.stdlib_module_names} <= above
