r"""ImageNet at 256x256 by ADM (Dhariwal & Nichol 2021), no labels: 552,814,086 parameters.

    python train.py --config configs/imagenet256_adm_uncond.py --data.dir DIR
    python -m ddpm_jax.interop.import_weights 256x256_diffusion_uncond.pt \
        --model imagenet256_uncond --out runs/imagenet256_adm_uncond
    python sample.py --workdir runs/imagenet256_adm_uncond --num 50000

The second command makes a run of OpenAI's weights, instead of the first; the third draws.

Published, of 250 steps: FID 26.21, sFID 6.35, IS 39.7, precision 0.61, recall 0.63. Guided by
imagenet256_classifier.py at scale 1.0: FID 33.03, sFID 6.99, IS 32.9, precision 0.56, recall
0.65; at 10.0: FID 12.00, sFID 10.40, IS 95.4, precision 0.76, recall 0.44.

The paper's table of settings leaves this model out. Here all but the labels is
imagenet256_adm.py's, its steps too: from memory, the paper speaks of about 2 M for both.
`--train.grad-accumulation-steps N` computes a batch in N parts. It computes in bfloat16, the
original in float16, both with float32 parameters.

DIR holds TFDS's `imagenet2012` as ArrayRecord, whose archive you fetch by hand, as TFDS explains;
`--data.name folder:PATH` reads a folder prepared for the original code.

Not run by us: it needs the data and many GPUs or a TPU. Tests build the network and read a record
of this kind.
"""

from ddpm_jax.config import (
    Config,
    DataConfig,
    DiffusionConfig,
    ModelConfig,
    SampleConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        data=DataConfig(name="tfds:imagenet2012", image_size=256, channels=3, flip=True),
        model=ModelConfig(
            channels=256,
            channel_mult=(1, 1, 2, 2, 4, 4),
            num_res_blocks=2,
            attention_resolutions=(32, 16, 8),
            num_head_channels=64,
            scale_shift_norm=True,
            resblock_updown=True,
            dtype="bfloat16",
        ),
        diffusion=DiffusionConfig(
            timesteps=1000, schedule="linear", variance="learned_range", loss="mse"
        ),
        train=TrainConfig(
            steps=1_980_000,
            batch_size=256,
            learning_rate=1e-4,
            gradient_clip_norm=0.0,
            ema_decay=0.9999,
            ema_warmup=False,
            checkpoint_every_steps=5000,
            sample_every_steps=10_000,
        ),
        sample=SampleConfig(sampler="ddpm", steps="250", num=16, batch_size=16),
    )
