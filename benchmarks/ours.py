"""Our own steps, as train.py and sample.py run them, for benchmarks/run.py."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import jax
import numpy as np

from benchmarks import cases
from benchmarks.cases import Measured, Work
from ddpm_jax.config import Config, ParallelConfig, build_diffusion
from ddpm_jax.data.model_range import to_model_range
from ddpm_jax.generation.generator import Generator
from ddpm_jax.generation.guided_chain import NO_GUIDANCE, GuidanceModels
from ddpm_jax.generation.sample_batch import Scales
from ddpm_jax.models import Network, build_network, count_parameters
from ddpm_jax.runtime import devices
from ddpm_jax.sampling.guidance import class_log_prob, guidance_gradient
from ddpm_jax.training.objectives import make_objective
from ddpm_jax.training.state import init_state, make_optimizer
from ddpm_jax.training.step import make_train_step, make_update


def build(work: Work, config: Config | None = None) -> Measured:
    """The peer called "ours", with the model of its case or another."""
    training = (ParallelConfig(), work.batch_size) if work.step == "train_step" else ()
    devices.use_every_core(*training)
    case = cases.load(work.case)
    config = config or case.model
    model = replace(config.model, dtype=work.dtype)
    train = replace(config.train, batch_size=work.batch_size)
    config = replace(config, model=model, train=train)
    mesh = devices.make_mesh(ParallelConfig(), work.batch_size)
    network = build_network(config)
    if work.step == "train_step":
        measured = _train_step(work, config, network, mesh)
    else:
        measured = _sample_step(work, config, case.classifier, network, mesh)
    return measured._replace(parameters=count_parameters(network.abstract), peak_bytes=_peak_bytes)


def _train_step(work: Work, config: Config, network: Network, mesh: jax.sharding.Mesh) -> Measured:
    diffusion, optimizer = build_diffusion(config.diffusion), make_optimizer(config.train)
    num_timesteps = diffusion.schedule.num_timesteps
    params = jax.device_put(cases.network_weights(network), devices.replicated(mesh))
    state = jax.jit(lambda params: init_state(params, optimizer, config))(params)
    sharding = devices.state_sharding(state, mesh)
    state = jax.device_put(state, sharding)
    numbers = cases.examples(config, work.batch_size)
    batch = devices.shard_local_batch({name: numbers[name] for name in ("x", "label")}, mesh)
    step = devices.pmapped(make_train_step(config, diffusion, network, optimizer), mesh, sharding)

    def run() -> None:
        nonlocal state
        for _ in range(work.count):
            state, metrics = step(state, batch)
        metrics["loss"].block_until_ready()

    def check() -> Mapping[str, np.ndarray]:
        still = replace(config, model=replace(config.model, dropout=0.0))
        objective = make_objective(still, diffusion, network)
        update = make_update(still, num_timesteps, objective, optimizer)
        batch = numbers | {"x": to_model_range(numbers["x"]), "weight": np.ones(work.batch_size)}
        fresh = init_state(cases.network_weights(network), optimizer, still)
        _, metrics = jax.jit(update)(fresh, batch, jax.random.key(0))
        return {name: np.asarray(metrics[name]) for name in ("loss", "grad_norm")}

    return Measured(run, check)


def _sample_step(
    work: Work, config: Config, classifier: Config, network: Network, mesh: jax.sharding.Mesh
) -> Measured:
    sample = replace(
        config.sample, sampler="ddpm", steps=str(work.count), batch_size=work.batch_size
    )
    config = replace(config, sample=sample)
    classify = build_network(classifier)
    on_all = devices.replicated(mesh)
    weights, classifier_weights = (
        jax.device_put(cases.network_weights(each), on_all) for each in (network, classify)
    )
    numbers = cases.examples(config, work.batch_size)
    guided = work.step == "guided_step"
    guidance = GuidanceModels(classify, classifier_weights) if guided else NO_GUIDANCE
    generator = Generator(config, network, mesh, guidance=guidance)
    labels = (
        numbers["label"] if config.model.num_classes or guided else np.full(work.batch_size, -1)
    )

    def run() -> None:
        generator.generate(weights, 0, labels, scales=[Scales(guidance=float(guided))])

    def check() -> Mapping[str, np.ndarray]:
        x, t = numbers["noise"], numbers["t"].astype(np.float32)
        found = {"output": jax.jit(network.apply)(weights, x, t, numbers["label"])}
        if guided:
            log_prob = class_log_prob(partial(classify.apply, classifier_weights), numbers["label"])
            found["gradient"] = jax.jit(guidance_gradient(log_prob, 1.0))(x, t)
        return {name: np.asarray(value) for name, value in found.items()}

    return Measured(run, check)


def _peak_bytes() -> int | None:
    statistics = jax.local_devices()[0].memory_stats()
    return statistics and statistics["peak_bytes_in_use"]
