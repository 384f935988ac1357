r"""ImageNet at 64x64 by ADM (Dhariwal & Nichol 2021), with labels: 295,904,454 parameters.

    python train.py --config configs/imagenet64_adm.py --data.dir DIR
    python -m ddpm_jax.interop.import_weights 64x64_diffusion.pt \
        --model imagenet64 --out runs/imagenet64_adm
    python sample.py --workdir runs/imagenet64_adm --num 50000 --labels random

The second command makes a run of OpenAI's weights, instead of the first; the third draws.

Published, of 250 steps: FID 2.07, sFID 4.29, precision 0.74, recall 0.63; without dropout FID
2.61, sFID 3.77, precision 0.73, recall 0.63. The README lists the first as guided, at scale 1.0;
in the paper no classifier is at work there.

540,000 steps of 2,048 images: some 173 V100-days at the paper's 74.1 images a V100-second (our
division). `--train.grad-accumulation-steps N` computes a batch in N parts. It computes in
bfloat16, the original in float16, both with float32 parameters. Of all published models it alone
has the new order of attention.

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
        data=DataConfig(name="tfds:imagenet2012", image_size=64, channels=3, flip=True),
        model=ModelConfig(
            channels=192,
            channel_mult=(1, 2, 3, 4),
            num_res_blocks=3,
            attention_resolutions=(32, 16, 8),
            num_head_channels=64,
            num_classes=1000,
            dropout=0.1,
            scale_shift_norm=True,
            resblock_updown=True,
            attention_order="new",
            dtype="bfloat16",
        ),
        diffusion=DiffusionConfig(
            timesteps=1000, schedule="cosine", variance="learned_range", loss="mse"
        ),
        train=TrainConfig(
            steps=540_000,
            batch_size=2048,
            learning_rate=3e-4,
            gradient_clip_norm=0.0,
            ema_decay=0.9999,
            ema_warmup=False,
            checkpoint_every_steps=5000,
            sample_every_steps=10_000,
        ),
        sample=SampleConfig(sampler="ddpm", steps="250", num=64, batch_size=64),
    )
