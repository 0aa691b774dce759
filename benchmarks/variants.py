"""Every network tried for the 20 m bands, what it scored and what it costs: python benchmarks/variants.py.

Measures all networks in one run, each in float32 and bfloat16, in turn, and writes the table anew.
`--train NAME ... --minutes M` instead trains networks of the library again, for so long, from nothing; that replaces
their rows. Rows with another loss, optimiser or network stay as they were tried: the library offers none of
these, and so cannot make them again.

`benchmarks/results/variants.json` holds the rows, `variants.md` is made from it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from xsen2.networks.dsen2 import DSen2
from xsen2.networks.inference import best_device, best_dtype
from xsen2.networks.network import PATCH
from xsen2.networks.twogrid import TwoGrid, upsample
from xsen2.training.fit import Run, build, fit, score
from xsen2.training.run import NETWORKS as ARCHITECTURES
from xsen2.training.run import data_for, recipe_for
from xsen2.training.scenes import read_scenes

RESULTS = Path(__file__).parent / "results"
THREADS = 2
TILE = 10980**2  # pixels of 10 m
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CONTROL = "dsen2-6x128"
TRIAL_STEPS = 30  # that tell how many fit into the time


class GatedBlock(nn.Module):
    """A residual block whose nonlinearity is the product of its two halves, as in NAFNet (Chen et al. 2022)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features // 2, features, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of one grid in, the same out."""
        value, gate = self.conv1(x).chunk(2, dim=1)
        return x + self.conv2(value * gate)


class PlainStem(TwoGrid):
    """TwoGrid as it was tried first: the stem reads all bands at 10 m, interpolated, instead of the detail of four."""

    def __init__(self, ratio: int, blocks: int, *, gated_body: bool = False, gated_tail: bool = False) -> None:
        super().__init__(ratio, blocks=blocks)
        thin, wide = self.tail.in_channels, self.enter.out_channels
        self.stem[0] = nn.Conv2d(10, thin, 3, padding=1)
        if gated_body:
            self.body = nn.Sequential(*(GatedBlock(wide) for _ in range(blocks)))
        self.gate = nn.Conv2d(2 * thin, thin, 3, padding=1) if gated_tail else None

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Super-resolve one batch, as TwoGrid does."""
        base = upsample(b, 2)
        dtype, last = self.tail.weight.dtype, torch.channels_last
        x = torch.cat([a, base], dim=1).to(dtype, memory_format=last)
        for conv in self.stem:
            x = F.relu(conv(x))
        skip = x
        coarse = torch.cat([F.avg_pool2d(a, 2), b], dim=1).to(dtype)
        x = torch.cat([F.pixel_unshuffle(x, 2), coarse], dim=1).contiguous(memory_format=last)
        x = self.leave(self.body(self.enter(x)))
        x = torch.cat([skip, F.pixel_shuffle(x, 2)], dim=1).contiguous(memory_format=last)
        out = F.relu(self.join(x))
        if self.gate is not None:
            out = out * self.gate(x)
        return base + self.tail(out).float()


class Folded(DSen2):
    """DSen2 with all of it on the 20 m grid: the 10 m bands are folded at the start, the result unfolded at the end."""

    def __init__(self, ratio: int, blocks: int, features: int) -> None:
        super().__init__(ratio, blocks, features)
        self.head = nn.Conv2d(4 * 4 + 6, features, 3, padding=1)
        self.tail = nn.Conv2d(features, 4 * 6, 3, padding=1)

    @property
    def radius(self) -> int:
        """Receptive field of the convolutions, in 10 m pixels on either side."""
        return 2 * super().radius

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Super-resolve one batch, as DSen2 does."""
        x = torch.cat([F.pixel_unshuffle(a, 2), b], dim=1)
        x = x.to(self.head.weight.dtype, memory_format=torch.channels_last)
        return upsample(b, 2) + F.pixel_shuffle(self.tail(self.body(F.relu(self.head(x)))), 2).float()


@dataclass(frozen=True)
class Network:
    """What is measured: words for the table, and how to make it."""

    what: str
    kind: str | Callable[..., nn.Module]  # a string is one of `xsen2.training.run`, and can be trained
    arguments: Mapping[str, Any]

    def make(self) -> nn.Module:
        """A fresh one, with the same random weights every time."""
        torch.manual_seed(0)
        if isinstance(self.kind, str):
            return build(ARCHITECTURES[self.kind][0], 2, self.arguments)
        return self.kind(2, **self.arguments)


