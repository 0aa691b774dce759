"""Metrics against scikit-image and torchmetrics, where those define the same; comments say where they do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import (
    error_relative_global_dimensionless_synthesis,
    spectral_angle_mapper,
    spectral_distortion_index,
    structural_similarity_index_measure,
    universal_image_quality_index,
)

from xsen2.evaluation.metrics import PEAK, State


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    truth = (2000 + 60 * rng.standard_normal((4, 90, 77)).cumsum(axis=-1)).clip(1, 12000)
    return truth + rng.normal(10, 90, truth.shape), truth


@pytest.fixture(scope="module")
def scores(pair):
    return State.of(*pair).finish(ratio=2)


def tensors(arrays):
    return [torch.from_numpy(a)[None] for a in arrays]


def test_ssim_is_that_of_scikit_image(pair, scores):
    # Its mean leaves out the 5 pixels along the edges where windows are padded: windows wholly inside, as here.
    for band, (y, x) in enumerate(zip(*pair, strict=True)):
        expected = structural_similarity(
            x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=PEAK
        )
        assert scores["ssim"][band] == pytest.approx(expected, rel=1e-9)


def test_ssim_is_that_of_torchmetrics_inside(pair, scores):
    # Its mean counts the padded windows along the edges too, so that is not the same number; its map is.
    mean, everywhere = structural_similarity_index_measure(*tensors(pair), data_range=PEAK, return_full_image=True)
    np.testing.assert_allclose(scores["ssim"], everywhere[0, :, 5:-5, 5:-5].mean(dim=(1, 2)), rtol=1e-9)
    assert scores["ssim"].mean() == pytest.approx(float(mean), rel=1e-2)
    assert scores["ssim"].mean() != pytest.approx(float(mean), rel=1e-6)


def test_psnr_and_nrmse_are_those_of_scikit_image(pair, scores):
    for band, (y, x) in enumerate(zip(*pair, strict=True)):
        assert scores["psnr"][band] == pytest.approx(peak_signal_noise_ratio(x, y, data_range=PEAK), rel=1e-12)
        # "euclidean": over the root mean square of the truth. Its "min-max" and "mean" are other quantities.
        assert scores["nrmse"][band] == pytest.approx(normalized_root_mse(x, y, normalization="euclidean"), rel=1e-12)


def test_sam_and_ergas_are_those_of_torchmetrics(pair, scores):
    # SAM there is in radians, and NaN where a pixel is all zeros, which is skipped here.
    estimate, truth = tensors(pair)
    assert scores["sam"] == pytest.approx(float(spectral_angle_mapper(estimate, truth).rad2deg()), rel=1e-9)
    ergas = error_relative_global_dimensionless_synthesis(estimate, truth, ratio=2)
    assert scores["ergas"] == pytest.approx(float(ergas), rel=1e-9)


def test_uiq_of_torchmetrics_has_other_windows(pair, scores):
    # Gaussian ones of 11 pixels there, and nothing else can be chosen; Wang & Bovik's are flat, 8 x 8. It adds an eps
    # to the denominator besides, so that flat windows give anything, where the authors compare their means.
    found = float(universal_image_quality_index(*tensors(pair)))
    assert scores["uiq"].mean() == pytest.approx(found, rel=0.1)
    assert scores["uiq"].mean() != pytest.approx(found, rel=1e-6)


def test_d_lambda_of_torchmetrics_is_another_one(pair):
    # Alparone et al. (2008) compare the UIQ of bands with each other before and after fusion, not the bands with what
    # was measured: an image that is mirrored left to right is perfect there, and worthless by Khan's 1 - Q2n.
    _, truth = pair
    mirrored = np.ascontiguousarray(truth[..., ::-1])
    assert float(spectral_distortion_index(*tensors([truth, mirrored]))) == pytest.approx(0, abs=1e-6)
    assert 1 - State.of(mirrored, truth).finish()["q2n"] > 0.3
