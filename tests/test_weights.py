"""Weights outside the package: how ``method=`` finds them, and what is said of those that are broken."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import every
from click.testing import CliRunner
from cubes import make_cube
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

import xsen2
from xsen2.bands import B, C
from xsen2.cli.main import main
from xsen2.methods.registry import resolve
from xsen2.networks import inference, local
from xsen2.networks.cards import Card, cards
from xsen2.networks.dsen2 import DSen2
from xsen2.networks.load import start
from xsen2.sinks.zarr import to_zarr


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A user's folder of weights, empty at first."""
    folder = tmp_path / "home"
    monkeypatch.setenv("XSEN2_WEIGHTS", str(folder))
    return folder


def put(folder: Path, network="mine", ratio=2, seed=0, name=None, **fields) -> Card:
    """Write a small DSen2 into a folder."""
    torch.manual_seed(seed)
    module = DSen2(ratio, blocks=1, features=4)
    raw = save(module.state_dict())
    said = {
        "name": name or f"{network}-{10 * ratio}m",
        "network": network,
        "architecture": "dsen2.DSen2",
        "arguments": {"ratio": ratio, "blocks": 1, "features": 4},
        "ratio": ratio,
        "halo": -(-module.radius // ratio) + 1,
        "sha256": hashlib.sha256(raw).hexdigest(),
        "licence": "CC0-1.0; nobody's",
        "source": "a test",
        "training": {"recipe": {"stages": [{"steps": 1}, {"steps": 2}]}, "scenes": ["one", "two"]},
        "validation": {},
    }
    return Card(**said | fields).write(folder, raw)


def edit(card: Card, **fields) -> None:
    path = card.file.with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def b11(method, **kwargs):
    ds = make_cube(2, 3)
    return ds.dsen2.superresolve(["B11"], method, native=False, dtype="float32", device="cpu", **kwargs)["B11"].values


def command(*args: object) -> str:
    run = CliRunner().invoke(main, [str(a) for a in args])
    assert run.exit_code == 0, run.output
    return run.output


def test_every_way_to_name_a_path(tmp_path, monkeypatch):
    folder = tmp_path / "run-1"
    card, sixty = put(folder), put(folder, ratio=6)
    (folder / "log.json").write_text("[1, 2]")
    want = b11(folder)
    assert not np.allclose(want, b11("bicubic"), atol=1)
    monkeypatch.chdir(tmp_path)
    same = (
        str(folder), f"{folder}/", "run-1", "run-1/", "./run-1", Path("run-1"),
        "run-1/mine-20m.json", "run-1/mine-20m.safetensors", card.file, card.file.with_suffix(".json"),
    )  # fmt: skip
    for method in same:
        np.testing.assert_array_equal(b11(method), want)
    assert {b for m in resolve("run-1", [*B, *C]) for b in m.produces} == {*B, *C}
    assert [m.card.name for m in resolve(sixty.file, ["B01"])] == ["mine-60m"]
    with pytest.raises(xsen2.BandError, match=r"'run-1/mine-20m.json' does not make B01 \(60 m\): it makes B05"):
        resolve("run-1/mine-20m.json", ["B01", "B05"])
    with pytest.raises(xsen2.BandError, match="it makes B01, B09"):
        resolve(sixty.file, ["B05"])
    monkeypatch.setenv("HOME", str(tmp_path))
    np.testing.assert_array_equal(b11("~/run-1"), want)
    assert list(make_cube(4, 4).dsen2.evaluate([folder, str(folder)])["method"].values) == ["run-1", str(folder)]


def test_a_path_in_the_shell(tmp_path):
    put(tmp_path / "w")
    to_zarr(make_cube(2, 2, chunks=12), tmp_path / "in.zarr", dtype="float32", progress=False)
    out = tmp_path / "out.zarr"
    command("run", tmp_path / "in.zarr", out, "--method", tmp_path / "w", "--bands", "B11", "--dtype", "float32")
    run = CliRunner().invoke(
        main, ["run", str(tmp_path / "in.zarr"), str(out), "--method", str(tmp_path / "none.json")]
    )
    assert run.exit_code == 2
    assert "none.json: it does not exist" in run.stderr
    assert "mine" in command("weights", "show", tmp_path / "w")


def test_a_path_that_leads_nowhere_says_why(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "log.json").write_text("{}")
    (tmp_path / "text.txt").write_text("")
    put(tmp_path / "many", "one")
    put(tmp_path / "many", "two")
    put(tmp_path / "twice", name="a")
    put(tmp_path / "twice", seed=1, name="b")
    bare = put(tmp_path / "bare").file
    bare.with_suffix(".json").unlink()
    lost = put(tmp_path / "lost").file
    lost.unlink()
    cut = put(tmp_path / "cut").file.with_suffix(".json")
    put(tmp_path / "cut", ratio=6)
    cut.write_text(cut.read_text()[:99])
    for path, message in {
        "none/": "does not exist",
        "none.safetensors": "does not exist",
        "empty": "holds no weights: NAME.safetensors, and its card",
        "log.json": "log.json is not a card of weights",
        "many": r"holds several networks \(one, two\): give the path of one card, as .*one-20m.json",
        "twice": r"several weights of 'mine' for the 20 m bands \(a, b\)",
        "bare": "holds no weights",
        "bare/mine-20m.safetensors": "has no card beside it: mine-20m.json",
        "lost": "weights that are missing: mine-20m.safetensors should",
        "lost/mine-20m.json": "weights that are missing",
        "cut": "mine-20m.json is not a card of weights",
    }.items():
        for method in (f"{tmp_path}/{path}", tmp_path / path):
            with pytest.raises(xsen2.WeightsError, match=message):
                resolve(method, ["B05"])
    with pytest.raises(xsen2.WeightsError, match="is no weights: give a folder, or"):
        resolve(tmp_path / "text.txt", ["B05"])
    with pytest.raises(xsen2.MethodError, match=r"unknown method 'text\.txt'.* or the path of weights"):
        resolve("text.txt", ["B05"])
    assert resolve(tmp_path / "many" / "two-20m.json", ["B05"])[0].name == "two"
    for odd in ("", "x" * 5000, "a\0b", "x" * 5000 + ".json", "/" + "x" * 5000):
        with pytest.raises(xsen2.MethodError):
            resolve(odd, ["B05"])


def test_installed_weights_have_a_name(home):
    before = list(xsen2.methods().index)
    assert "mine" not in before
    with pytest.raises(xsen2.MethodError, match="unknown method 'mine'"):
        resolve("mine", ["B05"])
    put(home)
    put(home, ratio=6, licence="GPL-3.0")
    table = xsen2.methods()
    assert list(table.index) == [*before, "mine"]
    said = {"kind": "network", "licence": "CC0-1.0; nobody's; GPL-3.0", "source": "a test", "gsd": "10", "frames": "1"}
    assert dict(table.loc["mine"]) == said
    np.testing.assert_array_equal(b11("mine"), b11(home))
    assert {b for m in resolve("mine", [*B, *C]) for b in m.produces} == {*B, *C}
    assert "mine" not in cards(), "installed ones are not shipped"


def test_names_come_before_folders(tmp_path, home, monkeypatch):
    put(home)
    monkeypatch.chdir(tmp_path)
    for name in ("bicubic", "mine", "vdsen2"):
        put(tmp_path / name, "other", seed=3)
    assert resolve("bicubic", ["B05"])[0].name == "bicubic"
    assert resolve("mine", ["B05"])[0].name == "mine"
    assert resolve("./mine", ["B05"])[0].name == "other"
    with pytest.raises(xsen2.WeightsError, match="no weights of 'vdsen2'"):
        resolve("vdsen2", ["B05"])


def test_vdsen2_is_a_name_whose_weights_are_elsewhere(home):
    assert "vdsen2" not in xsen2.methods().index
    with pytest.raises(
        xsen2.WeightsError,
        match=r"no weights of 'vdsen2' in .*home: .*xsen2 train --network vdsen2.*xsen2 weights convert",
    ):
        make_cube(2, 2).dsen2.superresolve(method="vdsen2")
    for name in ("dsen2-official", "vdsen2-official"):
        with pytest.raises(xsen2.WeightsError, match="convert your download"):
            resolve(name, ["B05"])
    with pytest.raises(xsen2.MethodError, match="did you mean 'vdsen2'"):
        resolve("vdsen", ["B05"])
    put(home, "vdsen2")
    assert "vdsen2" in xsen2.methods().index
    assert np.isfinite(b11("vdsen2")).all()


@pytest.mark.parametrize("taken", ["default", "bicubic", *cards()])
def test_names_of_the_package_cannot_be_taken(home, taken):
    before = b11("bicubic" if taken == "bicubic" else taken)
    card = put(home, taken)
    assert list(xsen2.methods().index).count(taken) == 1
    np.testing.assert_array_equal(b11(taken), before)
    assert f"calls its network '{taken}', a name of xsen2's own" in command("weights", "list")
    assert resolve(card.file, ["B05"])[0].card == card  # a path is plain enough


def test_broken_cards_harm_nobody_else(home):
    put(home, "good")
    cut = put(home, "cut").file.with_suffix(".json")
    put(home, "cut", ratio=6)
    cut.write_text(cut.read_text()[:99])
    put(home, "lost").file.unlink()
    edit(put(home, "odd"), halo=-1)
    put(home, "twice", name="twice-a")
    put(home, "twice", seed=1, name="twice-b")
    (home / "list.json").write_text("[]")
    (home / "binary.json").write_bytes(bytes(range(256)))
    (home / "dangling.json").symlink_to(home / "nowhere")
    (home / "folder.json").mkdir()
    assert [m for m in xsen2.methods().index if m in ("good", "cut", "lost", "odd", "twice")] == ["cut", "good"]
    assert [m.name for m in resolve("good", ["B05"])] == ["good"]
    assert [m.name for m in resolve("cut", ["B01"])] == ["cut"], "what is not asked for is not missed"
    assert resolve("default", ["B05", "B01"])
    listed = command("weights", "list")
    for name, message in {
        "cut": "cut-20m.json is not a card of weights",
        "lost": "weights that are missing",
        "odd": "halo is -1, not a number of pixels",
        "twice": r"several weights of 'twice'",
        "list": "list.json is not a card",
        "binary": "binary.json is not a card",
    }.items():
        with pytest.raises(xsen2.WeightsError, match=message):
            resolve(name, ["B05"])
        assert message in listed.replace("\n", " ")
        run = CliRunner().invoke(main, ["weights", "show", name])
        assert run.exit_code == 2
        assert message in run.stderr
    code = "import xsen2; print(*xsen2.methods().index)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "good" in run.stdout.split()


def test_weights_list_and_show(home):
    card = put(home)
    bad = put(home, ratio=6)
    bad.file.write_bytes(b"other")
    rows = {row["name"]: row for row in json.loads(CliRunner().invoke(main, ["weights", "list", "--json"]).stdout)}
    assert {k: v for k, v in rows["mine-20m"].items() if k not in ("path", "MB")} == {
        "name": "mine-20m", "network": "mine", "bands": "20 m", "sha256": card.sha256[:12], "licence": "CC0-1.0"
    }  # fmt: skip
    assert rows["mine-20m"]["path"] == str(card.file)
    listed = command("weights", "list").splitlines()
    for name in ("mine-20m", *(c.name for group in cards().values() for c in group)):
        assert any(line.split()[:1] == [name] for line in listed)
    assert card.sha256[:12] in " ".join(listed)
    assert "sha256 is another" in listed[-1]
    assert listed[-1].startswith(f"broken: {home / 'mine-60m.json'}: ")
    shown = command("weights", "show", "mine-20m")
    for line in ("name: mine-20m", "  features: 4", "  scenes: one, two", '      - {"steps": 2}', f"path: {card.file}"):
        assert line in shown.splitlines()
    assert command("weights", "show", "mine").count("name: mine-") == 2
    assert "licence: Apache-2.0" in command("weights", "show", "dsen2")
    run = CliRunner().invoke(main, ["weights", "show", "nobody"])
    assert run.exit_code == 2
    assert "no weights named 'nobody': use one of" in run.stderr


def test_where_the_user_folder_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XSEN2_WEIGHTS", "~/w")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local.folder() == tmp_path / "w"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XSEN2_WEIGHTS", "w")
    assert local.folder() == tmp_path / "w"
    monkeypatch.setenv("XSEN2_WEIGHTS", "")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert local.folder() == tmp_path / "data" / "xsen2" / "weights"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert local.folder() == tmp_path / ".local" / "share" / "xsen2" / "weights"
    assert "default" in xsen2.methods().index  # without such a folder
    monkeypatch.setenv("XSEN2_WEIGHTS", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    assert "default" in xsen2.methods().index


def test_a_worker_elsewhere_finds_them(tmp_path, monkeypatch):
    """The method travels by itself; what it names is found from another working directory."""
    monkeypatch.chdir(tmp_path)
    put(Path("w"))
    (method,) = resolve("w", ["B11"], device="cpu", dtype="float32")
    assert len(pickle.dumps(method)) < 10_000
    code = (
        "import pickle, sys, numpy as np; m = pickle.load(sys.stdin.buffer);"
        "out = m(*(np.ones((n, 24 // f, 24 // f), 'f4') for n, f in ((4, 1), (6, 2), (2, 6)))); print(out.shape)"
    )
    (tmp_path / "elsewhere").mkdir()
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "elsewhere",
        input=pickle.dumps(method),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(Path(xsen2.__file__).parents[1])},
    )
    assert run.stdout == b"(6, 24, 24)\n", run.stderr
    blocks = [np.ones((n, 24 // f, 24 // f), np.float32) for n, f in ((4, 1), (6, 2), (2, 6))]
    monkeypatch.setattr(inference, "_networks", {})
    method.card.file.write_bytes(method.card.file.read_bytes()[:-4])
    with pytest.raises(xsen2.WeightsError, match=r"its sha256 is .* copy both anew, and the same to every worker"):
        method(*blocks)
    method.card.file.unlink()
    with pytest.raises(xsen2.WeightsError, match=r"cannot be read from .* on this worker"):
        method(*blocks)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"arguments": {"ratio": 2, "blocks": 2, "features": 4}, "halo": 4},
            r"not what the card of mine-20m describes, dsen2\.DSen2 with .*: body\.1\.conv1\.weight is missing",
        ),
        (
            {"arguments": {"ratio": 2, "blocks": 1, "features": 5}},
            r"head\.weight is \(4, 10, 3, 3\), not \(5, 10, 3, 3\)",
        ),
        ({"arguments": {"ratio": 2, "depth": 1}}, "takes no argument 'depth': it takes ratio, blocks, features"),
        ({"arguments": {"ratio": 2, "blocks": True, "features": 4}}, "takes blocks: int, not True"),
        ({"arguments": {"ratio": 2, "blocks": 1, "features": "4"}}, "takes features: int, not '4'"),
        ({"arguments": {"ratio": 2, "blocks": 1, "features": 4.0}}, "takes features: int, not 4.0"),
        (
            {"architecture": "twogrid.TwoGrid", "arguments": {"thin": 0, "wide": 0}, "halo": 17},
            "twogrid.TwoGrid (cannot be built )?with .*(division by zero|'thin': 0)",
        ),
        ({"halo": 1}, "sees 4 pixels of 10 m on each side, which is 3: with less, blocks would leave seams"),
        ({"halo": 150}, "says halo 150, but the network sees 4 pixels"),
        ({"spread": [1.0] * 6}, "has a spread, but the network gives no standard errors"),
        ({"sha256": "0" * 64}, "its sha256 is .*, the card says 000000000000"),
    ],
)
def test_a_card_that_lies_is_found_out(tmp_path, fields, message):
    card = put(tmp_path / "w")
    b11(tmp_path / "w")  # so that the right network is in the cache of this process
    edit(card, **fields)
    ds = make_cube(2, 2)
    band = "B11" if fields.get("ratio", 2) == 2 else "B01"
    sr = ds.dsen2.superresolve([band], tmp_path / "w", device="cpu")
    with pytest.raises(xsen2.WeightsError, match=message):
        sr[band].compute()
    with pytest.raises(xsen2.WeightsError, match=message):  # by every other road
        ds.dsen2.finetune(tmp_path / "w", progress=False)
    with pytest.raises(xsen2.WeightsError, match=message):
        start(tmp_path / "w" / "mine-20m.safetensors")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "dsen2.DSen3"}, "architecture 'dsen2.DSen3' is none that this version of xsen2 has"),
        ({"architecture": "nowhere.DSen2"}, "is none that"),
        ({"architecture": "dsen2.upsample", "arguments": {}}, "is none that"),
        ({"architecture": "dsen2.torch.hub.load", "arguments": {}}, "is none that"),
        ({"architecture": "convert.convert", "arguments": {"file": "/etc/passwd"}}, "is none that"),
        ({"architecture": "DSen2"}, "is none that"),
        ({"arguments": {"ratio": 2, "blocks": 1, "features": -4}}, "argument 'features' is -4: .*from 0 to 1024"),
        ({"arguments": {"ratio": 2, "blocks": 1, "features": 12000}}, "'features' is 12000"),
        ({"arguments": {"ratio": 2, "blocks": 300000}}, "'blocks' is 300000"),
        ({"arguments": {"ratio": 2, "blocks": 10**400}}, "'blocks' is 1000"),
        ({"arguments": {"ratio": 2, "blocks": float("nan")}}, "'blocks' is nan"),
        ({"arguments": {"ratio": 2, "blocks": float("inf")}}, "'blocks' is inf"),
        ({"arguments": {"ratio": 2, "blocks": [1]}}, r"'blocks' is \[1\]"),
        ({"arguments": {"ratio": 2, "blocks": None}}, "'blocks' is None"),
        ({"ratio": 6, "halo": 2}, "says ratio 6, but the network is made for ratio 2"),
        *[({"halo": halo}, "not a number of pixels from 1 to 150") for halo in (0, -1, 151, 2000, 1e30, 10**30)],
        *[({"halo": halo}, "not a number of pixels") for halo in (True, "3", None, float("nan"), 3.0, [3])],
        ({"sha256": "x"}, "not 64 hexadecimal digits"),
        ({"spread": [float("inf")] * 6}, "not one positive number per band"),
        ({"spread": [float("nan")] * 6}, "not one positive number per band"),
        ({"name": "a" * 200}, "is too long"),
        ({"licence": "free\x1b[2J"}, "not a line of text"),
        ({"source": "\ud800"}, "not a line of text"),
    ],
)
def test_what_a_card_alone_tells_is_refused_before_anything_is_loaded(home, fields, message):
    card = put(home)
    edit(card, **fields)
    ds = make_cube(2, 2)
    with pytest.raises(xsen2.WeightsError, match=f"mine-20m.json is not a card of weights: .*{message}"):
        ds.dsen2.superresolve(["B11"], card.file)
    assert "mine" not in xsen2.methods().index
    assert "mine-20m.json is not a card of weights" in command("weights", "list")
    assert "twogrid" in command("methods")


