"""Our numbers beside those of pytorch-fid, torch-fidelity, clean-fid and lpips, run here and now.

    pip install -e '.[test,peers]' && pytest -m slow tests/evaluation/test_peers.py

All have the same weights, random but for lpips' own, and the same images; nothing is fetched.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.inception import load_torchvision
from ddpm_jax.config import ParallelConfig
from ddpm_jax.evaluation import images
from ddpm_jax.evaluation.features import FeatureExtractor, Features, inception_extractor
from ddpm_jax.evaluation.metrics import Reference, Samples, kernel_distance, measure
from ddpm_jax.evaluation.statistics import fit
from ddpm_jax.generation.reconstruction import by_lpips
from ddpm_jax.interop.lpips_weights import LINEAR, find_lpips, read_lpips
from ddpm_jax.runtime.devices import make_mesh
from tests.parity.inception_weights import state_dict

pytestmark = pytest.mark.slow
NUM = 60  # images a side


def import_peer(name: str) -> ModuleType:
    """A peer's module; the test is skipped where it is not installed."""
    try:
        load_torchvision()
        return importlib.import_module(name)
    except ModuleNotFoundError:
        pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Weights as a PyTorch file, and two folders of smooth pictures."""
    place = tmp_path_factory.mktemp("peers")
    weights = {name: torch.from_numpy(array) for name, array in state_dict().items()}
    torch.save(weights, place / "weights.pth")
    rng = np.random.default_rng(0)
    for name, contrast in (("real", 1.0), ("fake", 0.6)):
        (place / name).mkdir()
        for i in range(NUM):
            small = rng.uniform(0, 255 * contrast, (6, 6, 3)).astype(np.uint8)
            Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC).save(
                place / name / f"{i:03d}.png"
            )
    yield place
    (place / "weights.pth").unlink()  # 95 MB


@pytest.fixture(scope="module")
def ours(place: Path, tmp_path_factory: pytest.TempPathFactory):
    """ours(protocol, "real") -> Features."""
    found: dict[tuple[str, str], Features] = {}
    mesh = make_mesh(ParallelConfig(data=1), 64)
    patch = pytest.MonkeyPatch()
    patch.setenv("DDPM_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
    extractors: dict[str, FeatureExtractor] = {}

    def ours(protocol: str, name: str) -> Features:
        if protocol not in extractors:
            extractors[protocol] = inception_extractor(protocol, place / "weights.pth", mesh)
        if (protocol, name) not in found:
            (pictures,) = images.of_folder(place / name).batches(NUM)
            found[protocol, name] = extractors[protocol].extract(pictures)
        return found[protocol, name]

    yield ours
    patch.undo()


def measured(ours, protocol: str, names: list[str]) -> dict[str, float]:
    """Our metrics of the fake pictures."""
    real, fake = ours(protocol, "real"), ours(protocol, "fake")
    known = Reference(fit(real.pool), fit(real.spatial), real.pool)
    return {name: found.value for name, found in measure(Samples(fake, known), names).items()}


@pytest.fixture
def network(place, monkeypatch):
    """pytorch-fid's network with our weights."""
    inception = import_peer("pytorch_fid.inception")
    weights = torch.load(place / "weights.pth")
    counters = {
        f"{name.rpartition('.')[0]}.num_batches_tracked": torch.tensor(0)
        for name in weights
        if name.endswith("running_mean")
    }
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *a, **k: weights | counters)
    return inception.InceptionV3([3]).eval()