NETWORKS = {
    CONTROL: Network("the paper's, all on the 10 m grid", "dsen2", {"blocks": 6, "features": 128}),
    "dsen2-6x64": Network("the same with 64 features", "dsen2", {"blocks": 6, "features": 64}),
    "folded-6x128": Network("the same with 128, all of it folded to 20 m", Folded, {"blocks": 6, "features": 128}),
    "plainstem-5x128": Network(
        "a thin path of 32 features at 10 m round a body of 5 x 128 at 20 m; its stem reads all bands at 10 m",
        PlainStem,
        {"blocks": 5},
    ),
    "gatedbody-5x128": Network(
        "the same, blocks multiply their halves instead of ReLU", PlainStem, {"blocks": 5, "gated_body": True}
    ),
    "gatedtail-5x128": Network(
        "the same with ReLU, the join at 10 m times a convolution", PlainStem, {"blocks": 5, "gated_tail": True}
    ),
    "highpass-5x128": Network(
        "TwoGrid: the stem reads only what the 10 m bands have over their 20 m means",
        "twogrid",
        {"thin": 32, "wide": 128, "blocks": 5},
    ),
    "highpass-8x96": Network("TwoGrid, deeper and narrower", "twogrid", {"thin": 32, "wide": 96, "blocks": 8}),
    "highpass-4x128": Network("TwoGrid, as shipped", "twogrid", {"thin": 32, "wide": 128, "blocks": 4}),
    "guided-4x128": Network(
        "the same, starting from a local regression on the 10 m bands, as for the 60 m bands",
        "twogrid",
        {"thin": 32, "wide": 128, "blocks": 4, "guide": True},
    ),
}


