"""A run in the studio: from the settings of a request to pictures, while the chain runs and after.

Nothing here knows of the page that shows them.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.config import build_chain, data_shape
from ddpm_jax.data.input_images import OWN_DATA, read_input_images
from ddpm_jax.data.transforms import FORMATS, centre_crop, decode_image
from ddpm_jax.demo.settings import DrawSettings, EditSettings, Limits
from ddpm_jax.demo.watching import watched
from ddpm_jax.errors import UserError
from ddpm_jax.generation import GenerationOptions, Run, SampleBatch
from ddpm_jax.generation.chain import Moment, OnMoment
from ddpm_jax.generation.edited_batch import EditedBatch
from ddpm_jax.generation.editing import METHODS, Editor, by_ancestral_sampling, by_ddim
from ddpm_jax.generation.generator import OnProgress
from ddpm_jax.generation.options import as_floats
from ddpm_jax.generation.run import Plan
from ddpm_jax.sampling.resampling import Resampling
from ddpm_jax.visualization.grids import grid

MOMENTS = 25  # of a chain that are shown while it runs
GREY = 128  # of a picture that has not begun
DATA_PICTURES = 64  # of the data set that may be edited
PANEL_PIXELS = 400  # least width of a row of pictures that are being edited


class Frame(NamedTuple):
    """The chains of a request at a moment."""

    timestep: int  # of the chain of training
    done: float  # part of the request
    x_t: np.ndarray  # pictures, uint8 [H, W, C]
    pred_xstart: np.ndarray


@dataclass(frozen=True)
class Studio:
    """A run that draws and edits for a page. All chains take batches of one size."""

    run: Run
    classifier: Path | None = None
    limits: Limits = field(default_factory=Limits)
    batch_size: int = 16
    loading: Mapping[str, Any] = field(default_factory=dict)  # the run, as options of `sample`

    def __post_init__(self) -> None:
        """Raises UserError for a run that draws nothing by itself, or has no whole checkpoint."""
        plan = self.run.plan(GenerationOptions(num=1, classifier=self.classifier))
        plan.identities()  # loads all weights

    @property
    def guidance(self) -> list[str]:
        """The kinds of guidance that there are for this run."""
        free = self.run.config.model.num_classes and self.run.config.diffusion.label_dropout
        return [
            "none",
            *(["classifier-free"] if free else []),
            *(["classifier"] if self.classifier else []),
        ]

    def draw_options(self, settings: DrawSettings) -> GenerationOptions:
        """What `draw` asks of the run, and a command may too. Raises UserError."""
        self.limits.check("num", settings.num)
        chosen = settings.options(self.batch_size, self.classifier, self.limits)
        return GenerationOptions(
            num=int(settings.num), labels=settings.labels or None, frames=MOMENTS, **chosen
        )

    def edit_options(self, settings: EditSettings) -> GenerationOptions:
        """What `edit` asks of the run. Raises UserError."""
        self.limits.check("num", settings.num, least=2 if settings.task == "interpolate" else 1)
        self.limits.check("resample", settings.resample)
        try:
            self.limits.check("rows", len(as_floats(settings.strengths)))
        except ValueError as error:
            raise UserError(f"strengths={settings.strengths}: must be as 0.3,0.5") from error
        chosen = settings.options(self.batch_size, self.classifier, self.limits)
        return GenerationOptions(labels=settings.labels or None, **chosen)

    def plan(self, options: GenerationOptions) -> Plan:
        """Checks the options, and that their chain is not too long. Raises UserError."""
        plan = self.run.plan(options)
        steps = build_chain(plan.models[0].config).schedule.num_timesteps
        self.limits.check("steps", steps)
        return plan


def draw(
    studio: Studio, settings: DrawSettings, stop: threading.Event
) -> Iterator[Frame | SampleBatch]:
    """Yields frames while the chains run, and last the samples. `stop` as of `watched`.

    Raises UserError, and Stopped.
    """
    plan = studio.plan(studio.draw_options(settings))
    model, scales = plan.models[0], plan.guidance.scales
    labels = np.tile(plan.labels[0], len(scales))
    shape = data_shape(model.config)
    kind, blank = (np.float32, 0) if len(shape) == 1 else (np.uint8, GREY)
    canvas = np.full((2, len(labels), *shape), blank, kind)
    x_t, pred_xstart = (SampleBatch(each, labels, scales, plan.class_names) for each in canvas)

    def work(on_moment: OnMoment, on_progress: OnProgress) -> SampleBatch:
        return plan.generate(on_moment=on_moment)

    batch, finished = np.array([], int), 0
    for shown in watched(work, stop):
        if isinstance(shown, SampleBatch):
            yield shown
            return
        if not np.array_equal(batch, shown.places):
            batch, finished = shown.places, finished + len(batch)
        canvas[:, shown.places] = shown.x_t, shown.pred_xstart
        part = 1 - shown.timestep / model.config.diffusion.timesteps
        done = (finished + part * len(batch)) / len(labels)
        yield Frame(shown.timestep, done, x_t.picture(), pred_xstart.picture())


class Edit(NamedTuple):
    """A row of EDITS."""

    about: str
    pictures: int  # that it takes
    options: Callable[[GenerationOptions, int], GenerationOptions]  # with those that suit it
    # apply(editor, images, settings, mask), with as many copies of a picture as are asked for
    apply: Callable[[Editor, np.ndarray, EditSettings, np.ndarray | None], EditedBatch]


def _vary(
    editor: Editor, images: np.ndarray, settings: EditSettings, mask: np.ndarray | None
) -> EditedBatch:
    return editor.vary(images, as_floats(settings.strengths))


def _inpaint(
    editor: Editor, images: np.ndarray, settings: EditSettings, mask: np.ndarray | None
) -> EditedBatch:
    if mask is None or not mask.any() or mask.all():
        raise UserError("brush over the part that is to be filled, and leave some of the picture")
    times = int(settings.resample)
    return editor.inpaint(images, mask, Resampling(times) if times > 1 else None)


def _interpolate(
    editor: Editor, images: np.ndarray, settings: EditSettings, mask: np.ndarray | None
) -> EditedBatch:
    return editor.interpolate(images, int(settings.num), settings.method)


EDITS = {
    "vary": Edit("Pictures like this one (SDEdit).", 1, lambda options, _: options, _vary),
    "inpaint": Edit("Fills what you brush over (RePaint).", 1, by_ancestral_sampling, _inpaint),
    "interpolate": Edit("From one picture to another.", 2, by_ddim, _interpolate),
}


def edit(
    studio: Studio,
    settings: EditSettings,
    pictures: Sequence[np.ndarray | None],
    mask: np.ndarray | None,
    stop: threading.Event,
) -> Iterator[Frame | EditedBatch]:
    """Yields frames while the chains run, and last the edited images.

    Args:
      pictures: the first and the second, uint8 [H, W, C] each, None where there is none.
      mask: bool [H, W], true where the picture is to be filled.
      studio, settings, stop: as of `draw`.

    Raises UserError, and Stopped.
    """
    if settings.task not in EDITS:
        raise UserError(f"task={settings.task}: there are: {', '.join(EDITS)}")
    if settings.method not in METHODS:
        raise UserError(f"method={settings.method}: there are: {', '.join(METHODS)}")
    task, options = EDITS[settings.task], studio.edit_options(settings)
    given = [picture for picture in pictures[: task.pictures] if picture is not None]
    if len(given) < task.pictures:
        wanted = "a picture" if task.pictures == 1 else "two pictures"
        raise UserError(f"give {wanted}: upload, sketch or take one of the data")
    timesteps = studio.run.config.diffusion.timesteps
    if settings.task != "interpolate" or settings.method == "slerp":
        options = task.options(options, timesteps)
    studio.plan(options)
    copies = int(settings.num) if task.pictures == 1 else 1
    editor, images = studio.run.editor(np.repeat(given, copies, axis=0), options, frames=MOMENTS)

    def work(on_moment: OnMoment, on_progress: OnProgress) -> EditedBatch:
        watching = dataclasses.replace(editor, on_moment=on_moment, on_progress=on_progress)
        return task.apply(watching, images, settings, mask)

    panel = partial(grid, min_pixels=PANEL_PIXELS)
    for shown in watched(work, stop):
        if isinstance(shown, Moment):
            done = 1 - shown.timestep / timesteps
            yield Frame(shown.timestep, done, panel(shown.x_t), panel(shown.pred_xstart))
        else:
            yield shown


def read_picture(path: str | Path, studio: Studio) -> np.ndarray:
    """An uploaded picture as the model takes it, uint8 [H, W, C]. Raises UserError."""
    from PIL import Image

    file, data = Path(path), studio.run.config.data
    studio.limits.check("upload_bytes", file.stat().st_size, least=0)
    try:
        with Image.open(file, formats=FORMATS) as opened:
            side = max(opened.size)
        if side <= studio.limits.upload_side:
            return centre_crop(decode_image(file, data.channels), data.image_size)
    except Exception as error:  # PIL: OSError, SyntaxError, ValueError, struct.error, ...
        raise UserError(
            f"the file {file.name} cannot be read: it is no whole PNG, JPEG or WebP"
        ) from error
    raise UserError(
        f"the file {file.name} is {side} pixels long; at most {studio.limits.upload_side} are taken"
    )


def fitted(picture: np.ndarray, studio: Studio) -> np.ndarray:
    """A picture of any size, uint8 [H, W, 3], as the model takes it. Raises nothing."""
    data = studio.run.config.data
    if data.channels == 1:
        luma = picture[..., :3] @ np.array([0.299, 0.587, 0.114])
        picture = luma.round().astype(np.uint8)[..., None]
    return centre_crop(picture[..., : data.channels], data.image_size)


def data_picture(index: int, studio: Studio) -> tuple[np.ndarray, str]:
    """A picture of the run's data set and its label, "" if it has none. Raises UserError."""
    if not 0 <= index < DATA_PICTURES:
        raise UserError(f"index={index}: must be 0 to {DATA_PICTURES - 1}")
    config = studio.run.config
    images, labels = read_input_images([OWN_DATA], config.data, index + 1)
    return images[-1], str(labels[-1]) if labels is not None and config.model.num_classes else ""


def brushed(alpha: np.ndarray, side: int) -> np.ndarray:
    """bool [side, side], true where the brush covers at least half of a pixel of the picture.

    `alpha` is the opacity of what was brushed over the enlarged picture, uint8 [H, W].
    """
    from PIL import Image

    cover = Image.fromarray(alpha).resize((side, side), Image.Resampling.BOX)
    return np.asarray(cover) >= 128
