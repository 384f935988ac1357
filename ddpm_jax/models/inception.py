"""Inception v3 as FID knows it: the TensorFlow graph of 2015-12-05, in PyTorch-FID's tree of names.

It differs from the Inception v3 of today: average pools leave out the padding, the last block
pools by maximum, and there are 1008 classes. Batch norm of frozen statistics is part of each
convolution's kernel and bias.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx

from ddpm_jax.diffusion.shapes import Array, Float
from ddpm_jax.models.inference_convolution import inference_convolution
from ddpm_jax.models.initializers import ZERO_INIT, Rngs
from ddpm_jax.models.network import Params, functional

IMAGE_SIZE = 299
CLASSES = 1008
HIGHEST = jax.lax.Precision.HIGHEST  # the default of accelerators moves features by 1e-3
Images = Float[Array, "batch height width channels"]
Output = Float[Array, "batch out_height out_width out_channels"]
NetworkInput = Float[Array, "batch 299 299 3"]


class Conv(NamedTuple):
    """A convolution of `height` x `width` pixels, and a ReLU."""

    channels: int
    height: int = 1
    width: int = 1
    stride: int = 1
    padding: Literal["SAME", "VALID"] = "SAME"


# Pools go down the columns, then along the rows: XLA's CPU code for a window of nine pixels takes
# 13 ms an image over all pools, for twice three pixels 5.
def max_pool(x: Images) -> Output:
    """The maximum of 3x3 pixels at every second one, without padding."""
    return nnx.max_pool(nnx.max_pool(x, (3, 1), (2, 1)), (1, 3), (1, 2))


def max_pool_same(x: Images) -> Output:
    """The maximum of 3x3 pixels around each one."""
    return nnx.max_pool(nnx.max_pool(x, (3, 1), padding="SAME"), (1, 3), padding="SAME")


def mean_pool_same(x: Images) -> Output:
    """The mean of those of the 3x3 pixels around each one that are in the image."""
    mean = partial(nnx.avg_pool, padding="SAME", count_include_pad=False)
    return mean(mean(x, (3, 1)), (1, 3))


# Layers by name, each applied to the output of the one before. A list holds branches: each is
# applied to the same input, and their outputs are concatenated.
Layers = Mapping[str, Any]
Branches = list[Layers]


def mixed_35(pool_channels: int) -> Branches:
    """A block at 35x35 pixels."""
    return [
        {"branch1x1": Conv(64)},
        {"branch5x5_1": Conv(48), "branch5x5_2": Conv(64, 5, 5)},
        {
            "branch3x3dbl_1": Conv(64),
            "branch3x3dbl_2": Conv(96, 3, 3),
            "branch3x3dbl_3": Conv(96, 3, 3),
        },
        {"pool": mean_pool_same, "branch_pool": Conv(pool_channels)},
    ]


def mixed_17(channels: int) -> Branches:
    """A block at 17x17 pixels; `channels` are those inside its branches."""
    return [
        {"branch1x1": Conv(192)},
        {
            "branch7x7_1": Conv(channels),
            "branch7x7_2": Conv(channels, 1, 7),
            "branch7x7_3": Conv(192, 7, 1),
        },
        {
            "branch7x7dbl_1": Conv(channels),
            "branch7x7dbl_2": Conv(channels, 7, 1),
            "branch7x7dbl_3": Conv(channels, 1, 7),
            "branch7x7dbl_4": Conv(channels, 7, 1),
            "branch7x7dbl_5": Conv(192, 1, 7),
        },
        {"pool": mean_pool_same, "branch_pool": Conv(192)},
    ]


def mixed_8(pool: Callable[[Images], Output]) -> Branches:
    """A block at 8x8 pixels, two of whose branches fork at their ends."""
    return [
        {"branch1x1": Conv(320)},
        {
            "branch3x3_1": Conv(384),
            "branch3x3_2": [
                {"branch3x3_2a": Conv(384, 1, 3)},
                {"branch3x3_2b": Conv(384, 3, 1)},
            ],
        },
        {
            "branch3x3dbl_1": Conv(448),
            "branch3x3dbl_2": Conv(384, 3, 3),
            "branch3x3dbl_3": [
                {"branch3x3dbl_3a": Conv(384, 1, 3)},
                {"branch3x3dbl_3b": Conv(384, 3, 1)},
            ],
        },
        {"pool": pool, "branch_pool": Conv(192)},
    ]


BLOCKS: Layers = {
    "Conv2d_1a_3x3": Conv(32, 3, 3, stride=2, padding="VALID"),
    "Conv2d_2a_3x3": Conv(32, 3, 3, padding="VALID"),
    "Conv2d_2b_3x3": Conv(64, 3, 3),
    "MaxPool_1": max_pool,
    "Conv2d_3b_1x1": Conv(80),
    "Conv2d_4a_3x3": Conv(192, 3, 3, padding="VALID"),
    "MaxPool_2": max_pool,
    "Mixed_5b": mixed_35(pool_channels=32),
    "Mixed_5c": mixed_35(pool_channels=64),
    "Mixed_5d": mixed_35(pool_channels=64),
    "Mixed_6a": [
        {"branch3x3": Conv(384, 3, 3, stride=2, padding="VALID")},
        {
            "branch3x3dbl_1": Conv(64),
            "branch3x3dbl_2": Conv(96, 3, 3),
            "branch3x3dbl_3": Conv(96, 3, 3, stride=2, padding="VALID"),
        },
        {"pool": max_pool},
    ],
    "Mixed_6b": mixed_17(channels=128),
    "Mixed_6c": mixed_17(channels=160),
    "Mixed_6d": mixed_17(channels=160),
    "Mixed_6e": mixed_17(channels=192),
    "Mixed_7a": [
        {
            "branch3x3_1": Conv(192),
            "branch3x3_2": Conv(320, 3, 3, stride=2, padding="VALID"),
        },
        {
            "branch7x7x3_1": Conv(192),
            "branch7x7x3_2": Conv(192, 1, 7),
            "branch7x7x3_3": Conv(192, 7, 1),
            "branch7x7x3_4": Conv(192, 3, 3, stride=2, padding="VALID"),
        },
        {"pool": max_pool},
    ],
    "Mixed_7b": mixed_8(mean_pool_same),
    "Mixed_7c": mixed_8(max_pool_same),
}
SHALLOW = {64: "MaxPool_1", 192: "MaxPool_2", 768: "Mixed_6e"}  # PyTorch-FID's other features


class InceptionFeatures(NamedTuple):
    """What metrics of images read; logits are without the bias, as the inception score's."""

    pool: Float[Array, "batch 2048"]
    spatial: Float[Array, "batch 2023"]  # 7 channels of Mixed_6d at 17x17 pixels: [y, x, channel]
    logits: Float[Array, "batch 1008"]


