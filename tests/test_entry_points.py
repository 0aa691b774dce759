"""Another package's methods and networks: a tiny one is built, installed, and used by its names."""

from __future__ import annotations

import os
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
"sharper.Net" = "sharper.net:Net"
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

NET = """
import torch
from torch import nn
from xsen2.networks.network import Network


class Net(Network):
    radius = 2

    def __init__(self, ratio: int, gain: float = 1.0) -> None:
        super().__init__()
        self.ratio, self.gain = ratio, gain
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, a, b):
        return self.gain * b.repeat_interleave(2, -2).repeat_interleave(2, -1) + self.bias
"""

CODE = """
import hashlib, json, sys
import numpy as np
import xsen2
from xsen2.errors import MethodError, WeightsError
from xsen2.networks.cards import Card

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

from safetensors.torch import save
import torch

raw = save({"bias": torch.full((1,), 0.5)})
card = dict(name="net-20m", network="net", architecture="sharper.Net", ratio=2, arguments={"gain": 2.0}, halo=2,
            sha256=hashlib.sha256(raw).hexdigest(), licence="MIT", source="a test", training={}, validation={})
folder = sys.argv[1]
open(folder + "/net-20m.safetensors", "wb").write(raw)
open(folder + "/net-20m.json", "w").write(json.dumps(card))
out = cube.dsen2.superresolve(["B11"], method=folder + "/net-20m.json", dtype="float32", consistency=False)
np.testing.assert_allclose(out["B11"], 2 * b11 + 0.5 * 2000, atol=0.5)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python that has the package."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    (source / "sharper").mkdir()
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "sharper" / "__init__.py").write_text(METHODS)
    (source / "sharper" / "net.py").write_text(NET)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, timeout=300)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(target)])}


def test_methods_and_networks_of_an_installed_package(installed: dict[str, str], tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, env=installed, check=False
    )
    assert not run.returncode, run.stderr
    assert run.stdout.strip() == "{'kind': 'package', 'licence': 'MIT', 'source': 'sharper 0.3'} classical"


def test_without_the_package_its_card_is_refused(tmp_path: Path) -> None:
    """What a card names is data: it leads to no import, even of a module that could be imported."""
    from xsen2.networks.cards import architectures

    assert "sharper.Net" not in architectures()
    assert all(name.count(".") == 1 for name in architectures())
