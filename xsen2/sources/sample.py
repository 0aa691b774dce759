"""The embedded cube: a small scene made by code, which runs offline and whose 10 m truth is known."""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import BANDS
from xsen2.cube import DIMS, write_crs
from xsen2.kernels import degrade_array, taps
from xsen2.sources._ground import MARGIN, PIXEL, SIDE, codes
from xsen2.sources._spectra import table

__all__ = ["sample"]

_WEST, _NORTH, _CRS = 480_000, 5_688_000, "EPSG:32631"
_TIMES = np.array(["2024-05-12T10:46:31", "2024-08-30T10:46:29"], "datetime64[ns]")
_CHUNK = 2160  # metres: 216, 108 and 36 pixels
_GROUND = 2 * PIXEL  # metres: two by two pixels of the drawing are averaged before the blur

# Reflectance x 10000 under the reference radiance with the sun at 40 degrees, and the signal-to-noise
# ratio measured in orbit there (Gascon et al. 2017).
_SNR: dict[str, tuple[float, float]] = {
    "B01": (2810, 1372), "B02": (2680, 214), "B03": (2880, 249), "B04": (2930, 230),
    "B05": (2140, 253), "B06": (2170, 220), "B07": (2370, 227), "B08": (4060, 221),
    "B8A": (2250, 161), "B09": (450, 222), "B11": (670, 159), "B12": (720, 167),
}  # fmt: skip


def sample(*, truth: bool = False) -> xr.Dataset:
    """A small synthetic scene: fields, woods, a river, a town and a coast, at two dates.

    No pixel of it was measured. A map of covers is drawn on a 2.5 m grid. Each cover is a mixture of
    two endmembers with a smooth random share, the same for all bands. Each band of this ground is then
    blurred with the band's own MTF (`xsen2.bands`), sampled on the band's own grid, and given the noise
    of the instrument. Between the dates crops ripen or sprout, the river rises and so does the tide.

    Parameters
    ----------
    truth : bool
        False: the cube, bands on their native grids. True: all twelve bands on the 10 m grid, as an
        instrument without noise would see them whose pixels are 10 m in every band, with each
        band's own MTF (at the Nyquist frequency of that 10 m grid). It is what a perfect
        super-resolution of the cube would give, so the B02 of the truth is the cube's B02 without
        noise, and the truth degraded with ``operator="mtf"`` is the cube without noise.

    Returns
    -------
    xarray.Dataset
        float32 DN (10000 x surface reflectance), complete (no NaN), dask-backed, EPSG:32631. The cube
        is 432 x 432 pixels at 10 m, 216 x 216 at 20 m, 72 x 72 at 60 m, two dates. Pixels are drawn
        when they are first computed (one to three seconds for all), then kept, and are always the
        same, up to the rounding of the machine.

    Notes
    -----
    Reflectances are rounded, typical values of the published endmembers: vegetation, soils, water and
    man-made materials of the USGS Spectral Library version 7 (Kokaly et al. 2017) and the ECOSTRESS
    library (Meerdink et al. 2019); turbid water after Knaeps et al. (2015); foam after Dierssen (2019);
    wet and dry sand after Nolet et al. (2014). No file of theirs is contained. Noise: signal-to-noise
    ratios measured in orbit (Gascon et al. 2017, Remote Sensing 9, 584).

    Examples
    --------
    >>> import xsen2
    >>> cube = xsen2.sample()
    >>> cube["B05"].dims, cube["B05"].shape
    (('time', 'y_20m', 'x_20m'), (2, 216, 216))
    >>> xsen2.sample(truth=True)["B05"].shape
    (2, 432, 432)
    """
    variables: dict[str, xr.Variable] = {}
    coords: dict[str, Any] = {"time": _TIMES}
    for name, band in BANDS.items():
        gsd = 10 if truth else band.gsd
        pixels = _Pixels(name, gsd, noisy=not truth)
        kind = "truth" if truth else "cube"
        chunk = _CHUNK // gsd
        array = da.from_array(pixels, chunks=(1, chunk, chunk), name=f"xsen2-sample-{kind}-{name}", meta=_META)
        variables[name] = xr.Variable(("time", *DIMS[gsd]), array, band.attrs)
        centres = (np.arange(SIDE // gsd) + 0.5) * gsd
        ydim, xdim = DIMS[gsd]
        coords[ydim] = (ydim, _NORTH - centres, _axis("y"))
        coords[xdim] = (xdim, _WEST + centres, _axis("x"))
    attrs = {
        "title": "xsen2 sample" + (", 10 m truth in every band" if truth else ""),
        "comment": "synthetic: drawn by code, no pixel was measured",
        "units": "DN = 10000 x reflectance",
        "offset": "none: the pixels never had one",
        "attribution": "synthetic, made by xsen2; no satellite data",
    }
    return write_crs(xr.Dataset(variables, coords, attrs), _crs())


_META = np.empty((0, 0, 0), np.float32)
_DRAWING = threading.Lock()  # so that the first blocks to be computed do not all draw the ground


class _Pixels:
    """A band as dask's `from_array` takes it; nothing is drawn before it is indexed."""

    dtype = np.dtype(np.float32)
    ndim = 3

    def __init__(self, band: str, gsd: int, noisy: bool) -> None:
        self.band, self.gsd, self.noisy = band, gsd, noisy
        self.shape = (len(_TIMES), SIDE // gsd, SIDE // gsd)

    def __getitem__(self, key: Any) -> npt.NDArray[np.float32]:
        with _DRAWING:
            block: npt.NDArray[np.float32] = _render(self.band, self.gsd, self.noisy)[key]
        return block


@cache
def _render(name: str, gsd: int, noisy: bool) -> npt.NDArray[np.float32]:
    """Both dates of a band as an instrument with pixels of `gsd` metres sees the ground."""
    number, band, ratio = list(BANDS).index(name), BANDS[name], round(gsd / _GROUND)
    drawn = np.stack([table(number, date)[code] for date, code in enumerate(codes())])
    drawn = drawn[:, ::2] + drawn[:, 1::2]
    ground = (drawn[:, :, ::2] + drawn[:, :, 1::2]) * np.float32(0.25)
    # The pixels of the ground are boxes already (variance 1/12), which leaves less to blur.
    sigma = np.sqrt((band.psf_sigma * ratio) ** 2 - 1 / 12)
    blur = float(sigma / (band.psf_sigma * np.sqrt(ratio**2 - 1)))
    frame = slice(MARGIN // gsd, -MARGIN // gsd)
    seen = degrade_array(ground, *taps(name, ratio, "mtf", blur=blur), ratio)[:, frame, frame]
    if not noisy:
        return np.ascontiguousarray(seen)
    level, snr = _SNR[name]
    # Mostly photon noise, which grows with the root of the signal, over a floor.
    sd = level / snr * np.sqrt(0.2 + 0.8 * np.clip(seen, 0, None) / level)
    noise = np.random.default_rng((7, number)).standard_normal(seen.shape, np.float32)
    return np.asarray(seen + sd * noise, np.float32)


def _axis(letter: str) -> dict[str, str]:
    return {"standard_name": f"projection_{letter}_coordinate", "axis": letter.upper(), "units": "m"}


def _crs() -> Any:
    from rasterio.crs import CRS

    return CRS.from_user_input(_CRS)
