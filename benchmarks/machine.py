"""What the machine is, and how the benchmarks write what they found: python benchmarks/machine.py prints the former."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from xsen2.networks.inference import best_device, best_dtype

RESULTS = Path(__file__).parent / "results"


def describe() -> dict[str, Any]:
    """What numbers depend on; `load` tells whether the machine did anything else."""
    device = best_device()
    machine = {
        "processor": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "AMX": bool(torch.cpu._is_amx_tile_supported()),
        "memory, GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "dtype": str(best_dtype(device)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()}, Python {platform.python_version()}",
        **{name: version(name) for name in ("torch", "dask", "numpy", "zarr")},
        "load": round(os.getloadavg()[0], 1),
    }
    return machine


def sentence(machine: dict[str, Any]) -> str:
    """The same in one line."""
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['vectors']}, "
        f"{'with' if machine['AMX'] else 'without'} AMX, {machine['memory, GiB']} GiB, {machine['device']} in "
        f"{machine['dtype']}, torch {machine['torch']}; load when it began {machine['load']}"
    )


def command() -> str:
    """What was run, as one would type it."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def peak_memory() -> float:
    """MiB that this process held at most: VmHWM, as ru_maxrss starts at what the parent held."""
    return round(int((_field("/proc/self/status", "VmHWM") or "0").split()[0]) / 1024)


def write(name: str, results: dict[str, Any], markdown: str, folder: Path = RESULTS) -> None:
    """Both files, each whole or not at all; the Markdown is printed as well."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in (("json", json.dumps(results, indent=1, ensure_ascii=False)), ("md", markdown)):
        scratch = folder / f"{name}.{suffix}.tmp"
        scratch.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        scratch.replace(folder / f"{name}.{suffix}")
    print(markdown)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (columns, ["---"] * len(columns), *rows))


def head(title: str, results: dict[str, Any]) -> str:
    """Title, command and machine."""
    return f"# {title}\n\n`{results['command']}`\n\nMachine: {sentence(results['machine'])}.\n"


def _field(file: str, name: str) -> str | None:
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), None)


if __name__ == "__main__":
    print(json.dumps(describe(), indent=1))