def test_what_a_file_holds_must_be_safetensors(tmp_path):
    card = put(tmp_path / "w")
    card.file.write_bytes(b"not safetensors")
    edit(card, sha256=hashlib.sha256(b"not safetensors").hexdigest())
    with pytest.raises(xsen2.WeightsError, match="is not a safetensors file, or is damaged"):
        b11(tmp_path / "w")


def spoilt(folder: Path, change) -> Card:
    """Weights that were changed, with a card that vouches for them."""
    card = put(folder)
    state = load_file(card.file)
    change(state)
    raw = save(state)
    card.file.write_bytes(raw)
    edit(card, sha256=hashlib.sha256(raw).hexdigest())
    return card


@pytest.mark.parametrize(
    ("dtype", "value"),
    every(
        5,
        [
            (dtype, float(value))
            for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
            for value in ("nan", "inf", "-inf")
        ],
    ),
)
def test_weights_that_are_no_numbers_are_refused(tmp_path, value, dtype):
    def change(state):
        state["tail.bias"] = state["tail.bias"].to(dtype)
        state["tail.bias"][3] = value

    card = spoilt(tmp_path / "w", change)
    ds = make_cube(2, 2)
    sr = ds.dsen2.superresolve(["B11"], tmp_path / "w")
    for call in (
        sr.compute,
        lambda: ds.dsen2.finetune(card.file, progress=False),
        lambda: start(tmp_path / "w"),
        lambda: ds.dsen2.evaluate([str(card.file)]),
    ):
        with pytest.raises(xsen2.WeightsError, match=r"tail\.bias has values that are not finite numbers"):
            call()


