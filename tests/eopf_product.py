"""Small products in EOPF's Zarr format: the metadata of real ones, with the pixels of a scene.

The metadata come from ``../shared/fixtures/eopf``, whose grids are made as small as the scene. They are written file
by file, as the attributes and array metadata stand there, so that no library's idea of them comes in between.
"""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scenes
import zarr
from safe_product import scene

from xsen2.bands import BANDS

FIXTURES = scenes.SHARED / "fixtures/eopf"
L1C = "S2B_MSIL1C_20250113T103309_N0511_R108_T32TLQ_20250113T122458"
L2A = "S2C_MSIL2A_20250811T112131_N0511_R037_T29TPF_20250811T152216"
needs_real = pytest.mark.skipif(not FIXTURES.is_dir(), reason="needs ../shared/fixtures/eopf")

LEFT_OUT = ("conditions/geometry", "conditions/meteorology", "quality/atmosphere", "quality/l")
"""Groups that nothing reads and that are most of the metadata."""

Node = dict[str, Any]


@dataclass(frozen=True)
class Product:
    """Metadata by path (``""`` is the root), and the scene that the arrays show, in offset-free DN."""

    name: str
    nodes: dict[str, Node]
    scene: scenes.Scene
    added: int = 1000
    chunk: int = 24
    """Pixels of the 60 m grid in one chunk."""

    def edited(self, path: str, change: Callable[[Node], object]) -> Product:
        """The same after `change` has been called with a copy of the node at `path`."""
        node = copy.deepcopy(self.nodes[path])
        change(node)
        return replace(self, nodes={**self.nodes, path: node})

    def without(self, path: str) -> Product:
        """The same without an array, or a group and all in it."""
        nodes = {p: n for p, n in self.nodes.items() if p != path and not p.startswith(f"{path}/")}
        assert len(nodes) < len(self.nodes), path
        return replace(self, nodes=nodes)

    def pixels(self, path: str) -> np.ndarray:
        """What the array at `path` holds."""
        home, _, name = path.rpartition("/")
        size = int(home[-3:-1])
        left, bottom, right, top = self.scene.bounds
        if name == "x":
            return np.arange(left + size // 2, right, size)
        if name == "y":
            return np.arange(top - size // 2, bottom, -size)
        shape = (top - bottom) // size, (right - left) // size
        layer = {"scl": "SCL", "cld": "CLDPRB", "b00": "CLASSI"}.get(name, name.upper())
        if "reflectance" in home and layer in BANDS and BANDS[layer].gsd == size:
            raw = self.scene.bands[layer].astype("int32")
            return np.where(raw == 0, 0, raw + self.added)
        if "reflectance" not in home and layer in self.scene.bands and layer not in BANDS and size == _gsd(layer):
            found = self.scene.bands[layer]
            return found if found.ndim == 2 else (found * np.array([1, 2, 4])[:, None, None]).sum(0)
        return np.full(shape, 9)  # masks, and bands off their native grid: real numbers that nothing may use

    def write(self, folder: Path, zarr_format: int = 2, consolidated: bool = True) -> Path:
        """Write it below `folder`; gives the .zarr folder."""
        home = folder / f"{self.name}.zarr"
        made = self._v2(home) if zarr_format == 2 else self._v3(home)
        if consolidated and zarr_format == 2:
            text = json.dumps({"zarr_consolidated_format": 1, "metadata": made})
            (home / ".zmetadata").write_text(text)
        elif consolidated:
            with warnings.catch_warnings():  # it is no part of the specification of format 3 yet
                warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
                zarr.consolidate_metadata(str(home), zarr_format=3)
        return home

    def _v2(self, home: Path) -> Node:
        made: Node = {}
        for path, node in self.nodes.items():
            own = {k: v for k, v in node.items() if k != "attributes"}
            made[f"{path}/.zarray" if "shape" in own else f"{path}/.zgroup"] = own
            made[f"{path}/.zattrs"] = node["attributes"]
        made = {path.lstrip("/"): text for path, text in made.items()}
        for path, text in made.items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_text(json.dumps(text))
        for path, node in self.nodes.items():
            if _sound(node):
                _fill(home / path, self.pixels(path), node)
        return made

    def _v3(self, home: Path) -> None:
        root = zarr.create_group(str(home), zarr_format=3, attributes=self.nodes[""]["attributes"])
        for path, node in self.nodes.items():
            if path and "shape" not in node:
                root.create_group(path, attributes=node["attributes"])
        for path, node in self.nodes.items():
            if "shape" in node:
                attrs = {k: v for k, v in node["attributes"].items() if k != "_ARRAY_DIMENSIONS"}
                if node["fill_value"] is not None:
                    attrs["_FillValue"] = node["fill_value"]
                array = root.create_array(
                    path,
                    shape=node["shape"],
                    chunks=node["chunks"],
                    dtype=node["dtype"],
                    fill_value=node["fill_value"] or 0,
                    dimension_names=node["attributes"]["_ARRAY_DIMENSIONS"],
                    attributes=attrs,
                )
                if _sound(node):
                    array[...] = self.pixels(path)


_chunks: dict[str, dict[str, bytes]] = {}


def _fill(home: Path, pixels: np.ndarray, node: Node) -> None:
    """Write the chunks of an array of format 2; those that were written before are not compressed again."""
    own = json.dumps({k: v for k, v in node.items() if k != "attributes"})
    key = f"{own} {pixels.dtype} {hashlib.sha256(pixels.tobytes()).hexdigest()}"
    if key not in _chunks:
        zarr.open_array(str(home), mode="r+", zarr_format=2)[...] = pixels
        files = (file for file in home.rglob("*") if file.is_file() and file.name not in (".zarray", ".zattrs"))
        _chunks[key] = {file.relative_to(home).as_posix(): file.read_bytes() for file in files}
        return
    for name, content in _chunks[key].items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(content)


def product(name: str, cells: tuple[int, int] = (6, 4), seed: int = 0, chunk: int = 24) -> Product:
    """A product of `cells` rows and columns of 60 m pixels, with the metadata of the one of this name."""
    root = json.loads((FIXTURES / f"{name}.zarr-metadata.json").read_text())
    whole = dict(_walk(root))
    said = root["attributes"]["stac_discovery"]["properties"]
    left, _, _, top = (int(v) for v in said["proj:bbox"])
    level = said["processing:level"]
    made = scene(cells, said["proj:epsg"], left, top, name[38:44].strip("_T"), level, seed)
    return placed(Product(name, whole, made, chunk=chunk))


def placed(made: Product) -> Product:
    """The product with the place, the CRS and the size of its scene in all of its metadata."""
    left, bottom, right, top = made.scene.bounds
    nodes = {}
    for path, node in made.nodes.items():
        if path.startswith(LEFT_OUT):
            continue
        node = copy.deepcopy(node)
        attrs = node["attributes"]
        if node.get("shape"):
            home, _, dim = path.rpartition("/")
            size = int(home[-3:-1])
            full = [(top - bottom) // size, (right - left) // size]
            node["shape"] = {"x": full[1:], "y": full[:1]}.get(dim, full)
            node["chunks"] = [max(1, min(made.chunk * 60 // size, n)) for n in node["shape"]]
            if "proj:bbox" in attrs:
                attrs |= {"proj:bbox": [float(v) for v in made.scene.bounds], "proj:shape": full}
                attrs |= {"proj:epsg": made.scene.epsg, "proj:transform": [size, 0, left, 0, -size, top, 0, 0, 1]}
                attrs.pop("proj:wkt2", None)
        nodes[path] = node
    root = nodes[""]["attributes"]
    root["stac_discovery"]["properties"] |= {"proj:bbox": list(made.scene.bounds), "proj:epsg": made.scene.epsg}
    root["other_metadata"]["horizontal_CRS_code"] = f"EPSG:{made.scene.epsg}"
    return replace(made, nodes=nodes)


def zipped(home: Path, path: Path, prefix: str = "") -> Path:
    """Zip a store, by default as zarr does: its root is that of the archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(home.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(home).as_posix())
    return path


def _walk(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    yield path, {k: v for k, v in node.items() if k != "members"}
    for name, member in (node.get("members") or {}).items():
        yield from _walk(member, f"{path}/{name}".lstrip("/"))


def _gsd(layer: str) -> int:
    return 60 if layer == "CLASSI" else 20


def _sound(node: Node) -> bool:
    return isinstance(node.get("shape"), list) and len(node["shape"]) > 0
