"""The dry run: what it says is what a run takes, and it leaves nothing behind."""

import dataclasses
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ddpm_jax.commands import train
from ddpm_jax.config import command_line
from ddpm_jax.models import build_network, count_parameters
from ddpm_jax.runtime import devices
from ddpm_jax.training import dry_run
from ddpm_jax.training.state import TrainState, init_state, make_optimizer


def abstract_state(config) -> TrainState:
    network, optimizer = build_network(config), make_optimizer(config.train)
    return jax.eval_shape(lambda: init_state(network.init(jax.random.key(0)), optimizer, config))


@pytest.fixture
def tiny_config(tiny_options):
    return command_line.parse_train(tiny_options)[0]


def test_a_dry_run_says_what_the_run_needs_and_writes_nothing(
    tiny_options, tiny_config, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    # The data are not there, and not asked for.
    options = ["--dry-run", *tiny_options, "--data.name", "folder:nowhere"]
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    train.main()
    lines = capsys.readouterr().out.splitlines()
    assert not list(tmp_path.iterdir())
    names = [line.split("  ")[0] for line in lines]
    wanted = "model,a step,FLOPs,devices,state,parameters,averages,optimizer,state in all"
    assert names[1:] == [*wanted.split(","), "checkpoint", "memory"]
    said = dict(zip(names, lines, strict=True))
    parameters = count_parameters(build_network(tiny_config).abstract)
    assert f" {parameters:,} parameters" in said["model"]
    assert dry_run.si(4 * parameters, "B") in said["parameters"]
    assert "8 of kind cpu; mesh: data 8, fsdp 1" in said["devices"]
    # The state lies on each device, and more besides for a while.
    state, peak = (re.search(r"([\d.]+) kB", said[name]) for name in ("state in all", "memory"))
    assert float(peak[1]) > float(state[1]) > 16 * parameters / 1000


def test_a_dry_run_reads_the_data_to_count_its_classes_and_warns_of_tiny_images(
    tiny_options, tmp_path, monkeypatch, capsys, caplog
):
    for name in ("cat", "dog", "owl"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("L", (90, 60)).save(tmp_path / name / f"{i}.png")
    data = ["--data.name", f"folder:{tmp_path}", "--model.num-classes", "-1"]
    monkeypatch.setattr(sys, "argv", ["train.py", "--dry-run", *tiny_options, *data])
    monkeypatch.setattr(dry_run, "memory_line", lambda *_: "memory       not compiled here")
    train.main()
    three = command_line.parse_train([*tiny_options, "--model.num-classes", "3"])[0]
    parameters = count_parameters(build_network(three).abstract)
    assert f" {parameters:,} parameters" in capsys.readouterr().out
    (warning,) = caplog.messages
    assert warning.startswith("images of 90x60 become 8x8")


def test_the_table_is_of_the_bytes_that_lie_on_a_device(tiny_config, monkeypatch):
    monkeypatch.setattr(devices, "MIN_SHARDED_SIZE", 64)
    extra = dataclasses.replace(tiny_config.train, extra_ema_decays=(0.5,))
    config = dataclasses.replace(tiny_config, train=extra)
    abstract = abstract_state(config)
    mesh = devices.make_mesh(dataclasses.replace(config.parallel, data=2, fsdp=4), 8)
    sharding = devices.state_sharding(abstract, mesh)
    table = {
        line[:12].strip(): line[12:].split() for line in dry_run.state_table(abstract, sharding)
    }

    state = jax.tree.map(
        lambda leaf, place: jax.device_put(np.zeros(leaf.shape, leaf.dtype), place),
        abstract,
        sharding,
    )
    for name, part in {
        "parameters": state.params,
        "averages": (state.ema, state.extra_ema),
        "state in all": state,
    }.items():
        leaves = jax.tree.leaves(part)
        on_first = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
        split = sum(not leaf.is_fully_replicated for leaf in leaves)
        assert table[name][:2] == [str(len(leaves)), str(split)] and split
        total = dry_run.si(sum(leaf.nbytes for leaf in leaves), "B")
        assert " ".join(table[name][2:]) == f"{total} {dry_run.si(on_first, 'B')}"


@pytest.mark.slow  # traces two networks' steps, for half a minute
def test_accumulation_does_not_change_the_flops_of_an_image(tiny_config):
    abstract, network = abstract_state(tiny_config), build_network(tiny_config)
    line = dry_run.flops_line(tiny_config, network, abstract)
    four = dataclasses.replace(tiny_config.train, grad_accumulation_steps=4)
    accumulating = dataclasses.replace(tiny_config, train=four)
    assert dry_run.flops_line(accumulating, network, abstract) == line
    assert re.fullmatch(r"FLOPs +[\d.]+ [kM]FLOP an image in training, .* a step", line)


def test_ddpm_for_cifar_10_costs_12_gigaflops_an_evaluation():
    # 6.06 G multiplications, as published for this network; a FLOP count has two of each.
    root = Path(__file__).resolve().parents[2]
    config = command_line.load_config(root / "configs" / "cifar10.py")
    flops = dry_run.evaluation_flops(config, build_network(config))
    assert flops == pytest.approx(2 * 6.06e9, rel=0.05)


def test_sizes_are_written_with_their_prefix():
    assert [dry_run.si(v, "B") for v in (12, 1234, 1.5e9)] == ["12 B", "1.23 kB", "1.50 GB"]
