"""Another package's methods and networks: a tiny one is built, installed, and used by its names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "sharper"
version = "0.3"
license = "MIT"

[project.entry-points."xsen2.methods"]
sharper = "sharper:Sharper"
sharper-many = "sharper:many"
sharper-broken = "sharper.gone:Gone"
bicubic = "sharper:Sharper"

[project.entry-points."xsen2.networks"]
"small.Small" = "sharper.net:Small"
"""

METHODS = """
import numpy as np

from xsen2.bands import B, C
from xsen2.methods.protocol import Method


class Sharper(Method):
    name = "sharper"
    produces = B
    needs = B
    halo = 0

    def __call__(self, a, b, c):
        return b.repeat(2, axis=-2).repeat(2, axis=-1) + np.float32(1)


class Sixty(Sharper):
    produces = needs = C

    def __call__(self, a, b, c):
        return c.repeat(6, axis=-2).repeat(6, axis=-1)


def many(request):
    assert request.operator == "box" and request.gsd is None
    return [Sharper(), Sixty()]
"""

GUIDE = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adding-a-network.md").read_text(), re.DOTALL)
"""A network and what publishes its weights, as the guide has them."""

CODE = """
import sys
import numpy as np
import xsen2
from xsen2.errors import MethodError

table = xsen2.methods()
assert "sharper" not in sys.modules, "nothing is imported to be listed"
print(table.loc["sharper"].to_dict(), table.loc["bicubic", "kind"])
cube = xsen2.sample()
b11 = cube["B11"].values.repeat(2, axis=1).repeat(2, axis=2)
one = cube.dsen2.superresolve(["B11"], method="sharper")
np.testing.assert_allclose(one["B11"], b11 + 1, atol=1e-3)
assert one.attrs["xsen2_method"] == "sharper"
two = cube.dsen2.superresolve(method="sharper-many", operator="box")
assert {"B01", "B09", "B05", "B12"} <= set(two.data_vars)
for bad, words in (("sharper-broken", "sharper.gone:Gone"), ("sharpen", "did you mean 'sharper'")):
    try:
        cube.dsen2.superresolve(method=bad)
    except MethodError as error:
        assert words in str(error), error
    else:
        raise AssertionError(bad)

from pathlib import Path
import torch
from sharper.net import Small, publish

torch.manual_seed(0)
folder = Path(sys.argv[1])
publish(Small(2), folder)
whole = cube.dsen2.superresolve(["B11"], method=folder / "small-20m-v1.json", dtype="float32").compute()
bicubic = cube.dsen2.superresolve(["B11"], method="bicubic").compute()
assert 0 < float(abs(whole["B11"] - bicubic["B11"]).mean()) < 2000
cut = cube.chunk({"y": 100, "x": 70}).dsen2.superresolve(["B11"], method=folder / "small-20m-v1.json", dtype="float32")
np.testing.assert_allclose(cut["B11"], whole["B11"], atol=2e-3, err_msg="the radius of the guide is too small")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python that has the package."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    (source / "sharper").mkdir()
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "sharper" / "__init__.py").write_text(METHODS)
    (source / "sharper" / "net.py").write_text("\n".join(GUIDE))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, timeout=300)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(target)])}


def test_methods_and_networks_of_an_installed_package(installed: dict[str, str], tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, env=installed, check=False
    )
    assert not run.returncode, run.stderr
    said = "{'kind': 'package', 'licence': 'MIT', 'source': 'sharper 0.3', 'gsd': '10', 'frames': '1'}"
    assert run.stdout.strip() == f"{said} classical"


def test_without_the_package_its_card_is_refused(tmp_path: Path) -> None:
    """What a card names is data: it leads to no import, even of a module that could be imported."""
    from xsen2.networks.cards import architectures

    assert "small.Small" not in architectures()
    assert all(name.count(".") == 1 for name in architectures())
