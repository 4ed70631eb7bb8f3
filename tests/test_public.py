"""The public names: one explicit sorted list, each loadable, known to editors, and lazy."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import archipelago
from archipelago import _HOME  # pyright: ignore[reportAttributeAccessIssue]
from archipelago.config.catalog import BUILT_IN

HERE = Path(archipelago.__file__).parent


def test_public_names_are_an_explicit_sorted_list() -> None:
    assert list(archipelago.__all__) == sorted(archipelago.__all__)
    assert set(archipelago.__all__) <= set(dir(archipelago))


@pytest.mark.parametrize("name", archipelago.__all__)
def test_every_public_name_loads(name: str) -> None:
    assert getattr(archipelago, name).__doc__


def test_no_public_name_is_a_subpackage() -> None:
    folders = {path.name for path in HERE.iterdir()}
    assert not folders & set(archipelago.__all__)


def test_editors_see_the_same_names() -> None:
    seen = re.findall(r"^from (archipelago\.[\w.]+) import (\w+) as \2$", _stub(), re.MULTILINE)
    home = {name: f"archipelago.{place}" for name, place in _HOME.items()}
    assert {name: module for module, name in seen} == home


def test_every_part_of_the_catalog_is_public() -> None:
    listed = {path.rpartition(":")[2] for kinds in BUILT_IN.values() for path in kinds.values()}
    assert listed <= set(archipelago.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Cohorts'"):
        _ = archipelago.Cohorts  # pyright: ignore[reportAttributeAccessIssue]


def test_a_name_of_an_earlier_version_says_what_it_is_called_now() -> None:
    with pytest.warns(DeprecationWarning, match="Workplace is now called WorkerContext"):
        assert archipelago.Workplace is archipelago.WorkerContext  # pyright: ignore


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, archipelago; print(sorted(n for n in sys.modules if 'archipelago' in n))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['archipelago']"


def _stub() -> str:
    return (HERE / "__init__.pyi").read_text()
