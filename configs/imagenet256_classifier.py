r"""The classifier that guides ImageNet 256x256 (Dhariwal & Nichol 2021): 54,096,360 parameters.

    python train.py --config configs/imagenet256_classifier.py --data.dir DIR
    python -m ddpm_jax.interop.import_weights 256x256_classifier.pt \
        --model imagenet256_classifier --out runs/imagenet256_classifier

The second command makes a run of OpenAI's weights, instead of the first.

It tells the class of an image made noisy, at any t, and its gradient pulls a sample towards a
class. With it imagenet256_adm.py reaches FID 4.59, sFID 5.25, IS 186.7, precision 0.82, recall
0.52 at scale 1.0 and 250 steps; FID 5.44, sFID 5.32, precision 0.81, recall 0.49 at 2.5 and 25
steps of DDIM. With imagenet256_adm_uncond.py the published scale is 10.0: FID 12.00, sFID 10.40,
IS 95.4, precision 0.76, recall 0.44.

500,000 steps of 256 images, with random crops and flips, AdamW, the rate falling linearly to 0,
no average of the weights: 46 V100-days. In float32, as by the README's flags.

DIR holds TFDS's `imagenet2012` as ArrayRecord, whose archive you fetch by hand, as TFDS explains;
its labels go by WordNet id, as OpenAI's do. `--data.name folder:PATH --data.labels names` reads a
folder prepared for the original code.

Not run by us: it needs the data and many GPUs or a TPU. Tests build the network and read a record
of this kind.
"""

from ddpm_jax.config import Config, DataConfig, DiffusionConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            name="tfds:imagenet2012", image_size=256, channels=3, flip=True, random_crop=True
        ),
        model=ModelConfig(
            kind="classifier",
            channels=128,
            channel_mult=(1, 1, 2, 2, 4, 4),
            num_res_blocks=2,
            attention_resolutions=(32, 16, 8),
            num_head_channels=64,
            num_classes=1000,
            scale_shift_norm=True,
            resblock_updown=True,
            pool="attention",
        ),
        diffusion=DiffusionConfig(timesteps=1000, schedule="linear"),
        train=TrainConfig(
            steps=500_000,
            batch_size=256,
            learning_rate=3e-4,
            learning_rate_decay="linear",
            weight_decay=0.05,
            gradient_clip_norm=0.0,
            ema_decay=0.0,
            checkpoint_every_steps=5000,
            sample_every_steps=0,
        ),
    )
