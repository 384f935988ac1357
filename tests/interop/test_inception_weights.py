"""The weights of Inception: files that fit, files that do not, and where they are looked for."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from ddpm_jax.errors import UserError
from ddpm_jax.interop import inception_weights, weight_files
from ddpm_jax.interop.download import file_sha256
from ddpm_jax.interop.inception_weights import find_inception, read_inception, state_dict_shapes
from ddpm_jax.models.inception import Conv, ConvRelu, build_inception
from tests.interop.file_server import serving

Tensors = dict[str, torch.Tensor]
LAYER = "Mixed_5b.branch5x5_2"


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    """Random weights, with the counters that PyTorch saves."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: 0.5 + torch.rand(shape, generator=generator)
        for name, shape in state_dict_shapes().items()
    }
    counters = {
        name.replace("running_var", "num_batches_tracked"): torch.tensor(0)
        for name in weights
        if name.endswith("running_var")
    }
    return weights | counters


@pytest.fixture(scope="module")
def file(tensors: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(tensors, path)
    yield path
    path.unlink()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and no other place to look."""
    monkeypatch.delenv("DDPM_JAX_INCEPTION", raising=False)
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    shutil.rmtree(tmp_path)  # pytest would keep 95 MB of each test


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were converted so far."""
    converted: list[Path] = []

    def recording(path: Path) -> dict[str, np.ndarray]:
        converted.append(path)
        return read_inception(path)

    monkeypatch.setattr(inception_weights, "read_inception", recording)
    return converted


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        find_inception(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def test_batch_norm_becomes_part_of_the_convolution(tensors, file):
    params, _ = find_inception(file)
    found = {name: (array.shape, array.dtype) for name, array in params.items()}
    assert found == {n: (x.shape, x.dtype) for n, x in build_inception().abstract.items()}

    x = np.random.default_rng(0).normal(size=(2, 7, 9, 48)).astype(np.float32)
    layer = ConvRelu(Conv(64, 5, 5), 48, nnx.Rngs(0))
    layer.conv.kernel[...] = params[f"{LAYER}.conv.kernel"]
    layer.conv.bias[...] = params[f"{LAYER}.conv.bias"]
    weight, gamma, beta, mean, variance = (
        tensors[f"{LAYER}.{each}"].double()
        for each in ("conv.weight", *(f"bn.{each}" for each in inception_weights.NORM))
    )
    h = torch.nn.functional.conv2d(torch.tensor(x).double().movedim(-1, 1), weight, padding=2)
    h = torch.nn.functional.batch_norm(h, mean, variance, gamma, beta, eps=1e-3).relu()
    np.testing.assert_allclose(layer(x), h.movedim(1, -1), rtol=1e-5, atol=1e-4)


def test_the_counters_of_batches_may_be_absent(tensors, file, tmp_path):
    without = {name: x for name, x in tensors.items() if not name.endswith("num_batches_tracked")}
    torch.save(without, tmp_path / "without.pth")
    a, b = find_inception(file), find_inception(tmp_path / "without.pth")
    assert a.digest != b.digest  # of the files
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


def test_a_file_is_converted_once_and_then_read_without_torch(
    file, cache, conversions, monkeypatch
):
    first = find_inception(file)
    monkeypatch.setattr(weight_files, "require", None)
    again = find_inception(file)
    assert conversions == [file] and len(list(cache.iterdir())) == 1
    assert first.digest == again.digest == file_sha256(file)
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)


def test_a_damaged_conversion_is_made_again(file, cache, conversions):
    find_inception(file)
    (converted,) = cache.iterdir()
    whole = converted.read_bytes()
    converted.write_bytes(whole[: len(whole) // 2])
    find_inception(file)
    converted.write_bytes(whole[:5000] + bytes(100) + whole[5100:])
    find_inception(file)
    assert conversions == [file] * 3 and converted.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_a_warning(file, cache, caplog):
    cache.write_text("no folder")
    assert find_inception(file).digest == file_sha256(file)
    assert f"{cache}" in caplog.text and "DDPM_JAX_CACHE" in caplog.text


def test_a_variable_names_the_file(file, monkeypatch, tmp_path):
    monkeypatch.setenv("DDPM_JAX_INCEPTION", str(file))
    assert find_inception().digest == file_sha256(file)
    monkeypatch.setenv("DDPM_JAX_INCEPTION", str(tmp_path / "absent.pth"))
    assert find_inception(file).digest == file_sha256(file)  # an argument comes first
    with pytest.raises(UserError, match=r"^DDPM_JAX_INCEPTION: .*absent.pth: no such file$"):
        find_inception()


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"DDPM_JAX_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/ddpm_jax"),
        ({"HOME": "/c"}, "/c/.cache/ddpm_jax"),
    ],
)
def test_the_cache_folder_is_where_the_environment_says(variables, folder, monkeypatch):
    for name in ("DDPM_JAX_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert inception_weights.cache_folder() == Path(folder)


@pytest.fixture
def published(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the published file will be, once a server on this machine has sent it."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(inception_weights, "SIZE", file.stat().st_size)
    monkeypatch.setattr(inception_weights, "SHA256", file_sha256(file))
    return cache / "file.bin"


def test_the_published_file_is_fetched_and_converted_once(
    file, published, conversions, monkeypatch
):
    with serving(file.read_bytes()) as server:
        monkeypatch.setattr(inception_weights, "URL", server.url)
        first, again = find_inception(), find_inception()
    assert server.ranges == [None] and conversions == [published]
    assert first.digest == again.digest == file_sha256(file)
    assert published.read_bytes() == file.read_bytes()


def test_the_published_file_can_be_put_into_the_cache_by_hand(file, published, monkeypatch):
    monkeypatch.setattr(inception_weights, "URL", "http://127.0.0.1:9/file.bin")
    with pytest.raises(UserError, match=f"put it at {published}"):
        find_inception()
    os.link(file, published)
    assert find_inception().digest == file_sha256(file)


def test_without_torch_nothing_is_fetched(published, monkeypatch):
    real = weight_files.importlib.import_module

    def without_torch(name: str):
        if name == "torch":
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr(weight_files.importlib, "import_module", without_torch)
    with pytest.raises(UserError, match=r"torch is not installed: `pip install 'ddpm-jax\[inte"):
        find_inception()
    assert not published.parent.exists()


def test_the_published_file_is_the_one_that_others_name():
    assert inception_weights.SHA256[:8] in inception_weights.URL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("fc.bias"), "1 missing (fc.bias)"),
        (lambda w: w.update(extra=torch.ones(1)), "1 unexpected (extra)"),
        (
            lambda w: w.update({"fc.weight": torch.ones(1000, 2048)}),
            "fc.weight is [1000, 2048], expected [1008, 2048]",
        ),
        (
            lambda w: w.update({"AuxLogits.bn.num_batches_tracked": torch.tensor(0)}),
            "1 unexpected (AuxLogits.bn.num_batches_tracked)",
        ),
    ],
)
def test_a_file_of_another_network_is_refused(change, message, tensors, tmp_path):
    weights = dict(tensors)
    change(weights)
    torch.save(weights, tmp_path / "other.pth")
    assert message in refusal(tmp_path / "other.pth")


def test_a_file_with_code_is_refused(tmp_path):
    class Code:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"fc.bias": Code()}, tmp_path / "code.pth")
    assert "could run code" in refusal(tmp_path / "code.pth")
    assert not (tmp_path / "ran").exists()


def test_what_is_no_file_of_weights_is_refused(tmp_path, cache):
    (tmp_path / "page.pth").write_text("<html>Not Found</html>")
    assert "no file of PyTorch weights" in refusal(tmp_path / "page.pth")
    assert "no such file" in refusal(tmp_path / "absent.pth")
    assert not cache.exists()
