"""Many scenes: the numbers of `evaluate`, patches pooled exactly, what cannot be judged said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scenes
import xarray as xr
from cubes import make_cube, no_compute

import xsen2
from xsen2.bands import GRIDS, B, C
from xsen2.degrade import pair
from xsen2.errors import GridError, MethodError, SourceError
from xsen2.evaluation.benchmark import Cell, Judge, KeepingJudge, Tally, identity, labelled, subjects
from xsen2.evaluation.metrics import PER_BAND, SPECTRAL, State
from xsen2.methods import registry
from xsen2.methods.bicubic import Bicubic


def save(path: Path, *cubes: xr.Dataset, grids: tuple[int, ...] = (10, 20, 60)) -> None:
    """Cubes as one ``.npz`` file: a stack of patches if there are several."""
    arrays = {}
    for gsd in grids:
        stack = [np.stack([np.rint(cube[b].values) for b in GRIDS[gsd]]).astype("uint16") for cube in cubes]
        arrays[f"b{gsd}"] = stack[0] if len(stack) == 1 else np.stack(stack)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes: one with all bands, a stack, one without 60 m bands, and one too small."""
    data = tmp_path_factory.mktemp("data") / "validation"
    save(data / "field_L2A.npz", make_cube(8, 6, seed=1))
    save(data / "patches.npz", *(make_cube(6, 6, seed=s) for s in (2, 3, 4)))
    save(data / "river.npz", make_cube(6, 8, seed=5), grids=(10, 20))
    save(data / "speck.npz", make_cube(1, 1, seed=6))
    notes = {"validation": {"river": {"level": "L1C", "note": "file date 20170930"}}}
    (data.parent / "scenes.json").write_text(json.dumps(notes))
    return data


def test_scores_are_those_of_evaluate(folder: Path) -> None:
    said: list[xsen2.Progress] = []
    got = xsen2.benchmark(folder, ["bicubic", "regression"], 2, "dsen2", border=2, progress=said.append)
    assert got["rmse"].dims == ("scene", "method", "band")
    assert list(got["scene"].values) == ["field_L2A", "patches", "river"]
    assert list(got["band"].values) == list(B)
    assert list(got["level"].values) == ["L2A", "", "L1C"]
    assert (got.attrs["scale"], got.attrs["operator"], got.attrs["border"]) == (2, "dsen2", 2)
    assert got.attrs["left_out"][0].startswith("speck: ")
    assert [(now.done, now.total) for now in said] == [(n, 4) for n in (1, 2, 3, 4)]
    assert said[2].about == "river, scale 2, dsen2: 2 of 2 methods"
    with pytest.raises(xsen2.Cancelled, match="benchmark was stopped after 2 of 4 scenes"):
        xsen2.benchmark(folder, ["bicubic"], progress=lambda now: now.done < 2)
    cube = next(s.cube for s in subjects(folder) if s.name == "river")
    want = xsen2.accessors.DSen2Accessor(cube).evaluate(["bicubic", "regression"], 2, "dsen2", border=2)
    for name in (*PER_BAND, *SPECTRAL):
        np.testing.assert_allclose(got[name].sel(scene="river").values, want[name].values, rtol=1e-9, err_msg=name)


def test_patches_are_pooled_by_their_states(folder: Path) -> None:
    got = xsen2.benchmark(folder, ["bicubic"], 6).sel(scene="patches").isel(method=0)
    states = []
    for seed in (2, 3, 4):
        patch = make_cube(6, 6, seed=seed).map(np.rint)
        coarse, truth = pair(patch, 6)
        sr = coarse.dsen2.superresolve(list(C), "bicubic", native=False)
        states.append(State.of(*(np.stack([ds[b].values for b in C]) for ds in (sr, truth))))
    want = State.merge(states).finish(6)
    for name in (*PER_BAND, *SPECTRAL):
        np.testing.assert_allclose(got[name].values, want[name], rtol=1e-6, err_msg=name)


