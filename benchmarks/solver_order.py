"""How fast the error of each solver falls: Gaussian data, whose ODE has a solution in closed form.

    python -m benchmarks.solver_order --out docs/solver_order.png

The data are independent and normal, the noise schedule is linear, and the network is exact. The
error is that of x at the lowest noise level of the chain.
"""

import argparse

import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.diffusion.schedules import make_schedule, named_betas
from ddpm_jax.diffusion.spacing import log_ratio, respace
from ddpm_jax.sampling import SAMPLERS, ChainOptions, make_sampling_loop
from ddpm_jax.visualization.figures import new_figure, save_figure

FULL = make_schedule(named_betas("linear", 1000))
MEAN, DEVIATIONS = 0.3, np.array([0.4, 0.7])
STEPS = 5, 10, 20, 40, 80, 160
# The claimed order, and the numbers of steps between which it shows and float32 does not yet.
ORDERS = {
    "ddim": (1, 40, 160),
    "euler": (1, 40, 160),
    "heun": (2, 20, 80),
    "dpmpp_2m": (2, 40, 160),
    "unipc": (2, 20, 80),
    "dpmpp_3m": (3, 40, 80),
    "unipc_3": (3, 10, 20),
    "deis": (3, 10, 20),
    "pndm": (2, 40, 160),  # as Liu et al. 2022 say
}


def chain_of(name, steps, spacing=None):
    return Diffusion(respace(FULL, str(steps), spacing or SAMPLERS[name].spacing), training=FULL)


def independent_eps(params, x, t, condition):
    ratio = jnp.interp(t, np.arange(1000.0), log_ratio(FULL))[:, None]
    alpha_bar = 1 / (1 + jnp.exp(2 * ratio))
    variance = alpha_bar * DEVIATIONS**2 + 1 - alpha_bar
    return jnp.sqrt(1 - alpha_bar) * (x - jnp.sqrt(alpha_bar) * MEAN) / variance


def ode_error(name, steps):
    """Of x at the chain's lowest noise level, against the exact solution of the ODE there.

    Equal steps of t are no small steps of the noise near t = 0: PNDM's are measured at T / 4.
    """
    place = steps // 4 if name == "pndm" else 0
    diffusion = chain_of(name, steps)
    run = make_sampling_loop(
        diffusion, SAMPLERS[name], independent_eps, (2,), ChainOptions(clip=False, keep=[place])
    )
    x = np.random.default_rng(0).standard_normal((16, 2)).astype(np.float32)
    found = run((), 0, np.arange(16, dtype=np.int32), (), x_init=jnp.asarray(x)).kept_x[0]
    first, last = diffusion.schedule.alphas_cumprod[[-1, place]]
    spread = [np.sqrt(a * DEVIATIONS**2 + 1 - a) for a in (first, last)]
    exact = np.sqrt(last) * MEAN + spread[1] / spread[0] * (x - np.sqrt(first) * MEAN)
    return np.abs(found - exact).max()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", default="solver_order.png")
    out = parser.parse_args().out
    figure = new_figure(7, 4.5)
    axes = figure.add_axes((0.1, 0.12, 0.6, 0.82))
    print("| solver | order |" + "".join(f" {steps} |" for steps in STEPS))
    print("|-|-|" + "-|" * len(STEPS))
    for k, (name, (order, *_)) in enumerate(ORDERS.items()):
        errors = [ode_error(name, steps) for steps in STEPS]
        print(f"| {name} | {order} |" + "".join(f" {error:.1e} |" for error in errors), flush=True)
        evaluations = [SAMPLERS[name].evaluations(steps) for steps in STEPS]
        style = ("o-", "s--", "^:")[k // 5 % 3]
        axes.loglog(evaluations, errors, style, markersize=4, label=f"{name}, order {order}")
    axes.set(xlabel="evaluations of the network", ylabel="error of x at the lowest noise")
    axes.grid(linewidth=0.4, alpha=0.5)
    figure.legend(*axes.get_legend_handles_labels(), loc="center right", frameon=False)
    save_figure(figure, out)


if __name__ == "__main__":
    main()
