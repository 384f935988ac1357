"""What the page says of a request: frames, a result, or a sentence that says why there is none."""

import logging
import re
import time
from collections.abc import Iterator
from contextlib import closing
from typing import TypeVar

from ddpm_jax.demo import markup
from ddpm_jax.demo.studio import Frame
from ddpm_jax.demo.watching import Stopped
from ddpm_jax.errors import UserError
from ddpm_jax.generation import SampleBatch
from ddpm_jax.generation.edited_batch import EditedBatch

FRAME_SECONDS = 0.04  # that a frame is shown at least; a browser leaves out faster ones

Batch = TypeVar("Batch", SampleBatch, EditedBatch)


def narrated(frames: Iterator[Frame | Batch]) -> Iterator[tuple[str, Batch | None]]:
    """Yields the HTML of each frame with None, and that of the result with the result.

    A request that was stopped or refused ends in a sentence, and so does one that fails; then the
    traceback is logged. `frames` is what `draw` and `edit` yield, and is closed.
    """
    latest, shown = None, 0.0
    with closing(frames):  # type: ignore[type-var]
        try:
            for each in frames:
                if isinstance(each, Frame):
                    time.sleep(max(0, shown + FRAME_SECONDS - time.monotonic()))
                    latest, shown = each, time.monotonic()
                    yield markup.moving(each), None
                else:
                    yield markup.result(each.picture(), count_of(each)), each
        except Stopped:
            if latest is None:
                yield markup.waiting("Stopped before its chain began."), None
            else:
                yield markup.moving(latest, "Stopped at"), None
        except UserError as error:
            yield markup.refused(sentence(error)), None
        except Exception as error:
            logging.getLogger(__name__).exception("a request failed")
            yield (
                markup.refused(f"It failed: {type(error).__name__}. The terminal says more."),
                None,
            )


def count_of(batch: SampleBatch | EditedBatch) -> str:
    """How many images there are, in words."""
    if isinstance(batch, EditedBatch):
        rows, columns = batch.images.shape[:2]
        return f"{rows} rows of {columns}" if rows > 1 else f"{columns} images"
    rows = len(batch.scales)
    return f"{len(batch) // rows} samples" + (f" at each of {rows} scales" if rows > 1 else "")


def sentence(error: UserError) -> str:
    """An error without the keywords' signs: "guidance scale x" for "guidance_scale=x"."""
    named = re.sub(r"\b([a-z]+(?:_[a-z]+)*)=(?=\S)", r"\1 ", str(error))
    text = re.sub(r"\b[a-z]+(?:_[a-z]+)+\b", lambda name: name[0].replace("_", " "), named)
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
