r"""ImageNet at 512x512 by ADM (Dhariwal & Nichol 2021), with labels: 558,997,638 parameters.

    python train.py --config configs/imagenet512_adm.py --data.dir DIR
    python -m ddpm_jax.interop.import_weights 512x512_diffusion.pt \
        --model imagenet512 --out runs/imagenet512_adm
    python sample.py --workdir runs/imagenet512_adm --num 50000 --labels random

The second command makes a run of OpenAI's weights, instead of the first; the third draws.

Published, of 250 steps: FID 23.24, sFID 10.19, IS 58.06, precision 0.73, recall 0.60. Guided by
imagenet512_classifier.py at scale 4.0: FID 7.72, sFID 6.57, IS 172.71, precision 0.87, recall
0.42. 25 steps of DDIM (`--sampler ddim --steps ddim25`) at 9.0: FID 8.41, sFID 9.67, precision
0.83, recall 0.47.

1,940,000 steps of 256 images; we found no training time of this model alone.
`--train.grad-accumulation-steps N` computes a batch in N parts. The README draws from it in
float32, as is set here; `--model.dtype bfloat16` trains it in 16 bits, as the paper does all
models.

DIR holds TFDS's `imagenet2012` as ArrayRecord, whose archive you fetch by hand, as TFDS explains;
its labels go by WordNet id, as OpenAI's do. `--data.name folder:PATH --data.labels names` reads a
folder prepared for the original code.

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
        data=DataConfig(name="tfds:imagenet2012", image_size=512, channels=3, flip=True),
        model=ModelConfig(
            channels=256,
            channel_mult=(0.5, 1, 1, 2, 2, 4, 4),
            num_res_blocks=2,
            attention_resolutions=(32, 16, 8),
            num_head_channels=64,
            num_classes=1000,
            scale_shift_norm=True,
            resblock_updown=True,
        ),
        diffusion=DiffusionConfig(
            timesteps=1000, schedule="linear", variance="learned_range", loss="mse"
        ),
        train=TrainConfig(
            steps=1_940_000,
            batch_size=256,
            learning_rate=1e-4,
            gradient_clip_norm=0.0,
            ema_decay=0.9999,
            ema_warmup=False,
            checkpoint_every_steps=5000,
            sample_every_steps=10_000,
        ),
        sample=SampleConfig(sampler="ddpm", steps="250", num=8, batch_size=8),
    )