def test_weights_that_lead_to_no_numbers_are_refused(tmp_path):
    def change(state):
        state["tail.weight"][:] = 3e38

    spoilt(tmp_path / "w", change)
    with pytest.raises(xsen2.WeightsError, match="gives values that are not finite numbers in float32"):
        b11(tmp_path / "w")

    def large(state):
        state["tail.bias"][:] = 1e5

    spoilt(tmp_path / "v", large)
    assert np.isfinite(b11(tmp_path / "v")).all()
    sr = make_cube(2, 2).dsen2.superresolve(["B11"], tmp_path / "v", dtype="float16", device="cpu")
    with pytest.raises(xsen2.WeightsError, match=r"tail\.bias of mine-20m is too large for float16"):
        sr.compute()


def test_weights_are_floating_point_numbers(tmp_path):
    spoilt(tmp_path / "w", lambda state: state.update({"tail.bias": torch.ones(6, dtype=torch.int8)}))
    with pytest.raises(xsen2.WeightsError, match=r"tail\.bias as torch\.int8"):
        b11(tmp_path / "w")


def test_no_more_is_read_than_the_network_can_have(tmp_path):
    card = put(tmp_path / "w", seed=77)  # not in the cache of this process
    with card.file.open("r+b") as file:
        file.truncate(2**40)  # takes no disk
    with pytest.raises(xsen2.WeightsError, match="it has 1099511627776 bytes"):
        b11(tmp_path / "w")
    card.file.unlink()
    os.mkfifo(card.file)
    with pytest.raises(xsen2.WeightsError, match="weights that are missing"):
        b11(tmp_path / "w")


