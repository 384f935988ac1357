"""Checkpoints: what is saved comes back, on any mesh."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax.checkpoint import v1 as ocp

from ddpm_jax.config import ParallelConfig
from ddpm_jax.errors import UserError
from ddpm_jax.runs.checkpoints import (
    TRAINED,
    Checkpoints,
    ema_item,
    load_ema,
    save_imported,
)
from ddpm_jax.runs.checksums import CHECKSUMS
from ddpm_jax.runs.saved_steps import only_imported
from ddpm_jax.runtime import devices, signals
from tests.sampling.test_loop import compilations
from tests.slow import slow_but


class State(NamedTuple):
    step: jax.Array
    params: dict
    ema: dict
    opt_state: Any
    extra_ema: dict


def make_state(scale: float = 1.0) -> State:
    params = {"a.kernel": scale * jnp.arange(64.0).reshape(8, 8), "a.bias": scale * jnp.ones(3)}
    ema = jax.tree.map(lambda p: 0.5 * p, params)
    extra = {"0.9": jax.tree.map(lambda p: 0.9 * p, params)}
    return State(jnp.asarray(7, jnp.int32), params, ema, optax.adam(1e-3).init(params), extra)


def on_mesh(data: int, fsdp: int) -> tuple[State, State]:
    """A state laid out on data x fsdp devices, and what a restore there needs to know."""
    mesh = devices.make_mesh(ParallelConfig(data=data, fsdp=fsdp), 8)
    state = make_state()
    sharding = devices.state_sharding(state, mesh)
    return jax.device_put(state, sharding), devices.abstract_on(state, sharding)


@pytest.mark.parametrize(("data", "fsdp"), [(1, 1), (2, 1), (2, 4), (1, 8)])
def test_a_state_split_over_four_devices_comes_back_on_others(tmp_path, monkeypatch, data, fsdp):
    monkeypatch.setattr(devices, "MIN_SHARDED_SIZE", 8)
    state, _ = on_mesh(2, 4)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(7, state, '{"a": 1}')
    expected, abstract = on_mesh(data, fsdp)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        restored = checkpoints.restore(abstract)
    jax.tree.map(np.testing.assert_array_equal, restored, expected)
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    assert restored.params["a.kernel"].sharding == expected.params["a.kernel"].sharding
    loaded = load_ema(tmp_path, abstract.ema)
    assert loaded.step == 7
    jax.tree.map(np.testing.assert_array_equal, loaded.items["ema"], expected.ema)


@pytest.mark.parametrize(("columns", "split"), [(31, False), (2**18, True)])
def test_devices_share_the_copying_of_large_arrays_alone(tmp_path, columns, split):
    """Of an array that all eight hold, a part of 1 MiB is worth a program that cuts it out."""
    mesh = devices.make_mesh(ParallelConfig(data=8), 8)
    weights = {"a.kernel": np.arange(8.0 * columns, dtype=np.float32).reshape(8, -1)}
    state = make_state()._replace(params={}, ema=weights, opt_state=(), extra_ema={})
    sharding = devices.state_sharding(state, mesh)
    placed = jax.device_put(state, sharding)
    with Checkpoints(tmp_path, keep=1) as checkpoints, compilations() as compiled:
        checkpoints.save(1, placed, '{"a": 1}')
    assert bool(compiled) == split
    loaded = load_ema(tmp_path, devices.abstract_on(state, sharding).ema)
    np.testing.assert_array_equal(loaded.items["ema"]["a.kernel"], weights["a.kernel"])


def test_the_newest_ones_are_kept_and_the_state_may_be_donated_at_once(tmp_path):
    advance = jax.jit(lambda s: jax.tree.map(lambda leaf: leaf + 1, s), donate_argnums=0)
    state, abstract = on_mesh(1, 1)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state, '{"a": 1}')
            state = advance(state)
        checkpoints.wait()
        restored = checkpoints.restore(abstract)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]
    np.testing.assert_array_equal(restored.params["a.bias"], np.full(3, 3.0))


def test_no_checkpoint_is_none_for_training_and_an_error_for_sampling(tmp_path):
    _, abstract = on_mesh(1, 1)
    with Checkpoints(tmp_path / "new", keep=2) as checkpoints:
        assert checkpoints.restore(abstract) is None
    with pytest.raises(UserError, match="holds no checkpoint"):
        load_ema(tmp_path / "new", abstract.ema)


def test_imported_weights_are_no_state_and_start_a_training_on_any_mesh(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "MIN_SHARDED_SIZE", 8)
    expected, abstract = on_mesh(2, 4)
    save_imported(tmp_path, make_state().ema, '{"a": 1}')
    assert only_imported(tmp_path)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.restore(abstract) is None
        weights = checkpoints.restore_imported(abstract.params)
    jax.tree.map(np.testing.assert_array_equal, weights, expected.ema)
    assert weights["a.kernel"].sharding == expected.params["a.kernel"].sharding
    assert load_ema(tmp_path, abstract.ema).step == 0


def test_what_was_trained_goes_before_imported_weights_and_outlives_them(tmp_path):
    state, abstract = on_mesh(1, 1)
    save_imported(tmp_path, make_state(5.0).ema, '{"a": 1}')
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, state, '{"a": 1}')
        checkpoints.wait()
        assert not only_imported(tmp_path)
        restored = checkpoints.restore(abstract)
        jax.tree.map(np.testing.assert_array_equal, restored, state)
        checkpoints.save(2, state, '{"a": 1}')
        checkpoints.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_damaged_training_does_not_start_over_from_imported_weights(tmp_path):
    state, abstract = on_mesh(1, 1)
    save_imported(tmp_path, state.ema, '{"a": 1}')
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, state, '{"a": 1}')
        checkpoints.wait()
        shutil.rmtree(tmp_path / "1" / "state")
        with pytest.raises(UserError, match=r"none of the 1 checkpoints in .* can be read"):
            checkpoints.restore(abstract)


def test_imported_weights_of_another_model_are_named(tmp_path):
    save_imported(tmp_path, {"a.kernel": jnp.ones((2, 2))}, '{"a": 1}')
    _, abstract = on_mesh(1, 1)
    with (
        Checkpoints(tmp_path, keep=2) as checkpoints,
        pytest.raises(
            UserError, match=r"0 is of another model: a.bias is missing, expected \(3,\)"
        ),
    ):
        checkpoints.restore_imported(abstract.params)


def test_without_imported_weights_there_are_none(tmp_path):
    state, abstract = on_mesh(1, 1)
    assert not only_imported(tmp_path / "nowhere")
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.restore_imported(abstract.params) is None
        checkpoints.save(1, state, '{"a": 1}')
        checkpoints.wait()
        assert checkpoints.restore_imported(abstract.params) is None


def test_the_checkpoint_of_the_lowest_loss_is_kept_and_drawn_from_and_the_newest_resumed(tmp_path):
    state, abstract = on_mesh(1, 1)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step, loss in ((1, 0.9), (2, 0.5), (3, None), (4, None)):
            new = state._replace(step=state.step * 0 + step)
            checkpoints.save(step, new, '{"a": 1}', loss)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4"]
    assert load_ema(tmp_path, abstract.ema).step == 2
    assert load_ema(tmp_path, abstract.ema, step=4).step == 4
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.restore(abstract).step == 4
        checkpoints.save(5, state, '{"a": 1}', 0.4)
    assert load_ema(tmp_path, abstract.ema).step == 5
    shutil.rmtree(tmp_path / "5" / "ema")
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(6, state, '{"a": 1}')
    assert load_ema(tmp_path, abstract.ema).step == 6  # the best cannot be read


def test_each_average_and_the_trained_weights_are_loaded_without_the_others(tmp_path):
    state, abstract = on_mesh(1, 1)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(7, state, '{"a": 1}')
    places = {
        "ema": state.ema,
        ema_item(0.9): state.extra_ema["0.9"],
        TRAINED: state.params,
    }
    for name, wanted in places.items():
        item = "state" if name == TRAINED else name
        alone = tmp_path / "alone" / name
        shutil.copytree(tmp_path / "7", alone / "7")
        for other in ("state", "ema", "ema_0.9"):
            if other != item:
                shutil.rmtree(alone / "7" / other)
        loaded = load_ema(alone, abstract.ema, weights_item=name)
        jax.tree.map(np.testing.assert_array_equal, loaded.items["ema"], wanted)
    other = {"a.bias": abstract.ema["a.bias"]}
    with pytest.raises(UserError, match=r"7 is of another model: a.kernel is \(8, 8\), expected n"):
        load_ema(tmp_path, other, weights_item=TRAINED)


class Former(NamedTuple):
    """A state before there were further averages."""

    step: jax.Array
    params: dict
    ema: dict
    opt_state: Any


def test_a_checkpoint_from_before_further_averages_is_resumed(tmp_path):
    state, abstract = on_mesh(1, 1)
    former = Former(*state[:4])
    items = {"state": former._replace(ema={}), "ema": former.ema, "config": {"a": 1}}
    ocp.save_checkpointables(tmp_path / "7", items)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        restored = checkpoints.restore(abstract._replace(extra_ema={}))
    jax.tree.map(np.testing.assert_array_equal, restored, state._replace(extra_ema={}))


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


# On every run: what is the hardest to see.
@pytest.mark.parametrize("damage", slow_but([flip_a_bit], [truncate, Path.unlink, flip_a_bit]))
def test_no_damage_to_any_file_gives_other_values(tmp_path, caplog, damage: Callable[[Path], None]):
    old, abstract = on_mesh(1, 1)
    new = jax.tree.map(lambda leaf: leaf + 1, old)
    with Checkpoints(tmp_path / "whole", keep=2) as checkpoints:
        checkpoints.save(1, old, '{"a": 1}')
        checkpoints.save(2, new, '{"a": 1}')
    files = [p.relative_to(tmp_path) for p in tmp_path.glob("whole/2/**/*") if p.is_file()]
    assert len(files) > 20
    used = {1: 0, 2: 0}
    for file in files:
        shutil.copytree(tmp_path / "whole", tmp_path / "copy")
        damage(tmp_path / "copy" / file.relative_to("whole"))
        caplog.clear()
        with Checkpoints(tmp_path / "copy", keep=2) as checkpoints:
            restored = checkpoints.restore(abstract)
        step = int(restored.step) - 6
        jax.tree.map(np.testing.assert_array_equal, restored, {1: old, 2: new}[step])
        ours = [r for r in caplog.records if r.name == "ddpm_jax"]  # scripts silence the others
        assert len(ours) == (1 if step == 1 else 0)
        used[step] += 1
        shutil.rmtree(tmp_path / "copy")
    # Nothing reads the item "config" here; without checksums a checkpoint is as good as before.
    assert used[2] <= 8 and used[1] >= 15


def test_a_flipped_bit_in_the_averaged_weights_is_seen_by_sampling(tmp_path, caplog):
    state, abstract = on_mesh(1, 1)
    save_imported(tmp_path, state.ema, '{"a": 1}')
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, state, '{"a": 1}')
    flip_a_bit(next(tmp_path.glob("1/ema/ocdbt.process_0/d/*")))
    assert load_ema(tmp_path, abstract.ema).step == 0
    (message,) = caplog.messages
    assert "1 cannot be read (ema/ocdbt.process_0/d/" in message and "is damaged): 0 is" in message
    flip_a_bit(next(tmp_path.glob("0/ema/ocdbt.process_0/d/*")))
    with pytest.raises(UserError, match=r"none of the 2 checkpoints"):
        load_ema(tmp_path, abstract.ema)


def test_a_checkpoint_that_was_not_sealed_yet_is_used(tmp_path):
    state, abstract = on_mesh(1, 1)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, state, '{"a": 1}')
    (tmp_path / "1" / CHECKSUMS).unlink()
    assert load_ema(tmp_path, abstract.ema).step == 1


@pytest.mark.parametrize("name", ["metadata", "load_checkpointables"])
def test_a_signal_amid_a_restore_is_no_damage(tmp_path, monkeypatch, caplog, name):
    """Orbax makes an error of its own of whatever is raised in it."""
    state, abstract = on_mesh(1, 1)
    load = getattr(ocp, name)

    def signalled(*args: Any) -> Any:
        try:
            if not signals._received:  # a second one ends the process
                os.kill(os.getpid(), signal.SIGTERM)
            return load(*args)
        except BaseException as error:
            raise ValueError("incompatible handler") from error

    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(7, state, '{"a": 1}')
        checkpoints.wait()
        monkeypatch.setattr(ocp, name, signalled)
        with signals.listening(), pytest.raises(signals.Interrupted, match="SIGTERM"):
            checkpoints.restore(abstract)
    assert not caplog.records
