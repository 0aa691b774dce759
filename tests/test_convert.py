"""Keras weights of DSen2: read from generated files, against a forward pass in numpy that is written from the paper."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from cases import every
from click.testing import CliRunner
from cubes import make_cube
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import xsen2
from xsen2.bands import A, B, C
from xsen2.cli.main import main
from xsen2.networks import inference
from xsen2.networks.cards import Card, cards
from xsen2.networks.convert import SCORE, STORAGE, convert, read_keras
from xsen2.networks.dsen2 import DSen2

CANONICAL_TO_FED = [2, 1, 0, 3]  # B02, B03, B04, B08 -> B04, B03, B02, B08
MADE = {2: (10, 6), 6: (12, 2)}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A user's folder of weights, empty at first."""
    folder = tmp_path / "home"
    monkeypatch.setenv("XSEN2_WEIGHTS", str(folder))
    return folder


@dataclass
class Model:
    """A DSen2 in Keras's conventions: kernels HWIO, bands as the released code feeds them."""

    ratio: int
    blocks: int = 1
    features: int = 4
    seed: int = 0
    gain: float = 1.0  # of the last convolution
    convs: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        bands, made = MADE[self.ratio]
        f = self.features
        for i, o in [(bands, f), *[(f, f)] * (2 * self.blocks), (f, made)]:
            kernel = rng.normal(0, np.sqrt(2 / (9 * i)), (3, 3, i, o))
            self.convs.append((kernel.astype(np.float32), rng.normal(0, 0.05, o).astype(np.float32)))
        self.convs[-1] = (self.convs[-1][0] * np.float32(self.gain), self.convs[-1][1])

    def save(self, path: Path, *, full=False, backend="tensorflow", first=7, as_text=False) -> Path:
        """Write the file as Keras 2 does: groups by the alphabet, the order of layers in an attribute."""

        def names(values):
            return list(values) if as_text else np.array([v.encode() for v in values], "S") if values else []

        # From `first` = 7 on, conv2d_10 comes before conv2d_9 in the alphabet.
        layers = ["input_1", "input_2", "concatenate_1"]
        weights = {}
        for i, conv in enumerate(self.convs):
            name = f"conv2d_{first + i}"
            layers += [name, f"activation_{i}" if i % 2 else f"lambda_{i}"]
            weights[name] = conv
        layers.append("add_99")
        with h5py.File(path, "w") as root:
            top = root.create_group("model_weights") if full else root
            for group in {root, top}:
                group.attrs["backend"] = backend if as_text else np.bytes_(backend)
                group.attrs["keras_version"] = np.bytes_("2.1.5")
            top.attrs["layer_names"] = names(layers)
            for layer in sorted(layers):
                group = top.create_group(layer)
                group.attrs["weight_names"] = names(
                    [f"{layer}/kernel:0", f"{layer}/bias:0"] if layer in weights else []
                )
                for key, values in zip(("kernel:0", "bias:0"), weights.get(layer, ()), strict=False):
                    group.create_dataset(f"{layer}/{key}", data=values)
            if full:
                root.attrs["model_config"] = np.bytes_('{"class_name": "Model"}')
                root.create_dataset("optimizer_weights/training/Nadam/iterations:0", data=12)
        return path

    def __call__(self, a, b, c, *, turned=False):
        """What Keras would give for canonical bands, in float64; DN / 2000, ``(band, H, W)``."""
        low = [bilinear(b, 2)] + ([bilinear(c, 6)] if self.ratio == 6 else [])
        head, *body, tail = self.convs
        x = np.maximum(conv2d(np.concatenate([a[CANONICAL_TO_FED], *low]), *head, turned), 0)
        for first, second in zip(body[::2], body[1::2], strict=True):
            x = x + 0.1 * conv2d(np.maximum(conv2d(x, *first, turned), 0), *second, turned)
        return conv2d(x, *tail, turned) + low[-1]


def conv2d(x, kernel, bias, turned=False):
    """Keras's Conv2D, padding "same": a correlation; `turned`, a convolution proper."""
    kernel = kernel.astype(np.float64)
    if turned:
        kernel = np.rot90(kernel, 2)
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    height, width = x.shape[1:]
    out = np.zeros((kernel.shape[3], height, width))
    for i in range(3):
        for j in range(3):
            out += np.tensordot(kernel[i, j], padded[:, i : i + height, j : j + width], ([0], [0]))
    return out + bias[:, None, None]


