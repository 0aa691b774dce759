"""The package as a whole: what importing it costs, what the wheel holds, what is documented."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import xsen2
from xsen2.methods.protocol import Method

ROOT = Path(__file__).parents[1]

#: Slow or optional: a function that needs one of them imports it when it is called.
HEAVY = {
    "anywidget",
    "dask_cuda",
    "distributed",
    "h5py",
    "hypothesis",
    "matplotlib",
    "odc",
    "pydantic",
    "pystac",
    "pystac_client",
    "safetensors",
    "scipy",
    "shapely",
    "spyndex",
    "stackstac",
    "starlette",
    "torch",
    "tqdm",
    "uvicorn",
    "zarr",
}


STEPS = ("xarray, dask.array, rioxarray", "xsen2", "xsen2.cli.main", "xsen2.index, xsen2.evaluation.plots")


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """Names of the modules that a fresh interpreter holds after each of these imports, one after the other."""
    code = "import sys\n" + "\n".join(f"import {names}; print(*sys.modules)" for names in STEPS)
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {names: set(line.split()) for names, line in zip(STEPS, run.stdout.splitlines(), strict=True)}


def modules() -> list[ModuleType]:
    """Every module of the package."""
    found = pkgutil.walk_packages(xsen2.__path__, prefix="xsen2.")
    return [xsen2, *(importlib.import_module(info.name) for info in found)]


def public_objects() -> dict[str, object]:
    """Public functions, classes and methods, by the dotted name of where they are defined."""
    found: dict[str, object] = {}
    for module in modules():
        for name, item in vars(module).items():
            if name.startswith("_") or getattr(item, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(item) or inspect.isclass(item):
                found[f"{module.__name__}.{name}"] = item
            if inspect.isclass(item):
                for method, function in vars(item).items():
                    documented = hasattr(Method, method)  # by the protocol, once for all
                    if inspect.isroutine(function) and not method.startswith("_") and not documented:
                        found[f"{module.__name__}.{name}.{method}"] = getattr(item, method)
    return found


def test_import_adds_nothing_heavy(imported: dict[str, set[str]]) -> None:
    added = imported["xsen2"] - imported["xarray, dask.array, rioxarray"]
    assert "xsen2.accessors" in added  # the accessors are registered by the import alone
    assert sorted(added & HEAVY) == []


def test_torch_is_never_imported_with_the_package(imported: dict[str, set[str]]) -> None:
    assert "torch" not in imported["xsen2"]


def test_the_shell_stays_light(imported: dict[str, set[str]]) -> None:
    heavy = {"h5py", "matplotlib", "pystac", "safetensors", "spyndex", "torch", "zarr"}
    assert sorted(heavy & imported["xsen2.cli.main"]) == []


def test_plots_and_indices_are_imported_only_when_asked_for(imported: dict[str, set[str]]) -> None:
    assert sorted({"matplotlib", "spyndex"} & imported["xsen2.index, xsen2.evaluation.plots"]) == []


def test_the_lowest_versions_that_are_tested_are_those_that_are_allowed() -> None:
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    pinned = [line.partition("#")[0].strip().split("==") for line in lines if not line.startswith("#")]
    lowest = {canonicalize_name(name): Version(version) for name, version in pinned}
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = {canonicalize_name(need.name): need.specifier for need in map(Requirement, about["dependencies"])}
    allowed = {name: Version(one.version) for name, given in bounds.items() for one in given if one.operator == ">="}
    assert lowest.pop("torch") >= allowed.pop("torch")  # older builds are not everywhere at hand
    assert lowest == allowed


def test_version_is_stated_alike() -> None:
    # The wheel takes it from the package, see the wheel's test.
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [xsen2.__version__]
    assert f"## [{xsen2.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_public_names_exist_and_are_listed() -> None:
    assert sorted(set(xsen2.__all__)) == sorted(xsen2.__all__)
    assert [name for name in xsen2.__all__ if not hasattr(xsen2, name)] == []


def test_wheel_holds_the_whole_package(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("xsen2/")}
        metadata = archive.read(f"xsen2-{xsen2.__version__}.dist-info/METADATA").decode()

    source = {p.relative_to(ROOT).as_posix() for p in (ROOT / "xsen2").rglob("*") if p.is_file()}
    source = {name for name in source if not re.search(r"__pycache__|\.ipynb_checkpoints|^xsen2/app/page/", name)}
    assert held == source
    assert "xsen2/py.typed" in held
    assert any(name.endswith(".safetensors") for name in held), "no trained weights in the wheel"
    assert "License-Expression: Apache-2.0" in metadata


def test_where_node_is_missing_the_build_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    monkeypatch.setattr(hook, "STAMP", tmp_path / "built-from.txt")
    monkeypatch.setenv("PATH", "")
    assert hook.bundle() == "node and npm are not installed"
    (tmp_path / "built-from.txt").write_text(hook.digest())  # bundled from these very sources
    assert hook.bundle() is None


def test_every_public_object_has_a_docstring() -> None:
    bare = [name for name, item in public_objects().items() if not (inspect.getdoc(item) or "").strip()]
    assert bare == []


@pytest.mark.parametrize("name", sorted(n for n in xsen2.__all__ if inspect.isfunction(getattr(xsen2, n))))
def test_public_functions_show_an_example(name: str) -> None:
    assert ">>>" in (inspect.getdoc(getattr(xsen2, name)) or "")


def test_method_of_the_contributing_guide_works() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    names: dict[str, type] = {}
    exec(example, names)

    cube = xsen2.sample()
    sharp = cube.dsen2.superresolve(bands=["B11"], method=names["Nearest"]())
    expected = cube["B11"].values.repeat(2, axis=-2).repeat(2, axis=-1)
    np.testing.assert_array_equal(sharp["B11"].values, expected)
