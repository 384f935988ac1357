"""The peak speed of devices, by the makers' data sheets."""

# (part of `device_kind`, FLOP/s in bfloat16, FLOP/s in float32): the peak of one device without
# sparsity, from the makers' data sheets. float32 is multiplied as JAX does by default: in TF32 on
# NVIDIA's devices, rounded to bfloat16 on TPUs. A device is a chip; half a chip of TPU v2 and v3.
PEAKS = (
    ("B200", 2250e12, 1125e12),
    ("H200", 989e12, 494e12),
    ("H100 PCIe", 756e12, 378e12),
    ("H100", 989e12, 494e12),
    ("A100", 312e12, 156e12),
    ("L40S", 362e12, 183e12),
    ("L4", 121e12, 60e12),
    ("RTX 4090", 165e12, 82.6e12),
    ("RTX 3090", 71e12, 35.6e12),
    ("TPU v6", 918e12, 918e12),
    ("TPU v5 lite", 197e12, 197e12),
    ("TPU v5e", 197e12, 197e12),
    ("TPU v5", 459e12, 459e12),
    ("TPU v4", 275e12, 275e12),
    ("TPU v3", 61.5e12, 61.5e12),
    ("TPU v2", 22.5e12, 22.5e12),
)


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """The peak FLOP/s of a device in "bfloat16" or "float32"; None if that is not known."""
    for part, bfloat16, float32 in PEAKS:
        if part in device_kind:
            return bfloat16 if dtype == "bfloat16" else float32
    return None