def bilinear(x, ratio):
    for axis in (1, 2):
        n = x.shape[axis]
        at = np.clip((np.arange(n * ratio) + 0.5) / ratio - 0.5, 0, n - 1)
        low = np.minimum(at.astype(int), max(n - 2, 0))
        share = (at - low).reshape((-1, 1) if axis == 1 else (-1,))
        x = np.take(x, low, axis) * (1 - share) + np.take(x, np.minimum(low + 1, n - 1), axis) * share
    return x


def pixels(side=18, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.uniform(0, 1.5, (n, side // f, side // f)) for n, f in ((4, 1), (6, 2), (2, 6))]


def forward(card: Card, arrays):
    network = inference.load(card, torch.device("cpu"), torch.float32)
    inputs = [torch.from_numpy(x)[None].float() for x in arrays[: 2 if card.ratio == 2 else 3]]
    with torch.inference_mode():
        return network(*inputs)[0].numpy()


@pytest.mark.parametrize(
    ("blocks", "features", "ratio", "full"),
    every(7, [(*size, ratio, full) for size in ((6, 128), (32, 6)) for ratio in (2, 6) for full in (False, True)]),
)
def test_the_network_is_that_of_keras(tmp_path, home, ratio, blocks, features, full):
    model = Model(ratio, blocks, features, gain=0.02)
    card = convert(model.save(tmp_path / "any.name", full=full))
    assert card.arguments == {"ratio": ratio, "blocks": blocks, "features": features}
    assert card.ratio == ratio
    want = model(*pixels())
    assert card.validation[STORAGE]["stored as"] == "float16"
    np.testing.assert_allclose(forward(card, pixels()) * 2000, want * 2000, rtol=0, atol=0.6)
    tensors, said = read_keras(tmp_path / "any.name")
    exact = DSen2(ratio, blocks, features)
    exact.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()})
    inputs = [torch.from_numpy(x)[None] for x in pixels()[: 2 if ratio == 2 else 3]]
    with torch.inference_mode():
        np.testing.assert_allclose(exact.double()(*inputs)[0], want, rtol=0, atol=2e-6)  # the sum is in float32
    assert said["keras_version"] == "2.1.5"
    assert card.file == home / f"{card.name}.safetensors"
    official = blocks == 6
    assert card.network == ("dsen2-official" if official else "dsen2-32x6-keras")
    assert card.licence.startswith("GPL-3.0" if official else "unknown")
    assert card.halo * ratio >= exact.radius + ratio - 1


def test_the_order_of_bands_matters(tmp_path):
    """Guards the test above: with the bands in canonical order its forward pass is another one."""
    model = Model(2)
    a, b, c = pixels()
    assert np.abs(model(a, b, c) - model(a[CANONICAL_TO_FED], b, c)).max() * 2000 > 50


@pytest.mark.parametrize("ratio", [2, 6])
def test_vdsen2_is_told_by_its_shapes(tmp_path, ratio):
    """The full 32 x 256, from a file whose arrays were never written: all zeros, a few kB."""
    model = Model(ratio, blocks=0)
    bands, made = MADE[ratio]
    shapes = [(bands, 256), *[(256, 256)] * 64, (256, made)]
    model.convs = [(np.zeros((3, 3, 0, 0)), np.zeros(0))] * len(shapes)
    path = model.save(tmp_path / "v.hdf5")
    with h5py.File(path, "a") as file:
        for i, shape in enumerate(shapes, 7):
            group = file[f"conv2d_{i}/conv2d_{i}"]
            del group["kernel:0"], group["bias:0"]
            group.create_dataset("kernel:0", (3, 3, *shape), "f4", chunks=(3, 3, *shape))
            group.create_dataset("bias:0", shape[1:], "f4")
    tensors, _ = read_keras(path)
    with torch.device("meta"):
        network = DSen2(ratio, blocks=32, features=256)
    assert {k: v.shape for k, v in tensors.items()} == {k: tuple(v.shape) for k, v in network.state_dict().items()}


def test_shipped_weights_come_back(tmp_path):
    """A trained network, written as Keras would, is the same network again, and known to be a good one."""
    (shipped,) = (c for c in cards()["dsen2"] if c.ratio == 2)
    own = load_file(shipped.file)
    model = Model(2, **{k: v for k, v in {"blocks": 6, **shipped.arguments}.items() if k != "ratio"})
    names = ["head", *(f"body.{i}.conv{j}" for i in range(model.blocks) for j in (1, 2)), "tail"]
    model.convs = [
        (own[f"{n}.weight"].transpose(2, 3, 1, 0).astype("f4"), own[f"{n}.bias"].astype("f4")) for n in names
    ]
    canonical = convert(model.save(tmp_path / "canonical.h5"), tmp_path / "canonical")
    kernel, bias = model.convs[0]
    model.convs[0] = kernel[:, :, [*CANONICAL_TO_FED, *range(4, 10)]], bias
    card = convert(model.save(tmp_path / "fed.h5"), tmp_path / "fed")
    back = load_file(card.file)
    assert back.keys() == own.keys()
    assert all(np.array_equal(back[k], own[k]) for k in own)
    assert card.validation[STORAGE] == {"largest difference, DN": 0.0, "stored as": "float16"}
    assert card.validation[SCORE]["mean ratio"] < 0.6
    assert canonical.validation[SCORE]["mean ratio"] > card.validation[SCORE]["mean ratio"]
    ds = make_cube(5, 5)
    new, old = (
        ds.dsen2.superresolve(list(B), method=m, native=False, dtype="float32")
        for m in (str(tmp_path / "fed"), "dsen2")
    )
    np.testing.assert_array_equal(new["B11"].values, old["B11"].values)
    assert new.attrs["xsen2_method"].startswith("dsen2-official-20m (")


def test_theano_turned_its_kernels(tmp_path):
    model = Model(2, gain=0.1)
    card = convert(model.save(tmp_path / "t.h5", backend="theano"))
    want = model(*pixels(), turned=True)
    np.testing.assert_allclose(forward(card, pixels()) * 2000, want * 2000, rtol=0, atol=0.6)
    assert np.abs(want - model(*pixels())).max() * 2000 > 5


def test_text_of_newer_h5py(tmp_path):
    model = Model(6)
    first, second = (read_keras(model.save(tmp_path / f"{t}.h5", as_text=t, full=t))[0] for t in (False, True))
    assert all(np.array_equal(first[k], second[k]) for k in first)


def test_half_precision_only_where_it_is_enough(tmp_path):
    kept = convert(Model(2, gain=0.02).save(tmp_path / "a.h5"), tmp_path / "a")
    assert kept.validation[STORAGE]["stored as"] == "float16"
    assert 0 < kept.validation[STORAGE]["largest difference, DN"] <= 0.5
    rough = Model(2, gain=20.0)
    card = convert(rough.save(tmp_path / "b.h5"), tmp_path / "b")
    assert card.validation[STORAGE]["stored as"] == "float32"
    assert card.validation[STORAGE]["largest difference, DN"] > 0.5
    want = rough(*pixels())
    np.testing.assert_allclose(forward(card, pixels()), want, rtol=1e-4, atol=1e-4)
    large = Model(2, gain=0.0)
    large.convs[1][0][0, 0, 0, 0] = 1e5  # more than half precision holds
    card = convert(large.save(tmp_path / "c.h5"), tmp_path / "c")
    assert card.validation[STORAGE] == {"largest difference, DN": "overflow", "stored as": "float32"}
    assert np.isfinite(forward(card, pixels())).all()


def spoil(path: Path, change) -> Path:
    with h5py.File(path, "a") as file:
        change(file)
    return path


def drop_layer(file):
    file.attrs["layer_names"] = [n for n in file.attrs["layer_names"] if n != b"conv2d_8"]


def reshape(layer, shape):
    def change(file):
        del file[f"{layer}/{layer}/kernel:0"]
        file.create_dataset(f"{layer}/{layer}/kernel:0", data=np.ones(shape, np.float32))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_layer, "it has 3 convolutions"),
        (lambda f: f.attrs.pop("layer_names"), "names no layers"),
        (lambda f: f.pop("conv2d_9"), r"damaged: .*conv2d_9"),
        (lambda f: f["conv2d_9"].attrs.pop("weight_names"), "damaged: .*weight_names"),
        (lambda f: f["conv2d_9"].attrs.__setitem__("weight_names", 3), "damaged"),
        (lambda f: f["conv2d_9"].attrs.__setitem__("weight_names", [b"conv2d_9/bias:0"]), "has shape"),
        (reshape("conv2d_7", (3, 3, 9, 4)), "makes 6 bands of 9, neither"),
        (reshape("conv2d_10", (3, 3, 5, 6)), "convolution 4 makes 6 features of 5, not 6 of 4"),
        (reshape("conv2d_8", (3, 3, 5, 4)), "convolution 2 makes 4 features of 5, not 4 of 4"),
        (reshape("conv2d_8", (5, 5, 4, 4)), r"conv2d_8/kernel:0 has shape \(5, 5, 4, 4\)"),
        (reshape("conv2d_8", (4, 4, 3, 3)), r"has shape \(4, 4, 3, 3\)"),
        (lambda f: f["conv2d_8/conv2d_8/kernel:0"].write_direct(np.full((3, 3, 4, 4), np.nan, "f4")), "not finite"),
        (lambda f: f["conv2d_8/conv2d_8/kernel:0"].write_direct(np.full((3, 3, 4, 4), 3e38, "f4")), "are not finite"),
        (lambda f: f.attrs.__setitem__("layer_names", ["conv2d_7"] * 3), "it has 3 convolutions"),
        (lambda f: f.attrs.__setitem__("layer_names", []), "it has 0 convolutions"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, home, change, message):
    path = spoil(Model(2).save(tmp_path / "x.hdf5"), change)
    with np.errstate(all="ignore"), pytest.raises(xsen2.WeightsError, match=message):
        convert(path)
    assert not home.exists(), "something was written"


