"""Features of images for tests, as a user would write them."""

import numpy as np


def flat(images: np.ndarray) -> np.ndarray:
    """The pixels themselves."""
    return images.reshape(len(images), -1) / 255


def none(images: np.ndarray) -> np.ndarray:
    """Features that are no numbers."""
    return np.full((len(images), 2), np.nan)


def too_few(images: np.ndarray) -> np.ndarray:
    """One number for all images."""
    return np.ones(1)
