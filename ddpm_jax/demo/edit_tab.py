"""The tab that edits pictures: uploaded, sketched, or of the run's data."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from ddpm_jax.demo import markup
from ddpm_jax.demo.controls import (
    AT_ONCE,
    buttons,
    chain_controls,
    chain_values,
    classes,
    download_buttons,
    downloads,
    new_folder,
    seed_control,
    text,
    wire,
)
from ddpm_jax.demo.narration import narrated, sentence
from ddpm_jax.demo.requests import Requests
from ddpm_jax.demo.settings import ChainSettings, EditSettings
from ddpm_jax.demo.studio import (
    DATA_PICTURES,
    EDITS,
    Studio,
    brushed,
    data_picture,
    edit,
    fitted,
    read_picture,
)
from ddpm_jax.errors import UserError
from ddpm_jax.generation.editing import METHODS

CANVAS_PIXELS = 320  # least side of what is brushed over
Given = list[np.ndarray | None]  # the first picture and the second


class _Sources(NamedTuple):
    """Where pictures come from, what is shown of them, and their mask."""

    place: gr.Radio  # whether the next one is the first or the second
    upload: gr.UploadButton
    sketch: gr.ImageEditor
    use_sketch: gr.Button
    index: gr.Slider
    use_data: gr.Button
    shown: gr.HTML
    labels: list[gr.Dropdown]  # of the first and of the second
    mask: gr.ImageEditor


class _Settings(NamedTuple):
    """What an edit has besides its chain."""

    num: gr.Slider
    strengths: gr.Textbox
    resample: gr.Slider
    method: gr.Radio


def edit_tab(studio: Studio, folder: Path, requests: Requests) -> None:
    """The tab's controls and what they call; downloads go into `folder`."""
    side = studio.run.config.data.image_size
    pictures = gr.State([None, None])
    with gr.Row():
        with gr.Column(scale=1, min_width=340):
            about = EDITS["vary"].about
            task = gr.Radio(
                list(EDITS), value="vary", label="What to do", info=about, elem_id="edit-task"
            )
            sources = _sources(studio, _canvas_side(studio))
        with gr.Column(scale=1, min_width=240):
            settings = _settings(studio)
            seed = seed_control(ChainSettings(), "edit")
            go, stop = buttons("Edit", "edit")
            chain = [seed, *chain_controls(studio, ChainSettings(), "as suits the edit", "edit")]
        with gr.Column(scale=2, min_width=480):
            stage = gr.HTML(markup.EMPTY, elem_id="edit-stage")
            files = download_buttons("edit", ["edited.npz", "grid.png"])

    def edited(
        request: gr.Request,
        given: Given,
        brush: Any,
        task: str,
        first: Any,
        second: Any,
        *values: Any,
    ) -> Iterator[list[Any]]:
        stopped = requests.begin((request.session_hash, "edit"))
        labels = [text(each) for each in (first, second)[: EDITS[task].pictures]]
        own = dict(zip(_Settings._fields, values, strict=False))
        asked = EditSettings(
            **chain_values(values[len(own) :]),
            **own | {"strengths": text(own["strengths"])},
            task=task,
            labels=",".join(labels) if any(labels) else "",
        )
        region = _mask_of(brush, side) if task == "inpaint" else None
        for shown, batch in narrated(edit(studio, asked, given, region, stopped)):
            if batch is None:
                yield [shown, *[gr.skip()] * 2]
                continue
            out = new_folder(folder)
            batch.save(out)
            yield [shown, *downloads(files, out)]

    def chosen(task: str) -> list[Any]:
        two = EDITS[task].pictures == 2
        return [
            gr.update(info=EDITS[task].about),
            *(gr.update(visible=visible) for visible in (two, two and bool(classes(studio)), two)),
            *(gr.update(visible=task == "inpaint") for _ in range(2)),
            gr.update(visible=task == "vary"),
        ]

    _wire_sources(studio, sources, pictures, stage)
    of_two = [sources.place, sources.labels[1], settings.method]
    of_task = [task, *of_two, sources.mask, settings.resample, settings.strengths]
    task.change(chosen, task, of_task, **AT_ONCE)
    inputs = [pictures, sources.mask, task, *sources.labels, *settings, *chain]
    wire(requests, "edit", go, stop, [stage, *files], edited, inputs)