SECRET = np.arange(9 * 4 * 4, dtype="f4").tobytes()


def replaced(make):
    """Put something else in the place of a kernel ``(3, 3, 4, 4)``."""

    def change(file):
        group = file["conv2d_8/conv2d_8"]
        del group["kernel:0"]
        make(file, group)

    return change


def external(file, group):
    secret = Path(file.filename).with_name("secret")
    secret.write_bytes(SECRET)
    group.create_dataset("kernel:0", (3, 3, 4, 4), "f4", external=[(str(secret), 0, len(SECRET))])


def virtual(file, group):
    other = Path(file.filename).with_name("other.h5")
    with h5py.File(other, "w") as there:
        there["secret"] = np.frombuffer(SECRET, "f4").reshape(3, 3, 4, 4)
    layout = h5py.VirtualLayout((3, 3, 4, 4), "f4")
    layout[:] = h5py.VirtualSource(str(other), "secret", (3, 3, 4, 4))
    group.create_virtual_dataset("kernel:0", layout)


def link_away(file, group):
    virtual(file, group)
    del group["kernel:0"]
    group["kernel:0"] = h5py.ExternalLink(str(Path(file.filename).with_name("other.h5")), "/secret")


def soft(file, group):
    group["kernel:0"] = h5py.SoftLink("/conv2d_9/conv2d_9/kernel:0")


