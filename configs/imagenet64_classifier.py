r"""The classifier that guides ImageNet 64x64 (Dhariwal & Nichol 2021): 65,438,568 parameters.

    python train.py --config configs/imagenet64_classifier.py --data.dir DIR
    python -m ddpm_jax.interop.import_weights 64x64_classifier.pt \
        --model imagenet64_classifier --out runs/imagenet64_classifier

The second command makes a run of OpenAI's weights, instead of the first.

It tells the class of an image made noisy, at any t, and its gradient pulls a sample towards a
class. Its scale in the README is 1.0, with 250 steps of imagenet64_adm.py; the FID of 2.07 that
stands beside it is, in the paper, that of the model alone.

300,000 steps of 1,024 images, with random crops and flips, AdamW, the rate falling linearly to 0,
no average of the weights: we found no training time of it. The schedule is cosine, as its model's
(the original's default is linear). In float32, as by the README's flags.

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
            name="tfds:imagenet2012", image_size=64, channels=3, flip=True, random_crop=True
        ),
        model=ModelConfig(
            kind="classifier",
            channels=128,
            channel_mult=(1, 2, 3, 4),
            num_res_blocks=4,
            attention_resolutions=(32, 16, 8),
            num_head_channels=64,
            num_classes=1000,
            scale_shift_norm=True,
            resblock_updown=True,
            pool="attention",
        ),
        diffusion=DiffusionConfig(timesteps=1000, schedule="cosine"),
        train=TrainConfig(
            steps=300_000,
            batch_size=1024,
            learning_rate=6e-4,
            learning_rate_decay="linear",
            weight_decay=0.2,
            gradient_clip_norm=0.0,
            ema_decay=0.0,
            checkpoint_every_steps=5000,
            sample_every_steps=0,
        ),
    )
