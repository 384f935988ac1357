"""The whole chain: what it samples from, and what each sample depends on."""

from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddpm_jax.diffusion.process import Diffusion, model_timesteps
from ddpm_jax.diffusion.schedules import make_schedule, named_betas
from ddpm_jax.diffusion.spacing import respace
from ddpm_jax.sampling.kept_steps import evenly_kept
from ddpm_jax.sampling.loop import ChainOptions, make_sampling_loop
from ddpm_jax.sampling.noise import sample_keys
from ddpm_jax.sampling.resampling import Resampling, chain_moves
from ddpm_jax.sampling.sampler import Sampler, Step
from ddpm_jax.sampling.samplers import SAMPLERS
from tests.sampling.steps import alpha_bar_at, one_reverse_ddim_step, one_step

FULL = make_schedule(named_betas("linear", 1000))
SHORT = make_schedule(named_betas("cosine", 24))
SHAPE = (4, 4, 2)
PARAMS = {"scale": jnp.float32(0.7)}
CHAINS = {  # variance, sampler, eta
    "ancestral_small": ("fixed_small", "ddpm", 0.0),
    "ancestral_large": ("fixed_large", "ddpm", 0.0),
    "ddim_0": ("fixed_small", "ddim", 0.0),
    "ddim_half": ("fixed_small", "ddim", 0.5),
    "ddim_1": ("fixed_small", "ddim", 1.0),
}

MEAN = np.array([0.6, -0.4])
COVARIANCE = np.array([[0.5, 0.3], [0.3, 0.4]])


def gaussian_eps(x, t):
    """E[eps | x_t] on the full chain when x_0 ~ N(MEAN, COVARIANCE): x, float32 [B, 2]."""
    eigenvalues, basis = np.linalg.eigh(COVARIANCE)
    alpha_bar = alpha_bar_at(FULL, t)[:, None]
    centred = (x - jnp.sqrt(alpha_bar) * MEAN) @ basis
    whitened = centred / (alpha_bar * eigenvalues + 1 - alpha_bar)
    return jnp.sqrt(1 - alpha_bar) * whitened @ basis.T


@pytest.mark.parametrize("chain", CHAINS)
def test_gaussian_data_is_sampled_back_to_its_mean_and_covariance(chain):
    # Within 4 standard errors; shorter chains are in test_solvers.py.
    variance, sampler, eta = CHAINS[chain]
    count = 4096
    run = make_sampling_loop(
        Diffusion(FULL, "eps", variance),
        SAMPLERS[sampler],
        lambda params, x, t, labels: gaussian_eps(x, t),
        (2,),
        ChainOptions(eta, clip=False),
    )
    x = np.asarray(run({}, 0, jnp.arange(count), jnp.full(count, -1)).x, np.float64)
    variances = np.diag(COVARIANCE)
    assert np.all(np.abs(x.mean(axis=0) - MEAN) < 4 * np.sqrt(variances / count))
    error = 4 * np.sqrt((np.outer(variances, variances) + COVARIANCE**2) / count)
    assert np.all(np.abs(np.cov(x.T) - COVARIANCE) < error)


def test_ddim_decodes_what_reverse_ddim_encodes():
    @partial(jax.jit, static_argnums=0)
    def there_and_back(length, x):
        diffusion = Diffusion(respace(FULL, str(length)))

        def up(x, t):
            t = jnp.full(len(x), t)
            return one_reverse_ddim_step(diffusion, gaussian_eps, x, t, clip=False).sample, None

        def down(x, t):
            t = jnp.full(len(x), t)
            step = one_step("ddim", diffusion, gaussian_eps, x, t, 0 * x, clip=False)
            return step.sample, None

        code, _ = jax.lax.scan(up, x, jnp.arange(length - 1))
        return jax.lax.scan(down, code, jnp.arange(1, length), reverse=True)[0]

    x = jax.random.multivariate_normal(jax.random.key(0), MEAN, COVARIANCE, (64,))
    coarse, fine = (np.abs(there_and_back(length, x) - x).max() for length in (100, 1000))
    assert fine < 0.01
    assert fine < coarse / 5


def cheap_model(params, x, t, labels):
    """Cheap, and different at every x, t and label."""
    shift = (t / 10 + labels)[:, None, None, None]
    return params["scale"] * jnp.abs(x + shift) / (1 + jnp.abs(x))


