"""Augmentation and normalisation, batched on tensors on the device that computes."""

import torch
from torch import Tensor


def random_flip_crop(images: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Mirror each image with probability 1/2 and cut a random window of its own size from its zero-padded self.

    ``images`` is [B, C, H, W] of any dtype and on any device; the draws come from ``generator``, on the generator's
    device, so that a CPU generator gives the same augmentation everywhere. The CIFAR recipe of the ResNet paper
    (arXiv 1512.03385, section 4.2).
    """
    count, _, height, width = images.shape
    shift = torch.randint(0, 2 * padding + 1, (2, count), generator=generator, device=generator.device)
    flip = torch.randint(0, 2, (count,), generator=generator, device=generator.device).bool()
    top, left = shift.to(images.device)
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view [B, C, 2p+1, 2p+1, H, W]
    cropped = windows[torch.arange(count, device=images.device), :, top, left]
    return torch.where(flip.to(images.device)[:, None, None, None], cropped.flip(-1), cropped)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 [B, C, H, W] to float32 (images / 255 - mean) / std; ``mean`` and ``std`` [C] are in units of 0..1."""
    scale = (1.0 / (255.0 * std))[:, None, None]
    return images.to(torch.float32).mul_(scale).sub_((mean / std)[:, None, None])
