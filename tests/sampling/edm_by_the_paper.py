"""Algorithms 1 and 2 of Karras et al. (2022) by the paper: float64, x = x_0 + sigma n."""

import numpy as np


def sample(denoise, x, sigmas, noises=None, churn=0.0, least=0.0, most=np.inf, noise_scale=1.0):
    """x at every sigma, from D(x; sigma) = `denoise`; sigmas fall and the last one is 0."""
    states, steps = [x], len(sigmas) - 1
    for i in range(steps):
        sigma, following = sigmas[i], sigmas[i + 1]
        gamma = min(churn / steps, np.sqrt(2) - 1) if least <= sigma <= most else 0.0
        raised = sigma + gamma * sigma
        hat = x
        if gamma:
            hat = x + np.sqrt(raised**2 - sigma**2) * noise_scale * noises[i]
        slope = (hat - denoise(hat, raised)) / raised
        x = hat + (following - raised) * slope
        if following:
            other = (x - denoise(x, following)) / following
            x = hat + (following - raised) * (slope + other) / 2
        states.append(x)
    return states