def test_table_is_in_order(folder: Path) -> None:
    table = xsen2.benchmark(folder, {"Keys": "bicubic", "linear": "regression"}).to_dataframe()
    assert table.index.names == ["scene", "method", "band"]
    assert list(table.columns) == ["level", *PER_BAND, *SPECTRAL]
    assert list(table.loc[("river", "linear")].index) == list(B)


def test_full_scale_has_all_bands(folder: Path) -> None:
    got = xsen2.benchmark(folder, ["bicubic"], 1)
    assert list(got["scene"].values) == ["field_L2A", "patches", "river", "speck"]
    consistency = got["consistency"].isel(method=0)
    assert np.isnan(consistency.sel(scene="river", band=list(C))).all()
    assert np.isfinite(consistency.sel(scene="field_L2A")).all()


def test_what_a_method_cannot_make_is_nan_and_noted() -> None:
    cubes = {"all": make_cube(6, 6), "without B8A": make_cube(6, 6).drop_vars("B8A")}
    got = xsen2.benchmark(cubes, ["bicubic", "twogrid"], 2, device="cpu")
    assert np.isfinite(got["rmse"].sel(scene="all")).all()
    assert np.isnan(got["rmse"].sel({"scene": "without B8A", "method": "twogrid"})).all()
    kept = got["rmse"].sel({"scene": "without B8A", "method": "bicubic"})
    assert list(kept["band"].values[np.isfinite(kept)]) == [b for b in B if b != "B8A"]
    (note,) = got.attrs["notes"]
    assert note.startswith("without B8A, twogrid: ")
    only = xsen2.benchmark({"all": make_cube(6, 6)}, {"B": "bicubic", "one": Bicubic("B01")}, 6)
    assert np.isnan(only["rmse"].sel({"method": "one"})).all()


def test_mistakes_are_errors_before_anything_is_read(tmp_path: Path) -> None:
    cubes = {"a": make_cube(6, 6, chunks=36)}
    with no_compute():
        for arguments, error, words in (
            ({"methods": ["bicubik"]}, MethodError, "did you mean 'bicubic'"),
            ({"methods": "bicubic"}, MethodError, "give a list"),
            ({"methods": []}, MethodError, "at least one"),
            ({"methods": ["bicubic", "bicubic"]}, MethodError, "same name"),
            ({"scale": 3}, MethodError, "scale=3"),
            ({"operator": "nearest"}, MethodError, "unknown operator"),
            ({"border": -1}, GridError, "border=-1"),
        ):
            with pytest.raises(error, match=words):
                xsen2.benchmark(cubes, **arguments)
    for scenes_ in ({}, tmp_path, tmp_path / "none"):
        with pytest.raises(SourceError):
            xsen2.benchmark(scenes_, ["bicubic"])
    with pytest.raises(SourceError, match=r"no scene can be judged at scale 2: a: border=40"):
        xsen2.benchmark(cubes, ["bicubic"], border=40)


def test_levels_and_years_are_what_is_known(folder: Path) -> None:
    found = {s.name: (s.level, s.years) for s in subjects(folder)}
    assert found == {"field_L2A": ("L2A", ()), "patches": ("", ()), "river": ("L1C", (2017,)), "speck": ("", ())}
    cube = make_cube(2, 2).assign_attrs(
        level="L1C", attribution="contains modified Copernicus Sentinel data 2016, 2019"
    )
    (one,) = subjects({"x": cube})
    assert (one.level, one.years) == ("L1C", (2016, 2019))


def test_only_one_scene_is_held_at_a_time() -> None:
    alive: list[str] = []

    class Cubes(dict[str, xr.Dataset]):
        def items(self):
            for name in self:
                alive.append(name)
                yield name, make_cube(4, 4)

    lines: list[str] = []
    xsen2.benchmark(
        Cubes(a=xr.Dataset(), b=xr.Dataset()),
        ["bicubic"],
        progress=lambda now: lines.append(f"{now.about.split(',')[0]} of {''.join(alive)}"),
    )
    assert lines == ["a of a", "b of ab"]


