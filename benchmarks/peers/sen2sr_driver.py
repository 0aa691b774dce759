"""SEN2SR's task at 20 -> 10 m, as its README runs large images. Started by `benchmarks/sen2sr_peer.py`.

The network is that of SEN2SRLite's `Reference_RSWIR_x2`, a CNN of 6 blocks of 24 features, with random weights, since
these change no time; so is the low-pass mask of its last step, an ideal one here. All else is the package's own:
resampling, the network, the constraint in Fourier space, and `predict_large` with patches of 128 pixels that overlap
by 32. Its input has all bands at 10 m already; 20 m pixels are repeated before the clock starts.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import sen2sr
import torch
from sen2sr.models.opensr_baseline.cnn import CNNSR
from sen2sr.models.tricks import HardConstraint, ideal_filter
from sen2sr.referencex2 import srmodel

THREADS = 2
PATCH, OVERLAP = 128, 32
ORDER = [0, 1, 2, 4, 5, 6, 3, 7, 8, 9]  # B02 B03 B04 B05 B06 B07 B08 B8A B11 B12, from the 10 m and then the 20 m bands
MADE = [3, 4, 5, 7, 8, 9]


def network() -> torch.nn.Module:
    """With the arguments that come with the published weights; frozen, as their loader leaves it."""
    torch.manual_seed(0)
    cnn = CNNSR(
        in_channels=10, out_channels=6, feature_channels=24, upscale=1, bias=True, train_mode=False, num_blocks=6
    )
    mask = ideal_filter((PATCH, PATCH), PATCH // 4)
    model = srmodel(cnn.eval(), HardConstraint(low_pass_mask=mask, bands=[0, 1, 2, 3, 4, 5]))
    return model.eval().requires_grad_(False)


def main(folder: Path) -> None:
    """Warm up, then a run for every line."""
    torch.set_num_threads(THREADS)
    with np.load(folder / "pixels.npz") as stored:
        a, b = stored["a"], stored["b"].repeat(2, axis=1).repeat(2, axis=2)
    image = torch.from_numpy(np.concatenate([a, b])[ORDER] / np.float32(10000))
    model = network()
    sen2sr.predict_large(X=image[:, : 2 * PATCH, : 2 * PATCH], model=model, overlap=OVERLAP)
    weights = sum(m.eval_conv.weight.numel() for m in model.modules() if hasattr(m, "eval_conv"))
    about = {"sen2sr": sen2sr.__version__, "torch": torch.__version__, "weights at work": weights}
    print("RESULT", json.dumps(about), flush=True)
    for turn, _ in enumerate(sys.stdin):
        start = time.perf_counter()
        out = sen2sr.predict_large(X=image, model=model, overlap=OVERLAP)[MADE].numpy() * np.float32(10000)
        answer = {"seconds": time.perf_counter() - start}
        if turn == 0:
            np.save(folder / "out.npy", out)
        print("RESULT", json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
