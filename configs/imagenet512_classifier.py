r"""The classifier that guides ImageNet 512x512 (Dhariwal & Nichol 2021): 54,448,360 parameters.

    python train.py --config configs/imagenet512_classifier.py --data.dir DIR
    python -m ddpm_jax.interop.import_weights 512x512_classifier.pt \
        --model imagenet512_classifier --out runs/imagenet512_classifier

The second command makes a run of OpenAI's weights, instead of the first.

It tells the class of an image made noisy, at any t, and its gradient pulls a sample towards a
class. With it imagenet512_adm.py reaches FID 7.72, sFID 6.57, IS 172.71, precision 0.87, recall
0.42 at scale 4.0 and 250 steps; FID 8.41, sFID 9.67, precision 0.83, recall 0.47 at 9.0 and 25
steps of DDIM.

500,000 steps of 256 images, with random crops and flips, AdamW, the rate falling linearly to 0,
no average of the weights: we found no training time of it. In float32, as by the README's flags.

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
            name="tfds:imagenet2012", image_size=512, channels=3, flip=True, random_crop=True
        ),
        model=ModelConfig(
            kind="classifier",
            channels=128,
            channel_mult=(0.5, 1, 1, 2, 2, 4, 4),
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
