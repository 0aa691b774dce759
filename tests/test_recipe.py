"""What says the same thing twice says the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

import xsen2

ROOT = Path(__file__).parents[1]
CONDA = {"torch": "pytorch", "dask[array]": "dask-core"}


def test_the_recipe_asks_for_what_the_package_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    recipe = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
    assert recipe["context"]["version"] == xsen2.__version__
    wanted = set()
    for line in project["dependencies"]:
        name, bound = re.fullmatch(r"([\w.\-\[\]]+)\s*(.*)", line).groups()
        wanted.add(f"{CONDA.get(name, name)} {bound}".strip())
    found = {re.sub(r"\s+", " ", one) for one in recipe["requirements"]["run"] if not one.startswith("python ")}
    assert found == wanted


def test_workflows_and_templates_are_yaml_and_ask_for_versions():
    for path in (ROOT / ".github").rglob("*.yml"):
        assert yaml.safe_load(path.read_text())
    assert "show_versions" in (ROOT / ".github" / "ISSUE_TEMPLATE" / "defect.yml").read_text()
