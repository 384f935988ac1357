r"""The classifier that guides ImageNet 128x128 (Dhariwal & Nichol 2021): 42,568,040 parameters.

    python train.py --config configs/imagenet128_classifier.py --data.dir DIR
    python -m ddpm_jax.interop.import_weights 128x128_classifier.pt \
        --model imagenet128_classifier --out runs/imagenet128_classifier

The second command makes a run of OpenAI's weights, instead of the first.

It tells the class of an image made noisy, at any t, and its gradient pulls a sample towards a
class. With it imagenet128_adm.py reaches FID 2.97, sFID 5.09, precision 0.78, recall 0.59 at
scale 0.5 and 250 steps; FID 5.98, sFID 7.04, precision 0.78, recall 0.51 at 1.25 and 25 steps of
DDIM (where the README's example says 1.0).

300,000 steps of 256 images, with random crops and flips, AdamW, the rate falling linearly to 0,
no average of the weights: 9 V100-days. The paper's model of 512x512 in two stages has another one
of this network, by `--train.batch-size 1024 --train.learning-rate 6e-5`. In float32, as by the
README's flags.

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
            name="tfds:imagenet2012", image_size=128, channels=3, flip=True, random_crop=True
        ),
        model=ModelConfig(
            kind="classifier",
            channels=128,
            channel_mult=(1, 1, 2, 3, 4),
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
            steps=300_000,
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