class Counting(KeepingJudge):
    """Counts what it has to compute."""

    computed: list[str] = []  # noqa: RUF012  # one list for all

    def cell(self, subject, label, scale, operator, at):
        before = len(list(self.folder.glob("*.json")))
        found = super().cell(subject, label, scale, operator, at)
        if len(list(self.folder.glob("*.json"))) > before:
            self.computed.append(f"{subject.name} {label}")
        return found


def test_cells_are_kept_and_found_again(
    folder: Path, tmp_path: Path, tiny_cards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "cards", lambda: tiny_cards)

    def run(border: int = 0, methods: tuple[str, ...] = ("bicubic", "regression")) -> tuple[xr.Dataset, list[str]]:
        Counting.computed.clear()
        judge = Counting(labelled(methods), border, "cpu", "float32", ((2, "mtf"),), tmp_path)
        tally = Tally(2, "mtf", border, methods)
        for subject in subjects(folder):
            if subject.name in ("river", "speck"):
                tally.add(subject, judge)
        assert all(c.crop is not None for row in tally.cells.values() for c in row.values())
        return tally.dataset(), list(Counting.computed)

    first, made = run()
    assert len(made) == 2 * 2
    again, made = run()
    assert made == []
    xr.testing.assert_identical(again, first)
    broken = next(iter(tmp_path.glob("*.json")))
    broken.write_text(broken.read_text()[:40])
    next(iter(p for p in tmp_path.glob("*.npy") if p.stem != broken.stem)).unlink()
    again, _ = run()
    xr.testing.assert_identical(again, first)
    assert len(run(border=1)[1]) == 2  # the speck has no pixels within its border
    more = run(methods=("bicubic", "regression", "twogrid"))[1]
    assert more == [f"{name} twogrid" for name in ("river", "speck")]


def test_identity_tells_methods_and_operators_apart() -> None:
    names = ("bicubic", "regression", "twogrid", "twogrid-paper", "dsen2")
    found = {tuple(identity(name, B, "mtf")) for name in names} | {tuple(identity("regression", B, "dsen2"))}
    assert len(found) == 6
    assert identity("twogrid", B, "mtf") == identity("default", B, "mtf")


def test_a_judge_without_a_folder_keeps_nothing(tmp_path: Path) -> None:
    (subject,) = subjects({"x": make_cube(4, 4)})
    cell = KeepingJudge(labelled(["bicubic"]), 0, "cpu", "float32", (), tmp_path).cell(
        subject, "bicubic", 2, "mtf", (0, 0, 0)
    )
    assert isinstance(cell, Cell)
    assert list(tmp_path.iterdir()) == []
    same = Judge(labelled(["bicubic"]), 0, "cpu", "float32").cell(subject, "bicubic", 2, "mtf", (0, 0, 0))
    xr.testing.assert_identical(cell.scores, same.scores)


@pytest.mark.real
@pytest.mark.skipif(scenes.missing() is not None, reason=str(scenes.missing()))
def test_agrees_with_the_validation_table(tmp_path: Path) -> None:
    stored = json.loads((Path(__file__).parents[1] / "benchmarks/results/validation.json").read_text())["scenes"]
    names = ("bigearthnet_patches", "terramind_433D_629L_3_1_L2A")
    (tmp_path / "validation").mkdir()
    shutil.copy(scenes.SHARED / "data/scenes.json", tmp_path)
    for name in names:
        shutil.copy(scenes.SHARED / "data/validation" / f"{name}.npz", tmp_path / "validation")
    got = xsen2.benchmark(tmp_path / "validation", ["bicubic"], 2, "dsen2")
    for name in names:
        want = stored["20 m, dsen2"][name]["rmse"]["bicubic"]
        for band in B:
            assert float(got["rmse"].sel(scene=name, band=band)[0]) == pytest.approx(want[band], abs=0.02)
