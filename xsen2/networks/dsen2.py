"""DSen2: the residual network of Lanaras et al. (2018), written from the paper."""

from __future__ import annotations

import torch
from torch import nn

from xsen2.networks.network import Network, conv

__all__ = ["DSen2", "upsample"]


def upsample(x: torch.Tensor, ratio: int) -> torch.Tensor:
    """Bilinear upsampling with half-pixel centres, as the paper feeds and adds back.

    Written by phase: `torch.nn.functional.interpolate` computes its weights from absolute
    positions in float32, which differ by up to 0.01 DN with where a patch was cut.
    """
    for dim in (2, 3):
        n = x.shape[dim]
        before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, n - 1)], dim)
        after = torch.cat([x.narrow(dim, 1, n - 1), x.narrow(dim, n - 1, 1)], dim)
        phases = []
        for phase in range(ratio):
            position = (phase + 0.5) / ratio - 0.5
            phases.append(torch.lerp(x, before if position < 0 else after, abs(position)))
        x = torch.stack(phases, dim + 1).flatten(dim, dim + 1)
    return x


class _ResBlock(nn.Module):
    """Two 3x3 convolutions whose output is scaled by 0.1 before it is added (paper, figure 4)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = conv(x, self.conv1.weight, self.conv1.bias, relu=True)
        return torch.add(x, conv(y, self.conv2.weight, self.conv2.bias), alpha=0.1)


class DSen2(Network):
    """Predict what bilinear upsampling misses, on the 10 m grid.

    Parameters
    ----------
    ratio : {2, 6}
        2 makes the 20 m bands from the 10 m and 20 m ones; 6 makes the 60 m bands from all three.
    blocks, features : int
        Depth and width: 6 x 128 is the paper's DSen2, 32 x 256 its VDSen2.

    References
    ----------
    Lanaras, Bioucas-Dias, Galliani, Baltsavias, Schindler (2018). Super-resolution of Sentinel-2
    images: learning a globally applicable deep neural network. ISPRS J. 146, 305-319.
    """

    side = 200
    """Of a patch on a CPU: oneDNN does 128 features of over about 250 columns at half the rate, or a fifth."""

    def __init__(self, ratio: int, blocks: int = 6, features: int = 128) -> None:
        super().__init__()
        self.ratio = ratio
        n_in, n_out = (10, 6) if ratio == 2 else (12, 2)
        self.head = nn.Conv2d(n_in, features, 3, padding=1)
        self.body = nn.Sequential(*(_ResBlock(features) for _ in range(blocks)))
        self.tail = nn.Conv2d(features, n_out, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")  # He-uniform, as the paper
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    @property
    def radius(self) -> int:
        """Receptive field of the convolutions, in 10 m pixels on either side."""
        return sum(m.kernel_size[0] // 2 for m in self.modules() if isinstance(m, nn.Conv2d))

    def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Super-resolve one batch.

        Parameters
        ----------
        a, b, c : torch.Tensor
            DN / 2000 on their native grids: ``(N, 4, H, W)``, ``(N, 6, H/2, W/2)`` and, for
            ratio 6, ``(N, 2, H/6, W/6)``. float32.

        Returns
        -------
        torch.Tensor
            float32 ``(N, 6 or 2, H, W)``, DN / 2000. The convolutions run in the dtype of the
            weights; upsampling and the final sum stay in float32, so radiometry is exact where
            the network adds nothing.
        """
        inputs = [a, upsample(b, 2)]
        if c is not None:
            inputs.append(upsample(c, 6))
        x = torch.cat(inputs, dim=1).to(self.head.weight.dtype, memory_format=torch.channels_last)
        residual = self.tail(self.body(conv(x, self.head.weight, self.head.bias, relu=True)))
        return torch.add(inputs[-1], residual.float())