def soft_group(file):
    file.move("conv2d_8", "elsewhere")
    file["conv2d_8"] = h5py.SoftLink("/elsewhere")


def away_model(file):
    file["model_weights"] = h5py.ExternalLink("other.h5", "/")
    del file.attrs["layer_names"]


def references(file, group):
    group.create_dataset("kernel:0", (3, 3, 4, 4), h5py.ref_dtype)


def ragged(file, group):
    group.create_dataset("kernel:0", (3, 3, 4, 4), h5py.vlen_dtype(np.float32))


def packed(number):
    """As with a filter of a plugin; the chunk itself is never written, so that no plugin is needed here."""

    def make(file, group):
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((3, 3, 4, 4))
        plan.set_filter(number, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((3, 3, 4, 4))
        h5py.h5d.create(group.id, b"kernel:0", h5py.h5t.IEEE_F32LE, space, plan)

    return make


def declared(shape, chunks=None, dtype="f4", **kwargs):
    def make(file, group):
        group.create_dataset("kernel:0", shape, dtype, chunks=chunks, **kwargs)

    return make


def entries(number):
    def change(file):
        file.attrs.pop("layer_names")
        file.attrs.create("layer_names", np.zeros(number, "S8"))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced(external), "kernel:0 has its numbers in another file"),
        (replaced(virtual), "kernel:0 is put together from other files"),
        (replaced(link_away), "kernel:0 is a link into another file"),
        (replaced(soft), "kernel:0 is a soft link"),
        (soft_group, "conv2d_8 is a soft link"),
        (away_model, "model_weights is a link into another file"),
        (replaced(references), "holds object, not floating point numbers"),
        (replaced(ragged), "holds object, not floating point numbers"),
        (replaced(packed(32004)), "is packed with the filter 32004 of a plugin"),
        (replaced(packed(307)), "is packed with the filter 307 of a plugin"),
        (replaced(declared((3, 3, 10**6, 10**6), (3, 3, 100, 100))), "is more than a network has"),
        (replaced(declared((3, 3, 10**6, 10**6))), "is more than a network has"),
        (
            replaced(declared((3, 3, 4, 4), (3, 3, 10**4, 10**4), maxshape=(None,) * 4, compression="gzip")),
            "is more than a network has",
        ),
        (replaced(lambda file, group: group.create_dataset("kernel:0", data=h5py.Empty("f4"))), "holds nothing"),
        (replaced(lambda file, group: group.create_group("kernel:0")), "is not an array"),
        (
            replaced(lambda file, group: group.create_dataset("kernel:0", data=np.ones((3, 3, 4, 4), "i4"))),
            "holds int32",
        ),
        (
            replaced(lambda file, group: group.create_dataset("kernel:0", data=np.ones((3, 3, 4, 4), "c8"))),
            "holds complex",
        ),
        (entries(5000), "its attribute layer_names has 5000 entries"),
        (lambda f: f.attrs.__setitem__("layer_names", [f["conv2d_8"].ref]), "layer_names is not text"),
    ],
)
def test_what_keras_never_writes_is_refused_unread(tmp_path, home, change, message):
    path = spoil(Model(2).save(tmp_path / "x.hdf5"), change)
    with pytest.raises(xsen2.WeightsError, match=message):
        convert(path)
    assert not home.exists(), "something was written"