class InceptionDetails(NamedTuple):
    """The features, and what only comparisons with other code read."""

    features: InceptionFeatures
    biased_logits: Float[Array, "batch 1008"]
    shallow: dict[int, Float[Array, "batch width"]]  # the means over pixels of SHALLOW's blocks
    blocks: dict[str, Images]  # the output of each of BLOCKS; `jit` sorts them by name


class ConvRelu(nnx.Module):
    """A convolution of the tables, and a ReLU."""

    def __init__(self, conv: Conv, in_channels: int, rngs: Rngs):
        self.conv = nnx.Conv(
            in_channels,
            conv.channels,
            (conv.height, conv.width),
            strides=conv.stride,
            padding=conv.padding,
            kernel_init=ZERO_INIT,
            conv_general_dilated=inference_convolution,
            precision=HIGHEST,
            rngs=rngs,
        )

    def __call__(self, x: Images) -> Output:
        return nnx.relu(self.conv(x))


def layer_of(module: nnx.Module, name: str, layer: Any) -> Callable[[Images], Output]:
    """The function of a layer in the tables: a pool itself, else the module's of that name."""
    return layer if callable(layer) else getattr(module, name)


class Mixed(nnx.Module):
    """A block of branches: `BLOCKS[block]`."""

    def __init__(self, block: str, in_channels: int, rngs: Rngs):
        self.block = block
        self.channels = self._add(BLOCKS[block], in_channels, rngs)

    def _add(self, branches: Sequence[Layers], in_channels: int, rngs: Rngs) -> int:
        """Makes the convolutions of branches; returns the number of channels of their outputs."""
        total = 0
        for branch in branches:
            channels = in_channels
            for name, layer in branch.items():
                if isinstance(layer, Conv):
                    setattr(self, name, ConvRelu(layer, channels, rngs))
                    channels = layer.channels
                elif isinstance(layer, list):
                    channels = self._add(layer, channels, rngs)
            total += channels
        return total

    def __call__(self, x: Images) -> Output:
        return self._run(BLOCKS[self.block], x)

    def _run(self, branches: Sequence[Layers], x: Images) -> Output:
        outputs = []
        for branch in branches:
            h = x
            for name, layer in branch.items():
                if isinstance(layer, list):
                    h = self._run(layer, h)
                else:
                    h = layer_of(self, name, layer)(h)
            outputs.append(h)
        return jnp.concatenate(outputs, axis=-1)


