"""The Inception network and the resizes before it, against pytorch-fid, torch-fidelity, clean-fid.

The weights are a formula's, in the real architecture. All images of a file are one batch.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.evaluation.resize import PROTOCOLS, RESIZES, bicubic_weights, to_network
from ddpm_jax.interop.inception_weights import convert, state_dict_shapes
from ddpm_jax.interop.weight_files import Weights
from ddpm_jax.models.inception import SHALLOW, InceptionDetails, build_inception
from tests.parity.golden import GoldenFile, groups, load, load_json
from tests.parity.inception_weights import STATE_DICT, state_dict

INCEPTION, RESIZE = "eval_inception.npz", "eval_resize.npz"
PROTOCOL = {"tf1": "adm", "pfid": "pytorch_fid", "clean": "clean"}  # by the files' names


@cache
def params() -> dict[str, jax.Array]:
    """Ours, of the weights by formula."""
    weights = state_dict()
    shapes = {name: array.shape for name, array in weights.items()}
    return jax.device_put(convert(Weights(shapes, weights.__getitem__)))


def test_names_and_shapes_are_the_published_ones():
    published = load_json(STATE_DICT)["state_dict"]
    counters = {name for name in published if name.endswith("num_batches_tracked")}
    shapes = {name: tuple(shape) for name, (shape, _) in published.items() if name not in counters}
    assert state_dict_shapes() == shapes
    assert state_dict().keys() == shapes.keys()


@jax.jit
def compared_arrays(params: dict[str, jax.Array], x: jax.Array) -> dict[str, jax.Array]:
    """Every array of the file, by its name there."""
    found = build_inception().details(params, x)
    features = found.features
    return {
        "pool": features.pool,
        "spatial": features.spatial,
        "logits_nobias": features.logits,
        "logits": found.biased_logits,
        "softmax_nobias": jax.nn.softmax(features.logits),
        "softmax": jax.nn.softmax(found.biased_logits),
        **{f"f{width}": mean for width, mean in found.shallow.items()},
        **block_arrays(found),
    }


def block_arrays(found: InceptionDetails) -> dict[str, jax.Array]:
    """Statistics and corners of the blocks, in the file's order of blocks and axes."""
    blocks = [found.blocks[name] for name in load(INCEPTION).meta["blocks"]]
    assert len(blocks) == len(found.blocks)
    corners = [h[:, :2, :2, :4] for h in blocks], [h[:, -2:, -2:, -4:] for h in blocks]
    corner, tail = (jnp.stack(each, axis=1).transpose(0, 1, 4, 2, 3) for each in corners)
    return {
        "block_mean": jnp.stack([h.mean((1, 2, 3)) for h in blocks], axis=1),
        "block_std": jnp.stack([h.std((1, 2, 3)) for h in blocks], axis=1),
        "block_corner": corner,
        "block_tail": tail,
    }


@cache
def outputs(convention: str) -> dict[str, dict[str, np.ndarray]]:
    """Ours for each case. One batch holds all images, so one program serves every convention."""
    file = load(INCEPTION)
    cases = {name: file.array(f"in/{name}") for name in file.meta["cases"]}
    for name, images in cases.items():
        assert list(images.shape) == file.meta["cases"][name]
    resize = jax.jit(to_network, static_argnums=0)
    inputs = [resize(PROTOCOL[convention], images) for images in cases.values()]
    found = jax.device_get(compared_arrays(params(), jnp.concatenate(inputs)))
    ends = np.cumsum([len(images) for images in cases.values()])[:-1]
    split = {what: np.split(array, ends) for what, array in found.items()}
    return {
        name: {what: arrays[i] for what, arrays in split.items()} for i, name in enumerate(cases)
    }


@pytest.mark.parametrize("convention", groups(INCEPTION))
def test_the_networks_features_are_the_originals(golden, convention):
    file: GoldenFile = golden(INCEPTION)
    keys = file.keys(f"out/{convention}/")
    assert keys
    for key in keys:
        _, _, case, what = key.split("/")
        file.check(key, outputs(convention)[case][what])


def test_every_convention_and_every_width_is_compared(golden):
    file: GoldenFile = golden(INCEPTION)
    assert set(PROTOCOL.values()) == set(PROTOCOLS)
    assert set(groups(INCEPTION)) == set(file.meta["conventions"]) == set(PROTOCOL)
    compared = {key.split("/")[-1] for key in file.keys("out/pfid/")}
    assert {f"f{width}" for width in SHALLOW} <= compared


def pil_bicubic_uint8(images: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
    """Pillow's filter of uint8 images: weights in units of 2^-22, rounded after each axis."""
    x = images.astype(np.int64)
    for axis in axes:
        weights = bicubic_weights(x.shape[axis]) * 2**22
        whole = (np.sign(weights) * np.floor(np.abs(weights) + 0.5)).astype(np.int64)
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ whole.T, -1, axis)
        x = ((x + 2**21) >> 22).clip(0, 255)
    return x.astype(np.uint8)


def resized(method: str, image: np.ndarray) -> list[np.ndarray]:
    """The resized image; for `pil_bicubic_uint8`, which only checks the weights, two.

    Pillow takes the rows first in some images, the columns in others.
    """
    if method == "pil_bicubic_uint8":
        return [pil_bicubic_uint8(image[None], axes)[0] for axes in ((2, 1), (1, 2))]
    return [np.asarray(jax.jit(RESIZES[method])(image[None])[0])]


@pytest.mark.parametrize("method", groups(RESIZE))
def test_resized_images_are_the_originals(golden, method):
    file: GoldenFile = golden(RESIZE)
    rows, columns, along_y, along_x = (
        file.array(f"in/{name}") for name in "rows cols wy wx".split()
    )
    assert method in file.meta["methods"]
    for case in file.meta["cases"]:
        want = file.array(f"out/{method}/{case}/sub").astype(np.float64)
        image = min(
            resized(method, file.array(f"in/{case}")),
            key=lambda image: np.abs(image[rows][:, columns] - want).max(),
        )
        exact = image.astype(np.float64)
        arrays = {
            "sub": image[rows][:, columns],
            "mean": exact.mean((0, 1)),
            "proj": np.einsum("y,x,yxc->c", along_y, along_x, exact),
            "sum": exact.sum((0, 1)),
        }
        for key in file.keys(f"out/{method}/{case}/"):
            bits = method == "tf1_bilinear" and key.endswith("/sub")
            file.check(key, arrays[key.split("/")[-1]], exact=bits)