def test_few_networks_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "_networks", {})
    one = 4 * sum(v.numel() for v in DSen2(2, 1, 4).state_dict().values())
    monkeypatch.setattr(inference, "KEPT", int(3.5 * one))
    cards = [put(tmp_path / str(i), seed=i) for i in range(6)]
    cpu = torch.device("cpu")
    for card in cards[:3]:
        inference.load(card, cpu, torch.float32)
    first = inference.load(cards[0], cpu, torch.float32)
    for card in cards[3:]:
        inference.load(card, cpu, torch.float32)
    assert [key[0] for key in inference._networks] == [c.sha256 for c in cards[3:]]
    inference.load(cards[4], cpu, torch.float32)
    again = inference.load(cards[0], cpu, torch.float32)
    assert again is not first
    assert [key[0] for key in inference._networks] == [cards[i].sha256 for i in (5, 4, 0)]
    monkeypatch.setattr(inference, "KEPT", 0)
    assert inference.load(cards[0], cpu, torch.float32) is again, "the last one stays, whatever its size"
    assert len(inference._networks) == 1


def test_networks_come_and_go_under_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "_networks", {})
    monkeypatch.setattr(inference, "KEPT", 1)
    folders = [str(tmp_path / str(i)) for i in range(4)]
    for i, folder in enumerate(folders):
        put(Path(folder), seed=i)
    want = [b11(folder) for folder in folders]
    with ThreadPoolExecutor(8) as pool:
        for i, got in enumerate(pool.map(b11, folders * 3)):
            np.testing.assert_array_equal(got, want[i % 4])
    assert len(inference._networks) == 1


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_a_nested_card_breaks_nothing(home, opening):
    put(home, "good")
    (home / "deep-20m.json").write_text(opening * 100_000)
    (home / "fifty-20m.json").write_text("[" * 50 + "]" * 50)
    card = put(home, "inner")
    edit(card, training=json.loads('{"a":' * 40 + "1" + "}" * 40))
    (home / "huge-20m.json").write_text('"' + "x" * 2**21 + '"')
    os.mkfifo(home / "pipe-20m.json")
    assert "good" in xsen2.methods().index
    assert np.isfinite(b11("good")).all()
    for name, message in {
        "deep": "nested more than 32 deep|Expecting|not a card",
        "fifty": "nested more than 32 deep",
        "inner": "nested more than 32 deep",
        "huge": "1048576 at most",
        "pipe": "not a regular file",
    }.items():
        with pytest.raises(xsen2.WeightsError, match=message):
            resolve(name, ["B05"])
        run = CliRunner().invoke(main, ["weights", "show", f"{name}-20m"])
        assert run.exit_code == 2
    for args in (["methods"], ["weights", "list"], ["weights", "show", "good"]):
        assert "good" in command(*args)


