"""Betas, the tables that follow from them, and respacing, against the original code."""

import math

import pytest

from ddpm_jax.diffusion.schedules import alpha_bar_betas, make_schedule, named_betas
from ddpm_jax.diffusion.spacing import respace, space_timesteps
from tests.parity.cases import schedule_of
from tests.parity.golden import SPACE_TIMESTEPS, compared, groups, load, load_json

HO_NAMES = {"quad": "quadratic", "const": "constant"}
ALPHA_BAR = "alpha_bar_"


@pytest.mark.parametrize("case", groups("schedules.npz"))
def test_named_schedules_and_their_tables_are_the_originals(golden, case):
    file = golden("schedules.npz")
    if case.startswith(ALPHA_BAR):
        row = file.meta["alpha_bar"][case.removeprefix(ALPHA_BAR)]
        code = compile(row["expr"], case, "eval")
        betas = alpha_bar_betas(
            lambda t: eval(code, {"math": math, "t": t}), row["T"], row["max_beta"]
        )
    else:
        name, num_timesteps = case.rsplit("_", 1)
        betas = named_betas(name, int(num_timesteps))
    file.check(f"out/{case}/betas", betas)
    if case in file.meta["raises"]:
        with pytest.raises(ValueError, match="betas must be in"):
            make_schedule(betas)
    for key in file.keys(f"out/{case}/"):
        table = key.rsplit("/", 1)[1]
        if table != "betas":
            file.check(key, getattr(make_schedule(betas), table))


@pytest.mark.parametrize("case", groups("ho_schedules.npz"))
def test_schedules_of_ho_et_al_are_the_originals(golden, case):
    file = golden("ho_schedules.npz")
    name, num_timesteps = case.rsplit("_", 1)
    start, end = file.meta["beta_start"], file.meta["beta_end"]
    betas = named_betas(HO_NAMES.get(name, name), int(num_timesteps), start, end)
    file.check(f"out/{case}/betas", betas)


@pytest.mark.parametrize("case", load("spaced.npz").meta["cases"], ids=lambda case: case["key"])
def test_tables_of_respaced_chains_are_the_originals(golden, case):
    file = golden("spaced.npz")
    schedule = schedule_of(case)
    for key in file.keys(f"out/{case['key']}/"):
        file.check(key, getattr(schedule, key.rsplit("/", 1)[1]))


@pytest.mark.parametrize("spec", load("spaced.npz").meta["construct_errors_for_spec"])
def test_respacings_that_crash_the_original_are_value_errors(golden, spec):
    for case in golden("spaced.npz").meta["cases"]:
        full = schedule_of({**case, "respacing": None})
        with pytest.raises(ValueError, match="at least 2 timesteps"):
            respace(full, spec)


@pytest.mark.parametrize("index", range(len(load_json(SPACE_TIMESTEPS))))
def test_kept_timesteps_and_error_messages_are_the_originals(index):
    entry = load_json(SPACE_TIMESTEPS)[index]
    compared[SPACE_TIMESTEPS].add(str(index))
    if "error" in entry:
        with pytest.raises(ValueError) as error:
            space_timesteps(entry["T"], entry["spec"])
        assert str(error.value) == entry["message"]
    else:
        assert space_timesteps(entry["T"], entry["spec"]) == entry["steps"]
