"""What a guided step costs, next to the evaluations that it cannot do without.

    python -m benchmarks.guided_step --config configs/cifar10.py --channels 32 \
        --classifier configs/cifar10_classifier.py --json benchmarks/results/guided_step.json

In turn: a guided chain of `--steps` steps, one program; as many single evaluations of the U-Net; as
many of the classifier's log-probability and its gradient. The ratio is chain / (U-Net +
classifier), a pair at a time, and its median. Weights are random: the arithmetic is the same.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import tyro

from benchmarks import cases, report
from ddpm_jax.config import Config, ParallelConfig, build_diffusion, command_line, data_shape
from ddpm_jax.generation.generator import Generator
from ddpm_jax.generation.guided_chain import GuidanceModels
from ddpm_jax.generation.sample_batch import Scales
from ddpm_jax.models import Params, build_network, count_parameters
from ddpm_jax.runtime import devices
from ddpm_jax.sampling.guidance import class_log_prob, guidance_gradient


@dataclass(frozen=True)
class Args:
    config: Path = Path("configs/cifar10.py")  # of the model
    classifier: Path = Path("configs/cifar10_classifier.py")  # config of the classifier
    channels: int = 0  # of the model; 0: those of its config
    batch_size: int = 16
    steps: int = 10  # of the chain
    repeats: int = 9  # of each measurement, in turn
    sampler: str = "ddpm"
    json: Path | None = None  # file for the figures


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    devices.use_every_core()
    config, classifier = (
        command_line.load_config(args.config),
        command_line.load_config(args.classifier),
    )
    if args.channels:
        groups = min(config.model.norm_groups, args.channels // 4)
        model = replace(config.model, channels=args.channels, norm_groups=groups)
        config = replace(config, model=model)
    sample = replace(
        config.sample, steps=str(args.steps), batch_size=args.batch_size, sampler=args.sampler
    )
    config = replace(config, sample=sample)
    measured = {
        name: measurement()
        for name, measurement in measurements(config, classifier, args.steps).items()
    }
    for run in measured.values():
        run()  # compiles
    seconds = {name: [] for name in measured}
    for _ in range(args.repeats):
        for name, run in measured.items():
            start = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - start) / args.steps)
    evaluations = zip(seconds["model"], seconds["classifier"], strict=True)
    pairs = zip(seconds["guided chain"], evaluations, strict=True)
    ratios = [chain / sum(both) for chain, both in pairs]
    result = {
        "ratio": statistics.median(ratios),
        "ratios": sorted(ratios),
        "ms_per_step": {name: 1000 * statistics.median(each) for name, each in seconds.items()},
        "parameters": [
            count_parameters(build_network(each).abstract) for each in (config, classifier)
        ],
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        **report.about(),
        **{name: str(value) for name, value in vars(args).items() if name != "json"},
    }
    print(json.dumps(result, indent=2))
    if args.json is not None:
        report.write(args.json, result)


def measurements(
    config: Config, classifier: Config, steps: int
) -> dict[str, Callable[[], Callable[[], None]]]:
    """By name, what makes a function that does `steps` of something, and waits for it."""
    size, shape = config.sample.batch_size, data_shape(config)
    mesh = devices.make_mesh(ParallelConfig(), size)
    network, classify = build_network(config), build_network(classifier)
    weights, classifier_weights = (
        jax.device_put(cases.network_weights(each), devices.replicated(mesh))
        for each in (network, classify)
    )
    labels = np.arange(size, dtype=np.int32) % classifier.model.num_classes
    batch = (
        np.random.default_rng(0).standard_normal((size, *shape), np.float32),
        np.full(size, 500, np.float32),
        labels,
    )
    batch = jax.device_put(batch, devices.batch_sharding(mesh))
    assert build_diffusion(config.diffusion, str(steps)).schedule.num_timesteps == steps

    def chain() -> Callable[[], None]:
        guidance = GuidanceModels(classify, classifier_weights)
        generator = Generator(config, network, mesh, guidance=guidance)
        return lambda: generator.generate(weights, 0, labels, scales=[Scales(guidance=1.0)])

    def repeated(function: Callable, params: Params) -> Callable[[], None]:
        jitted = jax.jit(function)
        return lambda: jax.block_until_ready([jitted(params, *batch) for _ in range(steps)])

    def gradient(params: Params, x: jax.Array, t: jax.Array, labels: jax.Array) -> jax.Array:
        return guidance_gradient(class_log_prob(partial(classify.apply, params), labels), 1.0)(x, t)

    return {
        "guided chain": chain,
        "model": lambda: repeated(lambda p, x, t, _: network.apply(p, x, t), weights),
        "classifier": lambda: repeated(gradient, classifier_weights),
    }


if __name__ == "__main__":
    main()
