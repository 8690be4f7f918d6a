"""Own image models: CIFAR ResNets and an MLP. They take float32 [B, 3, H, W] and return logits [B, C]."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_repro.errors import UserError


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut without parameters (option A of He et al. 2016).

    ``inner``: channels between the two convolutions.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, inner, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.stride, self.new_channels = stride, channels_out - channels_in

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        if self.stride > 1 or self.new_channels:  # keep every second pixel; new channels are zero, half on each side
            before = self.new_channels // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before))
        return F.relu(y + x, inplace=True)


class CifarResNet(nn.Module):
    """ResNet of depth 6n+2 for small images: three stages of n blocks with ``width``, 2 and 4 times ``width`` channels.

    He et al. 2016 (arXiv 1512.03385), section 4.2, with its shortcut option A, so that ``width`` 16 has exactly the
    paper's parameter counts. Weights: He et al. 2015 (normal, fan-out), BatchNorm at one and zero. ``inner``: channels
    inside a block over those between blocks. ``dropout``: before the head.
    """

    def __init__(self, depth: int, num_classes: int, width: int = 16, inner: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__()
        n, rest = divmod(depth - 2, 6)
        if n < 1 or rest:
            raise UserError(f"A CIFAR ResNet has a depth of 6n+2, not {depth}; choose 8, 14, 20, 32, 44 or 56.")
        if width < 1:
            raise UserError(f"The width of a ResNet must be at least 1, not {width}.")
        self.conv = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        blocks, channels = [], width
        for stage in range(3):
            for block in range(n):
                stride = 2 if stage and not block else 1
                blocks.append(Block(channels, width << stage, stride, round(inner * (width << stage))))
                channels = width << stage
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixels: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(pixels)), inplace=True)
        return self.head(self.dropout(self.blocks(x).mean(dim=(2, 3))))


class MLP(nn.Module):
    """Flatten, then ReLU layers of the sizes ``hidden``, then logits. ``in_features`` = 3 H W of the images.

    ``dropout``: before the head.
    """

    def __init__(
        self, num_classes: int, in_features: int = 3 * 32 * 32, hidden: Sequence[int] = (128, 128),
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        sizes = [in_features, *hidden]
        pairs = itertools.pairwise(sizes)
        self.layers = nn.Sequential(*[layer for pair in pairs for layer in (nn.Linear(*pair), nn.ReLU(inplace=True))])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(sizes[-1], num_classes)
        self.in_features = in_features

    def forward(self, pixels: Tensor) -> Tensor:
        x = torch.flatten(pixels, 1)
        if x.shape[1] != self.in_features:
            raise UserError(
                f"This MLP takes {self.in_features} numbers per image, but the images hold {x.shape[1]}; "
                f"build it with in_features={x.shape[1]}."
            )
        return self.head(self.dropout(self.layers(x)))
