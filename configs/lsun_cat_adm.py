"""LSUN cats at 256x256 by ADM (Dhariwal & Nichol 2021): 552,814,086 parameters.

    python train.py --config configs/lsun_cat_adm.py --data.dir DIR
    python -m ddpm_jax.interop.import_weights lsun_cat.pt --model lsun_cat --out runs/lsun_cat_adm
    python sample.py --workdir runs/lsun_cat_adm --num 50000

The second command makes a run of OpenAI's weights, instead of the first; the third draws.

Published, of all 1,000 steps: FID 5.57, sFID 6.69, precision 0.63, recall 0.52.

200,000 steps of 256 images: 92 V100-days. `--train.grad-accumulation-steps N` computes a batch in
N parts. It computes in bfloat16, the original in float16, both with float32 parameters.

DIR holds TFDS's `lsun/cat` as ArrayRecord; `--data.name folder:PATH` reads any folder.

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
        data=DataConfig(name="tfds:lsun/cat", image_size=256, channels=3, flip=True),
        model=ModelConfig(
            channels=256,
            channel_mult=(1, 1, 2, 2, 4, 4),
            num_res_blocks=2,
            attention_resolutions=(32, 16, 8),
            num_head_channels=64,
            dropout=0.1,
            scale_shift_norm=True,
            resblock_updown=True,
            dtype="bfloat16",
        ),
        diffusion=DiffusionConfig(
            timesteps=1000, schedule="linear", variance="learned_range", loss="mse"
        ),
        train=TrainConfig(
            steps=200_000,
            batch_size=256,
            learning_rate=1e-4,
            gradient_clip_norm=0.0,
            ema_decay=0.9999,
            ema_warmup=False,
            checkpoint_every_steps=5000,
            sample_every_steps=10_000,
        ),
        sample=SampleConfig(sampler="ddpm", num=16, batch_size=16),
    )
