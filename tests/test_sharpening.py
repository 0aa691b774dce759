"""The sharpening benchmark of Ciotola et al. (2025), in a tiny folder of the same layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.io import savemat

import xsen2  # noqa: F401  # gives datasets their accessor
from xsen2.bands import GRIDS, B, C
from xsen2.cli.main import main
from xsen2.engine.operators import degrade_array, kernels
from xsen2.errors import SourceError
from xsen2.evaluation.datasets import FULL, REDUCED, images, sharpening
from xsen2.evaluation.metrics import compare

SIDE = 96


def ground(seed: int, side: int) -> dict[str, np.ndarray]:
    """Twelve bands that share most of their detail, DN."""
    rng = np.random.default_rng(seed)
    shared = rng.uniform(500, 2500, (side // 4, side // 4)).repeat(4, 0).repeat(4, 1)
    names = [band for bands in GRIDS.values() for band in bands]
    return {band: (shared * rng.uniform(0.5, 1) + rng.uniform(0, 60, (side, side))).astype("f4") for band in names}


def content(seed: int, scale: int | None) -> dict[str, np.ndarray]:
    """What a file holds: at full resolution, or made `scale` times coarser, with its truth."""
    truth = ground(seed, SIDE * (scale or 1))
    held = {}
    for gsd, bands in GRIDS.items():
        stack = []
        for band in bands:
            x = truth[band]
            for factor in (gsd // 10, scale or 1):
                if factor > 1:
                    x = degrade_array(x, *kernels(band, factor, "mtf")[0], factor, kernels(band, factor, "mtf")[1])
            stack.append(x)
        if gsd == 60:
            stack.append(np.full_like(stack[0], 11))  # B10
        held[f"S2_{gsd}"] = np.stack(stack, -1)
    if scale:
        bands = GRIDS[10 * scale]
        seen = [
            degrade_array(truth[b], *kernels(b, scale, "mtf")[0], scale, kernels(b, scale, "mtf")[1]) for b in bands
        ]
        held["S2_GT"] = np.stack([*seen, np.full_like(seen[0], 11)][: len(bands) + (scale == 6)], -1)
    return {name: x.round().astype("u2") for name, x in held.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("Sentinel2")
    for number, (place, scale) in enumerate(
        {"Reduced_Resolution/20/Test/a": 2, "Reduced_Resolution/60/Test/a": 6, "Full_Resolution/Test/a": None}.items()
    ):
        (root / place).parent.mkdir(parents=True)
        savemat(root / f"{place}.mat", content(number, scale))
    return root


def test_each_file_says_what_it_is(folder: Path):
    full, twenty, sixty = images(folder)
    assert (full.name, full.truth) == ("Full_Resolution/Test/a", None)
    assert list(full.cube) == [band for bands in GRIDS.values() for band in bands]
    assert full.cube["B09"].shape == (SIDE // 6, SIDE // 6)
    assert list(twenty.truth) == list(B)
    assert list(sixty.truth) == list(C)
    assert sixty.truth["B09"].shape == (SIDE, SIDE)


def test_scores_are_those_of_the_truth(folder: Path):
    said: list[str] = []
    found = sharpening(folder, ["regression"], say=said.append)
    assert set(found) == {"20", "60", "full"}
    assert list(found["20"]) == list(REDUCED)
    assert set(found["full"]) == set(FULL)
    assert dict(found["full"].sizes) == {"image": 1, "method": 2, "grid": 2}
    for kind, image in zip(("20", "60"), list(images(folder))[1:], strict=True):
        sr = image.cube.dsen2.superresolve(list(image.truth), "bicubic", native=False)
        want = compare(sr, image.truth, ratio=int(kind) / 10)
        got = found[kind].sel({"method": "bicubic", "image": image.name})
        for name in REDUCED:
            assert float(got[name]) == pytest.approx(float(want[name]), rel=1e-9)
        ergas = found[kind]["ergas"].sel({"image": image.name})
        assert float(ergas.sel({"method": "regression"})) < 0.8 * float(ergas.sel({"method": "bicubic"}))
    assert len(said) == 3
    assert said[1].startswith("Reduced_Resolution/20/Test/a: ergas bicubic ")


def test_the_command_writes_a_table_for_each_folder(folder: Path, tmp_path: Path):
    out = tmp_path / "report"
    command = ["evaluate", str(folder), "--dataset", "sharpening", "--out", str(out), "--methods", "bicubic", "--quiet"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "20 m bands, reduced resolution" in result.output
    assert {p.name for p in out.iterdir()} == {"scores-20.csv", "scores-60.csv", "scores-full.csv"}
    assert len((out / "scores-full.csv").read_text().splitlines()) == 1 + 2


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(SourceError, match=r"no \.mat files"):
        next(images(tmp_path))
    file = tmp_path / "x.mat"
    file.write_bytes(b"no MATLAB" * 40)
    with pytest.raises(SourceError, match=r"x\.mat is no image of the benchmark"):
        next(images(tmp_path))
    held = content(0, 2)
    savemat(file, held | {"S2_20": held["S2_20"][..., :4]})
    with pytest.raises(SourceError, match=r"S2_20 has shape \(y, x, band\) \(48, 48, 4\)"):
        next(images(tmp_path))
    savemat(file, {name: x for name, x in held.items() if name != "S2_60"})
    with pytest.raises(SourceError, match="S2_60"):
        next(images(tmp_path))
    savemat(file, {"S2_10": np.array([["a"]], object)})
    with pytest.raises(SourceError, match="S2_10"):
        next(images(tmp_path))