def short_sampler(**options):
    chain = ChainOptions(**options)
    return make_sampling_loop(Diffusion(SHORT), SAMPLERS["ddpm"], cheap_model, SHAPE, chain)


@pytest.fixture(scope="module")
def run():
    return short_sampler()


@contextmanager
def compilations():
    """A list that grows by one name with each compilation."""
    names = []

    def listen(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            names.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_a_sample_depends_on_seed_index_and_label_alone(run):
    index, labels = np.arange(64), np.arange(64) % 5 - 1
    whole = run(PARAMS, 3, index, labels).x
    order = np.random.default_rng(0).permutation(64)
    np.testing.assert_array_equal(run(PARAMS, 3, index[order], labels[order]).x, whole[order])
    for size in (1, 7):
        for start in (0, 40):
            part = slice(start, start + size)
            np.testing.assert_array_equal(run(PARAMS, 3, index[part], labels[part]).x, whole[part])


def test_seed_index_and_label_each_change_a_sample(run):
    index, labels = np.arange(4), np.zeros(4, int)
    base = run(PARAMS, 0, index, labels).x
    for other in (
        run(PARAMS, 1, index, labels).x,
        run(PARAMS, 0, index + 4, labels).x,
        run(PARAMS, 0, index, labels + 1).x,
        run({"scale": jnp.float32(0.8)}, 0, index, labels).x,
    ):
        assert np.all(np.abs(base - other).max(axis=(1, 2, 3)) > 1e-3)


def test_samples_with_different_indices_are_uncorrelated(run):
    x = short_sampler(keep=[23])(PARAMS, 0, np.arange(512), np.zeros(512, int)).kept_x[0]
    flat = np.asarray(x).reshape(512, -1)
    assert abs((flat[1:] * flat[:-1]).mean()) < 4 / np.sqrt(511 * flat.shape[1])
    assert flat.var() == pytest.approx(1, abs=0.05)


def test_a_condition_is_any_tree_of_arrays():
    def conditioned(params, x, t, condition):
        return cheap_model(params, x + condition["image"], t, condition["label"])

    run = make_sampling_loop(Diffusion(SHORT), SAMPLERS["ddpm"], conditioned, SHAPE)
    index, condition = np.arange(8), {"label": np.arange(8) % 3, "image": np.zeros((8, *SHAPE))}
    plain = run(PARAMS, 0, index, condition).x
    np.testing.assert_array_equal(plain, short_sampler()(PARAMS, 0, index, condition["label"]).x)
    condition["image"][5] = 0.3
    changed = np.abs(run(PARAMS, 0, index, condition).x - plain).max(axis=(1, 2, 3))
    assert changed[5] > 1e-2 and np.delete(changed, 5).max() == 0


def test_streams_of_a_seed_are_independent():
    def noise(shape, stream):
        keys = sample_keys(0, np.arange(256), stream)
        return jax.vmap(lambda key: jax.random.normal(key, shape))(keys).reshape(256, -1)[:, :32]

    small, same, other = noise(SHAPE, 0), noise((8, 8, 2), 0), noise((8, 8, 2), 4)
    # Noise of a small image is what noise of a larger one begins with: the reason for streams.
    np.testing.assert_array_equal(small, same)
    assert abs((small * other).mean()) < 4 / np.sqrt(small.size)


def test_another_stream_draws_other_samples(run):
    args = PARAMS, 0, np.arange(4), np.zeros(4, int)
    difference = np.abs(run(*args).x - short_sampler(stream=4)(*args).x)
    assert np.all(difference.max(axis=(1, 2, 3)) > 1e-3)


def test_every_number_of_devices_gives_the_same_samples():
    run = short_sampler(keep=[23])
    index, labels = np.arange(16), np.arange(16) % 3
    alone = run(PARAMS, 5, index, labels)
    for count in (1, 2, 8):
        mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
        sharding = NamedSharding(mesh, PartitionSpec("data"))
        params = jax.device_put(PARAMS, NamedSharding(mesh, PartitionSpec()))
        shared = run(params, 5, *jax.device_put((index, labels), sharding))
        assert len(shared.x.sharding.device_set) == count
        np.testing.assert_array_equal(shared.kept_x, alone.kept_x)
        np.testing.assert_allclose(shared.x, alone.x, atol=1e-5)


def test_another_seed_and_other_labels_compile_nothing():
    run = short_sampler()
    index = np.arange(6)
    with compilations() as first:
        run(PARAMS, 0, index, np.full(6, -1))
        run(PARAMS, 0, index, np.full(6, -1), on_progress=lambda n: None)
    with compilations() as later:
        run({"scale": jnp.float32(0.1)}, 1, index + 9, np.arange(6))
        run(PARAMS, 2, index, np.full(6, 3), on_progress=lambda n: None)
    assert first and not later


def test_progress_adds_up_and_changes_nothing():
    for num_timesteps in (24, 130):
        diffusion = Diffusion(make_schedule(named_betas("cosine", num_timesteps)))
        run = make_sampling_loop(diffusion, SAMPLERS["ddpm"], cheap_model, SHAPE)
        args = PARAMS, 0, np.arange(3), np.zeros(3, int)
        steps = []
        reported = run(*args, on_progress=steps.append)
        assert sum(steps) == num_timesteps and min(steps) > 0 and len(steps) <= 50
        np.testing.assert_array_equal(reported.x, run(*args).x)


@pytest.mark.parametrize("keep", [[23, 12, 0], [0, 23, 5], [7], list(range(24))])
def test_kept_states_are_those_of_the_steps_in_the_order_asked(keep):
    index, labels = np.arange(3), np.arange(3)
    got = short_sampler(keep=keep)(PARAMS, 2, index, labels)

    # The same chain as a Python loop.
    keys = sample_keys(2, index)
    draw = jax.vmap(lambda key, t: jax.random.normal(jax.random.fold_in(key, t), SHAPE), (0, None))
    x, states = draw(keys, 24), {}
    for t in reversed(range(24)):
        step = one_step(
            "ddpm",
            Diffusion(SHORT),
            lambda x, model_t: cheap_model(PARAMS, x, model_t, labels),
            x,
            jnp.full(3, t),
            draw(keys, t),
        )
        states[t] = x, step.pred_xstart
        x = step.sample
    np.testing.assert_allclose(got.x, x, atol=1e-5)
    for i, t in enumerate(keep):
        np.testing.assert_allclose(got.kept_x[i], states[t][0], atol=1e-5)
        np.testing.assert_allclose(got.kept_xstart[i], states[t][1], atol=1e-4)


@pytest.mark.parametrize("resampling", [None, Resampling(2, 6)])
def test_a_watched_chain_shows_what_it_keeps_and_draws_the_same(resampling):
    keep = [23, 12, 9, 0]
    run = short_sampler(keep=keep, resampling=resampling)
    args, seen = (PARAMS, 2, np.arange(3), np.arange(3)), []
    watched = run(*args, on_moment=lambda *moment: seen.append(moment))
    np.testing.assert_array_equal(watched.x, run(*args).x)
    # With jumps the chain comes to 12 and to 9 again, and the last visit is what is kept.
    order = [keep.index(t) for t in chain_moves(24, resampling) if t in keep]
    assert [k for k, _, _ in seen] == order and len(order) == (4 if resampling is None else 6)
    for k, x_t, pred_xstart in dict(zip(order, seen, strict=True)).values():
        np.testing.assert_array_equal(x_t, watched.kept_x[k])
        np.testing.assert_array_equal(pred_xstart, watched.kept_xstart[k])


def test_watching_a_chain_compiles_nothing_twice_and_an_exception_ends_it():
    run, seen = short_sampler(keep=[23, 20, 0]), []

    def stop_at_the_second(k, x_t, pred_xstart):
        seen.append(k)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(PARAMS, 0, np.arange(3), np.arange(3), on_moment=stop_at_the_second)
    assert seen == [0, 1]
    with compilations() as later:
        run(PARAMS, 1, np.arange(3), np.arange(3), on_moment=lambda *moment: None)
    assert not later


def test_keeping_states_does_not_change_the_samples(run):
    args = PARAMS, 0, np.arange(3), np.zeros(3, int)
    bare = run(*args)
    assert bare.kept_x.shape == bare.kept_xstart.shape == (0, 3, *SHAPE)
    np.testing.assert_allclose(short_sampler(keep=[4, 2])(*args).x, bare.x, atol=1e-6)


def test_the_model_gets_the_timesteps_of_its_training_chain():
    seen = []

    def spy(params, x, t, labels):
        jax.debug.callback(lambda t: seen.append(t[0].item()), t, ordered=True)
        return 0 * x

    schedule = respace(FULL, "10")
    run = make_sampling_loop(Diffusion(schedule), SAMPLERS["ddpm"], spy, SHAPE)
    run(PARAMS, 0, np.arange(2), np.zeros(2, int)).x.block_until_ready()
    jax.effects_barrier()
    assert seen == list(model_timesteps(schedule, jnp.arange(10)[::-1]))


@pytest.mark.parametrize("count", [1, 2, 8, 24, 30])
def test_evenly_kept_steps_are_spread_from_the_last_to_the_first(count):
    kept = evenly_kept(24, count)
    assert kept[0] == 23 and len(kept) == min(count, 24)
    assert kept == sorted(set(kept), reverse=True)
    if count > 1:
        gaps = -np.diff(kept)
        assert kept[-1] == 0 and gaps.max() - gaps.min() <= 1


def test_a_chain_that_starts_in_its_middle_goes_on_as_the_whole_one():
    index, labels = np.arange(4), np.arange(4)
    run = short_sampler(keep=[13])
    whole = run(PARAMS, 1, index, labels)
    rest = run(PARAMS, 1, index, labels, x_init=whole.kept_x[0], t_start=13)
    np.testing.assert_array_equal(rest.x, whole.x)
    np.testing.assert_array_equal(rest.kept_xstart, whole.kept_xstart)
    np.testing.assert_array_equal(  # x_init is not donated
        run(PARAMS, 1, index, labels, lambda n: None, whole.kept_x[0], 13).x, whole.x
    )


def test_where_a_chain_starts_compiles_nothing():
    run, index, x = short_sampler(), np.arange(5), np.ones((5, *SHAPE), np.float32)
    with compilations() as first:
        run(PARAMS, 0, index, index, None, x, 20)
    with compilations() as later:
        run(PARAMS, 0, index, index, None, 2 * x, 3)
    assert first and not later


@pytest.mark.parametrize("t_start", [-1, 24])
def test_a_chain_cannot_start_outside_itself(run, t_start):
    with pytest.raises(ValueError, match=rf"t_start {t_start}: must be in 0\.\.23"):
        run(PARAMS, 0, np.arange(2), np.arange(2), t_start=t_start)


def test_known_pixels_stay_and_the_others_follow_them():
    # A Gaussian in two dimensions whose first is known: the second has its conditional mean.
    known = 0.9

    def keep_known(x, t, noise, condition):
        alpha_bar = jnp.where(t < 0, 1.0, jnp.asarray(FULL.alphas_cumprod, jnp.float32)[t])
        noisy = jnp.sqrt(alpha_bar) * known + jnp.sqrt(1 - alpha_bar) * noise[:, 0]
        return x.at[:, 0].set(noisy)

    count = 2048
    loop = make_sampling_loop(
        Diffusion(FULL),
        SAMPLERS["ddpm"],
        lambda params, x, t, labels: gaussian_eps(x, t),
        (2,),
        ChainOptions(clip=False),
        constraint=keep_known,
    )
    x = np.asarray(loop({}, 0, np.arange(count), np.zeros(count, int)).x)
    np.testing.assert_array_equal(x[:, 0], np.float32(known))
    expected = MEAN[1] + COVARIANCE[0, 1] / COVARIANCE[0, 0] * (known - MEAN[0])
    # Replacement knows less than the posterior (Lugmayr et al. 2022): it moves most of the way.
    assert abs(x[:, 1].mean() - expected) < 0.5 * abs(MEAN[1] - expected)
    again = loop({}, 0, np.arange(7), np.zeros(7, int)).x
    np.testing.assert_allclose(again, x[:7], atol=1e-5)


def test_a_sampler_remembers_what_its_memory_holds():
    # Its x is the mean of all x_0 that it has predicted: a memory of a sum and a count.
    def mean_of_all(diffusion, denoise, x_t, t, noise, memory, eta):
        pred_xstart = denoise(x_t, t).pred_xstart
        total, count = memory[0] + pred_xstart, memory[1] + 1
        return Step(total / count, pred_xstart), (total, count)

    averaging = Sampler(mean_of_all, "of a test", init=lambda x: (jnp.zeros_like(x), 0))
    keep = list(range(24))
    loop = make_sampling_loop(
        Diffusion(SHORT), averaging, cheap_model, SHAPE, ChainOptions(keep=keep)
    )
    for on_progress in (None, lambda n: None):  # in slices too
        out = loop(PARAMS, 0, np.arange(3), np.arange(3), on_progress)
        np.testing.assert_allclose(out.x, out.kept_xstart.mean(axis=0), atol=1e-5)