def _sources(studio: Studio, canvas: int) -> _Sources:
    place = gr.Radio([("first", 0), ("second", 1)], value=0, label="Which picture", visible=False)
    with gr.Tab("Upload"):
        upload = gr.UploadButton(
            "Choose a PNG, JPEG or WebP file", file_types=["image"], elem_id="edit-upload"
        )
    with gr.Tab("Sketch"):
        colours = ["#ffffff", "#000000", "#888888", "#d1495b", "#3a9e7e", "#1d6f8a"]
        blank = _blank(canvas, studio.run.config.data.channels)
        brush = gr.Brush(default_size=max(8, canvas // 10), colors=colours)
        sketch = _image_editor(canvas, brush, "RGB", "edit-sketch", value=blank)
        use_sketch = gr.Button("Use the sketch", size="sm", elem_id="edit-use-sketch")
    with gr.Tab("From the data"):
        index = gr.Slider(0, DATA_PICTURES - 1, 0, step=1, label="Number", elem_id="edit-index")
        use_data = gr.Button("Take it", size="sm", elem_id="edit-use-data")
    shown = gr.HTML(elem_id="edit-pictures")
    labels = [
        gr.Dropdown(
            [("none", ""), *classes(studio)],
            value="",
            label=name,
            visible=i == 0 and bool(classes(studio)),
            elem_id=f"edit-class-{i}",
        )
        for i, name in enumerate(["Its class", "Class of the second"])
    ]
    brush = gr.Brush(default_size=max(8, canvas // 10), colors=["#d1495b"], color_mode="fixed")
    mask = _image_editor(canvas, brush, "RGBA", "edit-mask", label="To be filled", visible=False)
    return _Sources(place, upload, sketch, use_sketch, index, use_data, shown, labels, mask)


def _image_editor(
    side: int,
    brush: gr.Brush,
    mode: str,
    name: str,
    value: np.ndarray | None = None,
    label: str = "",
    visible: bool = True,
) -> gr.ImageEditor:
    """A canvas with a brush and an eraser, and nothing else."""
    return gr.ImageEditor(
        value,
        type="numpy",
        image_mode=mode,
        format="png",
        canvas_size=(side, side),
        brush=brush,
        sources=(),
        transforms=(),
        layers=False,
        label=label,
        show_label=bool(label),
        visible=visible,
        elem_id=name,
    )


def _settings(studio: Studio) -> _Settings:
    return _Settings(
        gr.Slider(
            1, 16, EditSettings.num, step=1, label="Pictures of each row", elem_id="edit-num"
        ),
        gr.Textbox(
            EditSettings.strengths,
            label="Strengths",
            info="Parts of the chain to go back, above 0 to 1; a row each.",
            max_length=100,
        ),
        gr.Slider(
            1,
            studio.limits.resample,
            EditSettings.resample,
            step=1,
            label="Resampling",
            info="How often each jump of RePaint is taken; 1: known pixels are put back alone.",
            visible=False,
            elem_id="edit-resample",
        ),
        gr.Radio(list(METHODS), value=EditSettings.method, label="Between them", visible=False),
    )


def _wire_sources(studio: Studio, sources: _Sources, pictures: gr.State, stage: gr.HTML) -> None:
    """What puts a picture in its place, and the first also under the mask."""

    def placed(
        given: Given, place: int, picture: np.ndarray, label: str | None = None
    ) -> list[Any]:
        given = [picture if i == place else each for i, each in enumerate(given)]
        labels = [gr.skip() if label is None or i != place else label for i in range(2)]
        background = gr.skip() if place else _enlarged(picture, _canvas_side(studio))
        return [given, _thumbnails(given), background, gr.skip(), *labels]

    def refused(error: UserError) -> list[Any]:
        return [*[gr.skip()] * 3, markup.refused(sentence(error)), *[gr.skip()] * 2]

    def uploaded(given: Given, place: int, path: str) -> list[Any]:
        try:
            return placed(given, place, read_picture(path, studio))
        except UserError as error:
            return refused(error)

    def sketched(given: Given, place: int, drawing: Any) -> list[Any]:
        if drawing is None or drawing["composite"] is None:
            return refused(UserError("the sketch is empty"))
        return placed(given, place, fitted(drawing["composite"], studio))

    def taken(given: Given, place: int, index: int) -> list[Any]:
        try:
            return placed(given, place, *data_picture(int(index), studio))
        except UserError as error:
            return refused(error)

    outputs = [pictures, sources.shown, sources.mask, stage, *sources.labels]
    for event, function, source in (
        (sources.upload.upload, uploaded, sources.upload),
        (sources.use_sketch.click, sketched, sources.sketch),
        (sources.use_data.click, taken, sources.index),
    ):
        event(function, [pictures, sources.place, source], outputs, show_progress="hidden")


def _canvas_side(studio: Studio) -> int:
    """The side of what is brushed over: whole pixels for each of the picture's."""
    side = studio.run.config.data.image_size
    return side * math.ceil(CANVAS_PIXELS / side)


def _blank(side: int, channels: int) -> np.ndarray:
    """What is sketched on: black for grey pictures, as digits are, white for colours."""
    return np.full((side, side, 3), 0 if channels == 1 else 255, np.uint8)


def _enlarged(picture: np.ndarray, side: int) -> dict[str, Any]:
    """A picture as the background of an image editor, nothing brushed over it yet."""
    rgb = np.broadcast_to(picture, (*picture.shape[:2], 3))
    large = rgb.repeat(side // len(rgb), axis=0).repeat(side // len(rgb), axis=1)
    return {"background": large, "layers": [], "composite": large}


def _mask_of(value: Any, side: int) -> np.ndarray | None:
    """Where the brush was, bool [side, side]; None if nowhere."""
    layers = [layer[..., 3] for layer in (value or {}).get("layers") or []]
    return brushed(np.max(layers, axis=0), side) if layers else None


def _thumbnails(pictures: Given) -> str:
    names = "first", "second"
    shown = [
        markup.figure(picture, names[i])
        for i, picture in enumerate(pictures)
        if picture is not None
    ]
    return f'<div class="pictures">{"".join(shown)}</div>'