def test_what_h5py_packs_by_itself_is_read(tmp_path):
    model = Model(2)
    plain, _ = read_keras(model.save(tmp_path / "plain.h5"))
    for options in ({"compression": "gzip", "shuffle": True}, {"compression": "lzf"}, {"fletcher32": True}):

        def pack(file, options=options):
            for key in ("kernel:0", "bias:0"):
                values = file[f"conv2d_8/conv2d_8/{key}"][:]
                del file[f"conv2d_8/conv2d_8/{key}"]
                file.create_dataset(f"conv2d_8/conv2d_8/{key}", data=values, chunks=values.shape, **options)

        packed_, _ = read_keras(spoil(model.save(tmp_path / "packed.h5"), pack))
        assert all(np.array_equal(packed_[k], plain[k]) for k in plain)


def test_no_plugin_is_looked_for(tmp_path, monkeypatch):
    """Also a group can say that it is packed; what is found in the folders of plugins is run."""
    folders = [h5py.h5pl.get(i) for i in range(h5py.h5pl.size())]
    seen = []
    real = sys.modules["xsen2.networks.convert"]._check
    monkeypatch.setattr("xsen2.networks.convert._check", lambda *args: (seen.append(h5py.h5pl.size()), real(*args)))
    read_keras(Model(2).save(tmp_path / "x.h5"))
    assert seen == [0]
    assert [h5py.h5pl.get(i) for i in range(h5py.h5pl.size())] == folders


def test_a_pipe_and_a_giant_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(xsen2.WeightsError, match="not a regular file"):
        convert(tmp_path / "pipe.h5")
    with (tmp_path / "giant.h5").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(xsen2.WeightsError, match="1099511627776 bytes"):
        convert(tmp_path / "giant.h5")


