"""LPIPS in plain PyTorch, from the paper and torchvision's AlexNet; random weights for it."""

import torch
import torch.nn.functional as F

Tensors = dict[str, torch.Tensor]

CHANNELS = (64, 192, 384, 256, 256)
SHAPES = {  # torchvision's features: [out, in, height, width]
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}


def random_weights(seed: int = 0) -> tuple[Tensors, Tensors]:
    """The state dicts of both published files, but for AlexNet's classifier."""
    generator = torch.Generator().manual_seed(seed)
    alexnet, linear = {}, {}
    for i, shape in SHAPES.items():
        deviation = (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        alexnet[f"features.{i}.weight"] = deviation * torch.randn(shape, generator=generator)
        alexnet[f"features.{i}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    for i, channels in enumerate(CHANNELS):
        linear[f"lin{i}.model.1.weight"] = torch.rand(1, channels, 1, 1, generator=generator)
    return alexnet, linear


def distance(alexnet: Tensors, linear: Tensors, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Of pairs of images [N, 3, H, W] in [-1, 1], [N], in float64."""
    mean, deviation = [-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]

    def features(x: torch.Tensor) -> list[torch.Tensor]:
        def conv(i: int, h: torch.Tensor, **options: int) -> torch.Tensor:
            weight, bias = (alexnet[f"features.{i}.{each}"] for each in ("weight", "bias"))
            return F.conv2d(h, weight.double(), bias.double(), **options).relu()

        h = (x.double() - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[
            :, None, None
        ]
        first = conv(0, h, stride=4, padding=2)
        second = conv(3, F.max_pool2d(first, 3, 2), padding=2)
        third = conv(6, F.max_pool2d(second, 3, 2), padding=1)
        fourth = conv(8, third, padding=1)
        return [first, second, third, fourth, conv(10, fourth, padding=1)]

    total = torch.zeros(len(x), dtype=torch.float64)
    for i, (a, b) in enumerate(zip(features(x), features(y), strict=True)):
        a, b = (each / (each.norm(dim=1, keepdim=True) + 1e-10) for each in (a, b))
        weighted = F.conv2d((a - b) ** 2, linear[f"lin{i}.model.1.weight"].double())
        total += weighted.mean(dim=(1, 2, 3))
    return total
