"""Costs read off the text of a program compiled for a TPU."""

from collections import Counter

from ddpm_jax.runtime.compiled_cost import kind_of, program_cost

# Cut from libtpu's output: a loop of five trips around a product and a norm, then a branch, a
# collective, a custom call and a generator of the hardware.
PROGRAM = """HloModule jit_f, is_scheduled=true

%fused_product (p.0: bf16[128,64]) -> bf16[128,64] {
  %p.0 = bf16[128,64]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %convolution.1 = bf16[128,64]{1,0} convolution(%p.0, %p.0), dim_labels=bf_io->bf
}

%fused_norm (p.1: f32[8]) -> f32[8] {
  %p.1 = f32[8]{0} parameter(0)
  ROOT %add.1 = f32[8]{0} add(%p.1, %p.1)
}

%body (arg.1: (s32[], bf16[128,64])) -> (s32[], bf16[128,64]) {
  %arg.1 = (s32[]{:T(128)}, bf16[128,64]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %fusion.1 = bf16[128,64]{1,0:T(8,128)(2,1)} fusion(%arg.1), kind=kOutput, \
calls=%fused_product, metadata={op_name="jit(f)/while/body/dot_general"}, \
backend_config={"window_config":{"estimated_cycles":"1000"}}
  %fusion.2 = f32[8]{0} fusion(%arg.1), kind=kLoop, calls=%fused_norm, \
metadata={op_name="jit(f)/while/body/group_norm/reduce_sum"}, \
backend_config={"window_config":{"estimated_cycles":"30"}}
  ROOT %tuple.1 = (s32[]{:T(128)}, bf16[128,64]{1,0}) tuple(%arg.1, %fusion.1)
}

%condition (arg.2: (s32[], bf16[128,64])) -> pred[] {
  %arg.2 = (s32[]{:T(128)}, bf16[128,64]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%arg.2), index=0
  %five = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[]{:T(512)} compare(%i, %five), direction=LT
}

%cheap (arg.3: f32[8]) -> f32[8] {
  ROOT %a = f32[8]{0} negate(%arg.3), backend_config={"window_config":{"estimated_cycles":"1"}}
}

%dear (arg.4: f32[8]) -> f32[8] {
  ROOT %b = f32[8]{0} negate(%arg.4), metadata={op_name="jit(f)/attention/neg"}, \
backend_config={"window_config":{"estimated_cycles":"7"}}
}

ENTRY %main (x: bf16[128,64]) -> f32[8] {
  %x = bf16[128,64]{1,0:T(8,128)(2,1)} parameter(0)
  %while.1 = (s32[]{:T(128)}, bf16[128,64]{1,0}) while(%x), condition=%condition, body=%body
  %conditional.1 = f32[8]{0} conditional(%x, %x, %x), branch_computations={%cheap, %dear}
  %gather = (f32[64]{0}, f32[256]{0}) all-gather-start(%x), dimensions={0}
  %all-reduce.1 = (f32[100]{0}, bf16[50]{0}) all-reduce(%x, %x), to_apply=%cheap
  %call.1 = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call"
  %free = f32[8]{0} custom-call(%x), custom_call_target="ConcatBitcast"
  ROOT %bits = u32[8]{0} rng-bit-generator(%x), algorithm=rng_default
}
""".replace("\\\n", "")


class Compiled:
    def __init__(self, text: str):
        self._text = text

    def as_text(self) -> str:
        return self._text


def test_cycles_count_loops_by_their_trips_and_of_branches_the_dearer():
    cost = program_cost(Compiled(PROGRAM))
    assert cost.cycles == Counter({"convolution": 5 * 1000, "norm": 5 * 30, "attention": 7})
    assert cost.total_cycles == 5 * 1030 + 7


def test_a_loop_of_unknown_length_counts_once_and_is_named():
    cost = program_cost(Compiled(PROGRAM.replace("direction=LT", "direction=NE")))
    assert cost.cycles["convolution"] == 1000
    assert cost.uncounted["loop of unknown length"] == 1


def test_an_instruction_without_an_estimate_is_named_as_often_as_it_runs():
    endless = PROGRAM.replace('"estimated_cycles":"30"', f'"estimated_cycles":"{2**63 - 1}"')
    cost = program_cost(Compiled(endless))
    assert cost.total_cycles == 5 * 1000 + 7
    assert cost.uncounted["fusion without an estimate"] == 5


def test_collectives_count_their_bytes_and_what_has_no_price_is_named():
    cost = program_cost(Compiled(PROGRAM))
    assert cost.collectives == {"all-gather": 4 * 256, "all-reduce": 4 * 100 + 2 * 50}
    assert cost.uncounted == {"tpu_custom_call": 1, "rng-bit-generator": 1}


def test_kinds_are_read_off_the_place_in_the_program():
    names = {
        "jit(step)/transpose(jvp(group_norm))/reduce_sum": "norm",
        "jit(step)/jvp(attention)/group_norm/mul": "attention",
        "jit(step)/jvp(dropout)/threefry2x32": "random bits",
        "jit(step)/optimizer/mul": "optimizer",
        "jit(step)/add": "other",
    }
    assert {name: kind_of(name) for name in names} == names