def test_other_files_are_refused(tmp_path):
    good = Model(2).save(tmp_path / "good.hdf5").read_bytes()
    cases = {"text": b"hello", "empty": b"", "cut": good[: len(good) // 2], "short": good[:-1]}
    for name, raw in cases.items():
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(xsen2.WeightsError, match=f"{name} is not HDF5 that Keras saved, or is damaged"):
            convert(tmp_path / name)
    for path in (tmp_path / "none.h5", tmp_path):
        with pytest.raises(xsen2.WeightsError, match="cannot be read"):
            convert(path)


def test_damage_never_comes_out_as_another_error(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    model = Model(2, features=2)
    good = model.save(folder / "good.h5").read_bytes()
    whole, _ = read_keras(folder / "good.h5")

    @settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255)), min_size=1, max_size=8))
    def check(changes):
        raw = bytearray(good)
        for at, value in changes:
            raw[at] = value
        (folder / "bad.h5").write_bytes(raw)
        try:
            tensors, _ = read_keras(folder / "bad.h5")
        except xsen2.WeightsError:
            return
        assert {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in whole.items()}

    check()


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    path = Model(2).save(tmp_path / "x.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'xsen2\[keras\]'"):
        convert(path)


def test_nothing_is_overwritten(tmp_path):
    one, other = (Model(2, seed=s, gain=0.02).save(tmp_path / f"{s}.h5") for s in (0, 1))
    card = convert(one, tmp_path / "out")
    assert convert(one, tmp_path / "out") == card
    with pytest.raises(xsen2.WeightsError, match="holds other weights named dsen2-1x4-keras-20m"):
        convert(other, tmp_path / "out")
    assert Card.read(card.file.with_suffix(".json")) == card
    card.file.with_suffix(".json").unlink()
    with pytest.raises(xsen2.WeightsError, match="holds other weights"):
        convert(other, tmp_path / "out")
    assert convert(one, tmp_path / "out") == card  # as if it had been killed between the two files
    card.file.write_bytes(b"damaged")
    convert(one, tmp_path / "out")
    forward(card, pixels())
    (tmp_path / "file").write_text("")
    with pytest.raises(xsen2.StoreError, match=r"file cannot be written .*File exists"):
        convert(one, tmp_path / "file")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"{card.name}.json", f"{card.name}.safetensors"]


def test_the_command_shows_the_licence(tmp_path, home):
    path = Model(6, 6, 128, gain=0.02).save(tmp_path / "s2.hdf5")
    run = CliRunner().invoke(main, ["weights", "convert", str(path)])
    assert run.exit_code == 0, run.output
    assert "Licence: GPL-3.0" in run.output
    assert "method='dsen2-official' makes the 60 m bands" in run.stdout
    assert "Warning: that is no better than bicubic" in run.stderr  # random weights
    assert "GPL-3.0" in xsen2.methods().loc["dsen2-official", "licence"]
    for command in (["methods"], ["weights", "list"], ["weights", "show", "dsen2-official-60m"]):
        assert "GPL-3.0" in CliRunner().invoke(main, command).stdout
    sr = make_cube(3, 3).dsen2.superresolve(["B01"], "dsen2-official")
    assert "dsen2-official-60m" in sr.attrs["xsen2_method"]
    with pytest.raises(xsen2.BandError, match=r"does not make B05 \(20 m\)"):
        make_cube(3, 3).dsen2.superresolve(["B05"], "dsen2-official")
    run = CliRunner().invoke(main, ["weights", "convert", str(tmp_path / "none")])
    assert (run.exit_code, run.stdout) == (2, "")
    assert "cannot be read" in run.stderr


def test_the_lazy_road_gives_the_numbers_of_keras(tmp_path):
    """Through the public call: DN in, DN out, away from the edges of the scene."""
    for ratio, bands in ((2, B), (6, C)):
        model = Model(ratio, blocks=2, gain=0.02)
        card = convert(model.save(tmp_path / f"{ratio}.h5"), tmp_path / "w")
        ds = make_cube(8, 8)
        sr = ds.chunk(y=30, x=24).dsen2.superresolve(list(bands), tmp_path / "w", dtype="float32", device="cpu")
        want = model(*(np.stack([ds[b].values for b in names]) / 2000 for names in (A, B, C))) * 2000
        h = card.halo * ratio
        for i, band in enumerate(bands):
            np.testing.assert_allclose(sr[band].values[h:-h, h:-h], want[i, h:-h, h:-h], rtol=0, atol=0.6)