def inputs(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One patch of noise in DN / 2000, `side` pixels of 10 m wide."""
    rng = torch.Generator().manual_seed(0)
    return torch.rand(1, 4, side, side, generator=rng), torch.rand(1, 6, side // 2, side // 2, generator=rng)


def cost(name: str) -> dict[str, Any]:
    """Weights that make the estimates, and FLOP per 10 m pixel (a multiplication and an addition are two)."""
    network = NETWORKS[name].make().eval()
    side = 24
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        out = network(*inputs(side))
    if out.shape != (1, 6, side, side) or out.dtype != torch.float32:
        raise SystemExit(f"{name} makes {out.dtype} of shape {tuple(out.shape)} from a patch of {side} pixels")
    # The branch that says how sure a network is was not there when trials were made, and is not run here.
    weights = sum(p.numel() for key, p in network.named_parameters() if not key.startswith("uncertainty_head."))
    return {
        "what": NETWORKS[name].what,
        "weights": weights,
        "flop_per_pixel": round(counter.get_total_flops() / side**2),
    }


def margin(network: nn.Module) -> int:
    """Context on each side of a patch, in 10 m pixels, whole 20 m pixels."""
    radius = network.radius + (2 if isinstance(network, DSen2) else 0)  # whose radius leaves interpolation out
    return -(-radius // 2) * 2


def measure(patch: int, repeat: int) -> dict[str, Any]:
    """Seconds per patch of `patch` pixels and its halo: all networks in both dtypes, in turn, `repeat` times."""
    torch.set_num_threads(THREADS)
    ready = {}
    for name, spec in NETWORKS.items():
        network = spec.make().eval()
        for kind, dtype in DTYPES.items():
            model = deepcopy(network).to(dtype=dtype, memory_format=torch.channels_last)
            ready[name, kind] = model, inputs(patch + 2 * margin(network))
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in ready}
    with torch.inference_mode():
        for turn in range(repeat + 1):  # the first warms up
            for key, (network, arrays) in ready.items():
                start = time.perf_counter()
                network(*arrays)
                if turn:
                    seconds[key].append(time.perf_counter() - start)
            print(f"round {turn} of {repeat}", flush=True)
    results: dict[str, Any] = {}
    for (name, kind), times in seconds.items():
        rate = patch**2 / 1e6 / statistics.median(times)
        control = seconds[CONTROL, kind]
        results.setdefault(name, {})[kind] = {
            "mpx_per_s": round(rate, 4),
            "mpx_per_s_range": [round(patch**2 / 1e6 / t, 4) for t in (max(times), min(times))],
            "times_control": round(statistics.median(c / t for c, t in zip(control, times, strict=True)), 2),
            "tile_minutes": round(TILE / 1e6 / rate / 60, 2),
        }
    machine = (
        f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{'with' if torch.cpu._is_amx_tile_supported() else 'without'} AMX, {THREADS} threads, "
        f"torch {torch.__version__}"
    )
    return {"machine": machine, "patch": patch, "repeat": repeat, "networks": results}


def train(name: str, minutes: float, data: Path) -> dict[str, Any]:
    """A row: the network trained by `xsen2.training.fit` for `minutes`, scoring left out, and its score."""
    kind = NETWORKS[name].kind
    assert isinstance(kind, str)
    recipe = recipe_for(kind, 2, steps=TRIAL_STEPS, cool=1)
    recipe = replace(recipe, arguments=dict(NETWORKS[name].arguments))
    scenes, judges = (list(read_scenes(data / part)) for part in ("train", "validation"))
    pairs, judged = data_for(scenes, judges, recipe, "dsen2")
    with tempfile.TemporaryDirectory() as folder:

        def run(every: int) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
            trained = fit(pairs, [], recipe, Run(folder, every=every, device="cpu", threads=THREADS))
            return trained, [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]

        _, log = run(TRIAL_STEPS // 2)
        pace = (log[1]["seconds"] - log[0]["seconds"]) / (TRIAL_STEPS - TRIAL_STEPS // 2)
        steps = round(TRIAL_STEPS + (60 * minutes - log[1]["seconds"]) / pace)
        if steps <= TRIAL_STEPS:
            raise SystemExit(f"{name} makes a step in {pace:.1f} s: {minutes} minutes are too short, raise --minutes")
        recipe = replace(recipe, steps=steps, cool=steps)
        weights, log = run(steps)
    network = build(recipe.architecture, 2, recipe.arguments)
    network.load_state_dict(weights)
    dtype = best_dtype(best_device("cpu"))
    places = score(network, judged, dtype)
    single = [next(iter(score(network, [pair], dtype).values())) for pair in judged]
    return {
        "network": name,
        "weights": cost(name)["weights"],
        "optimiser": f"Muon {recipe.rate}",
        "loss": "L1",
        "batch": recipe.batch,
        "patch": recipe.patch,
        "threads": THREADS,
        "training": "xsen2.training.fit",
        "steps": steps,
        "seconds": round(log[-1]["seconds"]),
        "ratio": round(statistics.mean(places.values()), 4),
        "worst": round(max(single), 3),
        "places": {place: round(ratio, 4) for place, ratio in places.items()},
    }


def markdown(table: Mapping[str, Any]) -> str:
    """The table of variants, that of networks, the one given beforehand, and the notes."""
    measured = table.get("measured", {})

    def flop(name: str) -> str:
        return f"{table['networks'][name]['flop_per_pixel'] / 1e6:.3f}"

    def speed(name: str, key: str, form: str) -> list[str]:
        rates = measured.get("networks", {}).get(name)
        return [form.format(*np.atleast_1d(rates[kind][key])) if rates else "–" for kind in DTYPES]

    rows = []
    for name, row in table["trained"].items():
        spent = f"{row['steps']} x {row['batch']} in {row['seconds'] / 60:.1f} min on {row['threads']}"
        cells = [name, row["network"], f"{row['optimiser']}, {row['loss']}", spent, row["training"]]
        cells += [f"{row['ratio']:.3f}", f"{row['worst']:.3f}", flop(row["network"])]
        rows.append([*cells, *speed(row["network"], "mpx_per_s", "{:.3f}")])
    trained = {row["network"] for row in table["trained"].values()}
    rows += [
        ["–", n, *["–"] * 5, flop(n), *speed(n, "mpx_per_s", "{:.3f}")] for n in table["networks"] if n not in trained
    ]
    costs = []
    for name, entry in table["networks"].items():
        cells = [name, entry["what"], f"{entry['weights'] / 1e6:.2f} M", flop(name)]
        cells += speed(name, "times_control", "{:.2f}") + speed(name, "mpx_per_s_range", "{:.3f} to {:.3f}")
        costs.append(cells + speed(name, "tile_minutes", "{:.1f}"))
    lines = [HEAD]
    if measured:
        lines += [f"Measured: {measured['patch']} px and halo, {measured['repeat']} rounds, {measured['machine']}.", ""]
    else:
        lines += ["Throughput: not measured yet.", ""]
    lines += _table(VARIANT_COLUMNS, rows)
    lines += [ORIGIN, *_table(COST_COLUMNS, costs), "", "## What was learnt", ""]
    lines += [f"- {note}" for note in table["notes"]]
    lines += ["", "## Given beforehand", "", table["given"]["about"], ""]
    lines += _table(table["given"]["columns"], table["given"]["rows"])
    return "\n".join([*lines, "", "Contains modified Copernicus Sentinel data 2015-2020.", ""])


HEAD = f"""# Variants of a network for the 20 m bands

`python benchmarks/variants.py` measures and writes this table.
40 → 20 m, operator `dsen2`. RMSE: mean over bands, divided by that of Keys bicubic, mean over the 11 files of
validation scenes, the patches of a stack pooled. Worst patch: of all single scenes and patches.
Steps: times patches in a step, the time they took, and on how many threads.
MFLOP: per 10 m pixel, convolutions only; a multiplication and an addition are two.
Mpx/s: 10^6 pixels of 10 m per second, median of one run on {THREADS} threads in which all take turns; inference,
`channels_last`, the halo computed but not counted.
"""
VARIANT_COLUMNS = ["variant", "network", "optimiser, loss", "steps", "trained", "RMSE / bicubic", "worst patch"]
VARIANT_COLUMNS += ["MFLOP/px", "Mpx/s fp32", "Mpx/s bf16"]
ORIGIN = f"""
Rows *as tried* come from trial code: bfloat16 autocast, 64 patches of 48 px a step, rates that fall all along.
The library has neither the other losses and gates nor NAdam alone, so those rows cannot be made again; all
networks can be measured. `--train NAME` trains the `highpass` and `dsen2` ones again with `xsen2.training.fit`.

## What the networks cost

Times: throughput divided by that of {CONTROL} in the same dtype and round, median.
Tile: minutes for the six bands of 10980 x 10980 pixels at the median throughput, extrapolated.
"""
COST_COLUMNS = ["network", "what", "weights", "MFLOP/px", "times fp32", "times bf16", "Mpx/s fp32", "Mpx/s bf16"]
COST_COLUMNS += ["tile fp32, min", "tile bf16, min"]


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    return [f"| {' | '.join(map(str, row))} |" for row in (columns, ["---"] * len(columns), *rows)]


def check(table: dict[str, Any], apart: Sequence[str] = ()) -> None:
    """Fill in what networks cost; their weights must be as many as when they were trained, rows of `apart` aside."""
    table["networks"] = {name: cost(name) for name in NETWORKS}
    for name, row in table["trained"].items():
        now = table["networks"][row["network"]]["weights"]
        if row["weights"] != now and name not in apart:
            raise SystemExit(
                f"{name} was trained when {row['network']} had {row['weights']} weights, it has {now} now: train it "
                "again (--train), or define what it was in this script"
            )


def read(folder: Path) -> dict[str, Any]:
    """The table of `folder`, or the committed one if there is none yet."""
    file = folder / "variants.json"
    table: dict[str, Any] = json.loads((file if file.exists() else RESULTS / file.name).read_text(encoding="utf-8"))
    return table


def save(table: dict[str, Any], folder: Path) -> None:
    """Write both files, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in (("json", json.dumps(table, indent=1, ensure_ascii=False) + "\n"), ("md", markdown(table))):
        scratch = folder / f"variants.{suffix}.tmp"
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(folder / f"variants.{suffix}")


def main() -> None:
    """Measure all networks, or train some, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    again = [name for name, spec in NETWORKS.items() if isinstance(spec.kind, str)]
    parser.add_argument("--train", nargs="+", choices=again, metavar="NAME", help=f"train again: {', '.join(again)}")
    parser.add_argument("--minutes", type=float, default=4.0, help="of training, each")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with train/ and validation/")
    parser.add_argument("--patch", type=int, default=PATCH, help="side of what is measured, in 10 m pixels, even")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder to write the tables to")
    args = parser.parse_args()
    if args.patch < 2 or args.patch % 2 or args.repeat < 1:
        parser.error("--patch must be even and --repeat at least 1")
    names = args.train or []
    check(read(args.out), apart=names)  # before minutes are spent
    for i, name in enumerate(names):
        row = train(name, args.minutes, args.data)
        table = read(args.out)  # anew: another run may have written meanwhile
        table["trained"][name] = row
        check(table, apart=names[i + 1 :])
        save(table, args.out)
    if not names:
        measured = measure(args.patch, args.repeat)
        table = read(args.out)
        table["measured"] = measured
        check(table)
        save(table, args.out)
    print((args.out / "variants.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