class Inception(nnx.Module):
    """All of BLOCKS in turn, the mean over pixels, and a dense layer. It only infers."""

    def __init__(self, rngs: Rngs):
        channels = 3
        for name, layer in BLOCKS.items():
            if isinstance(layer, Conv):
                setattr(self, name, ConvRelu(layer, channels, rngs))
                channels = layer.channels
            elif isinstance(layer, list):
                mixed = Mixed(name, channels, rngs)
                setattr(self, name, mixed)
                channels = mixed.channels
        self.fc = nnx.Linear(channels, CLASSES, kernel_init=ZERO_INIT, precision=HIGHEST, rngs=rngs)

    def __call__(self, x: NetworkInput) -> InceptionFeatures:
        """The features of images in the range of the network: a protocol says which."""
        return self.details(x).features

    def details(self, x: NetworkInput) -> InceptionDetails:
        """All that can be compared; under `jit` what is not used costs nothing."""
        blocks = {}
        for name, layer in BLOCKS.items():
            x = blocks[name] = layer_of(self, name, layer)(x)
        pool = x.mean(axis=(1, 2))
        # The first channels of the block are those of its branch1x1, after its ReLU.
        spatial = blocks["Mixed_6d"][..., :7].reshape(len(x), -1)
        logits = jnp.matmul(pool, self.fc.kernel[...], precision=HIGHEST)
        return InceptionDetails(
            InceptionFeatures(pool, spatial, logits),
            self.fc(pool),
            {width: blocks[name].mean(axis=(1, 2)) for width, name in SHALLOW.items()},
            blocks,
        )


class InceptionNetwork(NamedTuple):
    """The network as functions of a dict of parameters; use both functions inside `jit`."""

    features: Callable[[Params, Array], InceptionFeatures]
    details: Callable[[Params, Array], InceptionDetails]
    abstract: dict[str, jax.ShapeDtypeStruct]


@cache
def build_inception() -> InceptionNetwork:
    """Names of parameters are as in `Mixed_5b.branch1x1.conv.kernel`, and `fc.kernel`."""
    network = functional(Inception)
    features, details = network.apply, functional(Inception, "details").apply
    return InceptionNetwork(
        cast(Callable[[Params, Array], InceptionFeatures], features),
        cast(Callable[[Params, Array], InceptionDetails], details),
        network.abstract,
    )