def test_fid_and_sfids_features_are_those_of_pytorch_fid(place, ours, network):
    score = import_peer("pytorch_fid.fid_score")
    statistics = []
    for name in ("real", "fake"):
        files = sorted((place / name).iterdir())
        statistics += score.calculate_activation_statistics(files, network, 20, 2048, "cpu", 0)
    theirs = score.calculate_frechet_distance(*statistics)
    assert measured(ours, "pytorch_fid", ["fid"])["fid"] == pytest.approx(theirs, rel=1e-4)

    seen = []
    [branch] = [
        module
        for name, module in network.named_modules()
        if name == "blocks.2.6.branch1x1"  # Mixed_6d
    ]
    branch.register_forward_hook(lambda module, inputs, output: seen.append(output[:, :7]))
    (pictures,) = images.of_folder(place / "fake").batches(NUM)
    with torch.no_grad():
        network(torch.from_numpy(pictures.transpose(0, 3, 1, 2) / np.float32(255)))
    spatial = seen[0].permute(0, 2, 3, 1).flatten(1).numpy()
    found = ours("pytorch_fid", "fake").spatial
    np.testing.assert_allclose(found, spatial, rtol=0, atol=1e-4 * spatial.max())


def test_clean_fid_is_that_of_its_resize(place, ours, network):
    resize = import_peer("cleanfid.resize").build_resizer("clean")
    network.resize_input = network.normalize_input = False
    features = []
    for name in ("real", "fake"):
        (pictures,) = images.of_folder(place / name).batches(NUM)
        resized = np.stack([resize(picture) for picture in pictures])
        x = torch.from_numpy(resized.transpose(0, 3, 1, 2)).float()
        with torch.no_grad():
            features.append(network((x - 128) / 128)[0][..., 0, 0].double().numpy())
    theirs = import_peer("cleanfid.fid").fid_from_feats(*features)
    assert measured(ours, "clean", ["fid"])["fid"] == pytest.approx(theirs, rel=1e-4)


def test_every_metric_is_that_of_torch_fidelity(place, ours, monkeypatch):
    peer = import_peer("torch_fidelity")
    monkeypatch.setattr("ddpm_jax.evaluation.metrics.SUBSET_SIZE", 20)
    theirs = peer.calculate_metrics(
        input1=str(place / "fake"),
        input2=str(place / "real"),
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=20,
        isc_splits=1,
        samples_shuffle=False,
        cuda=False,
        cache=False,
        verbose=False,
        batch_size=20,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(place / "weights.pth"),
    )
    found = measured(ours, "adm", ["fid", "is", "kid", "precision", "recall"])
    assert found["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert found["is"] == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    # A difference of sums of float32 kernels, each of some units.
    kernel = kernel_distance.polynomial_kernel(*[ours("adm", n).pool for n in ("real", "fake")])
    mean = theirs["kernel_inception_distance_mean"]
    assert found["kid"] == pytest.approx(mean, rel=1e-3, abs=1e-6 * float(kernel.max()))
    assert found["precision"] == pytest.approx(theirs["precision"])
    assert found["recall"] == pytest.approx(theirs["recall"])


def test_lpips_is_that_of_the_package_by_its_own_layers(place, tmp_path, monkeypatch):
    peer = import_peer("lpips")
    torch.manual_seed(0)
    alexnet = importlib.import_module("torchvision.models").alexnet()
    torch.save(alexnet.state_dict(), tmp_path / "alexnet.pth")
    monkeypatch.setattr(peer.pn.tv, "alexnet", lambda pretrained: alexnet)
    monkeypatch.setenv("DDPM_JAX_ALEXNET", str(tmp_path / "alexnet.pth"))
    monkeypatch.delenv(LINEAR.variable, raising=False)
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path))
    files = find_lpips()
    assert files.linear.path == Path(peer.__file__).parent / "weights/v0.1/alex.pth"
    pair = [next(iter(images.of_folder(place / each).batches(NUM))) for each in ("real", "fake")]
    x, y = (torch.tensor(each / np.float32(127.5) - 1).movedim(-1, 1) for each in pair)
    with torch.no_grad():
        theirs = peer.LPIPS(net="alex", verbose=False)(x, y).flatten().numpy()
    np.testing.assert_allclose(by_lpips(read_lpips(files), *pair), theirs, rtol=1e-5)
    (tmp_path / "alexnet.pth").unlink()  # 244 MB