def test_listings_show_odd_names_as_they_can_be_shown(home):
    put(home, "good")
    with open(os.fsencode(home) + b"/\xff\x1b[2J\n.json", "wb") as file:
        file.write(b"{}")
    run = subprocess.run(
        [sys.executable, "-m", "xsen2.cli.main", "weights", "list"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(Path(xsen2.__file__).parents[1]), "PYTHONIOENCODING": "utf-8:strict"},
        check=True,
    )
    assert rb"\udcff\x1b[2J\n.json is not a card" in run.stdout
    assert b"\x1b" not in run.stdout
    for args in (["weights", "show", "\x1b[2J"], ["weights", "show", "/\udcff"]):
        run = CliRunner().invoke(main, args)
        assert run.exit_code == 2
        assert "\x1b" not in run.output


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def test_whatever_stands_in_a_card_it_is_read_or_refused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards")
    path = put(folder).file.with_suffix(".json")
    said = json.loads(path.read_text())

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from([*said, "path", "extra"]), json_values)
    def check(key, value):
        path.write_text(json.dumps(said | {key: value}))
        try:
            card = Card.read(path)
        except xsen2.WeightsError as error:
            assert "mine-20m.json is not a card of weights" in str(error)  # noqa: PT017
        else:
            assert hash(card.network)
            assert key in said
            assert resolve(path, B if card.ratio == 2 else C)

    check()


def test_writing_refuses_what_it_would_destroy(tmp_path):
    card = put(tmp_path)
    assert put(tmp_path) == card
    with pytest.raises(xsen2.WeightsError, match="holds other weights named mine-20m: remove them"):
        put(tmp_path, seed=1)
    edit(card, halo="x")
    with pytest.raises(xsen2.WeightsError, match="holds other weights"):
        put(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine-20m.json", "mine-20m.safetensors"]
    with pytest.raises(xsen2.StoreError, match=r"cannot be written .*File exists"):
        put(card.file)
