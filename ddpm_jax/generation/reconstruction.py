"""How near a reconstruction is to its image, of images [N, H, W, C] in 0..255."""

from collections.abc import Callable, Mapping

import jax
import numpy as np

from ddpm_jax.models.lpips import lpips_distance

Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]  # images, others -> [N]

# Wang et al. (2004): the deviation of the window, and what keeps the ratios finite.
WINDOW, C1, C2 = 1.5, (0.01 * 255) ** 2, (0.03 * 255) ** 2
BATCH = 32  # pairs that LPIPS takes at once


def psnr(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The peak signal-to-noise ratio of each pair in dB, [N]; infinite for equal images."""
    squares = np.square(images.astype(float) - others.astype(float))
    error = squares.mean(axis=tuple(range(1, images.ndim)))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / error)


def ssim(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Structural similarity (Wang et al. 2004, eq. 13), mean over pixels and channels, [N]."""
    from scipy.ndimage import gaussian_filter  # half a second, which most runs never need

    x, y = images.astype(float), others.astype(float)

    def local(a: np.ndarray) -> np.ndarray:
        return gaussian_filter(a, (0, WINDOW, WINDOW, 0), truncate=3.5)

    mean_x, mean_y = local(x), local(y)
    variance_x, variance_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    similarity /= (mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2)
    return similarity.mean(axis=(1, 2, 3))


def by_lpips(
    weights: Mapping[str, np.ndarray], images: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """LPIPS of each pair, [N], 0 for equal images; grey becomes RGB. See `lpips_distance`."""

    def prepared(batch: np.ndarray) -> np.ndarray:
        return np.broadcast_to(batch.astype(np.float32) / 127.5 - 1, (*batch.shape[:3], 3))

    distance, params = jax.jit(lpips_distance), jax.device_put(dict(weights))
    found = [
        distance(params, prepared(images[i : i + BATCH]), prepared(others[i : i + BATCH]))
        for i in range(0, len(images), BATCH)
    ]
    return np.concatenate(found)


MEASURES: Mapping[str, Measure] = {"psnr": psnr, "ssim": ssim}  # that need no weights
