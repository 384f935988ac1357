"""The tab that edits pictures: uploaded, sketched, or of the run's data."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from ddpm_jax.demo import markup
from ddpm_jax.demo.controls import (
    AT_ONCE,
    buttons,
    chain_controls,
    chain_values,
    classes,
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


def edit_tab(page: gr.Blocks, studio: Studio, folder: Path, requests: Requests) -> None:
    config = studio.run.config
    side = config.data.image_size
    canvas = side * math.ceil(CANVAS_PIXELS / side)
    pictures = gr.State([None, None])
    with gr.Row():
        with gr.Column(scale=1, min_width=340):
            task = gr.Radio(
                list(EDITS),
                value="vary",
                label="What to do",
                info=EDITS["vary"].about,
                elem_id="edit-task",
            )
            place = gr.Radio(
                [("first", 0), ("second", 1)], value=0, label="Which picture", visible=False
            )
            with gr.Tab("Upload"):
                upload = gr.UploadButton(
                    "Choose a PNG, JPEG or WebP file",
                    file_types=["image"],
                    elem_id="edit-upload",
                )
            with gr.Tab("Sketch"):
                sketch = gr.ImageEditor(
                    value=_blank(canvas, config.data.channels),
                    type="numpy",
                    image_mode="RGB",
                    format="png",
                    canvas_size=(canvas, canvas),
                    brush=gr.Brush(
                        default_size=max(8, canvas // 10),
                        colors=["#ffffff", "#000000", "#888888", "#d1495b", "#3a9e7e", "#1d6f8a"],
                    ),
                    sources=(),
                    transforms=(),
                    layers=False,
                    show_label=False,
                    elem_id="edit-sketch",
                )
                use_sketch = gr.Button("Use the sketch", size="sm")
            with gr.Tab("From the data"):
                index = gr.Slider(
                    0, DATA_PICTURES - 1, 0, step=1, label="Number", elem_id="edit-index"
                )
                use_data = gr.Button("Take it", size="sm", elem_id="edit-use-data")
            shown = gr.HTML(elem_id="edit-pictures")
            labels = [
                gr.Dropdown(
                    [("none", ""), *classes(studio)],
                    value="",
                    label=name,
                    visible=visible and bool(classes(studio)),
                    elem_id=f"edit-class-{i}",
                )
                for i, (name, visible) in enumerate(
                    [("Its class", True), ("Class of the second", False)]
                )
            ]
            mask = gr.ImageEditor(
                type="numpy",
                image_mode="RGBA",
                format="png",
                canvas_size=(canvas, canvas),
                brush=gr.Brush(
                    default_size=max(8, canvas // 10), colors=["#d1495b"], color_mode="fixed"
                ),
                sources=(),
                transforms=(),
                layers=False,
                label="To be filled",
                visible=False,
                elem_id="edit-mask",
            )
        with gr.Column(scale=1, min_width=240):
            num = gr.Slider(1, 16, 8, step=1, label="Pictures of each row", elem_id="edit-num")
            strengths = gr.Textbox(
                EditSettings.strengths,
                label="Strengths",
                info="Parts of the chain to go back, above 0 to 1; a row each.",
                max_length=100,
            )
            resample = gr.Slider(
                1,
                studio.limits.resample,
                EditSettings.resample,
                step=1,
                label="Resampling",
                info="How often each jump of RePaint is taken; 1: known pixels are put back alone.",
                visible=False,
                elem_id="edit-resample",
            )
            method = gr.Radio(
                list(METHODS), value=EditSettings.method, label="Between them", visible=False
            )
            seed = seed_control(ChainSettings(), "edit")
            go, stop = buttons("Edit", "edit")
            chain = [seed, *chain_controls(studio, ChainSettings(), "as suits the edit", "edit")]
        with gr.Column(scale=2, min_width=480):
            stage = gr.HTML(markup.EMPTY, elem_id="edit-stage")
            with gr.Row():
                files = [
                    gr.DownloadButton(name, interactive=False, elem_id=f"edit-{name.split('.')[0]}")
                    for name in ("edited.npz", "grid.png")
                ]

    def edited(
        request: gr.Request,
        given: list[np.ndarray | None],
        brush: Any,
        task: str,
        first: Any,
        second: Any,
        *values: Any,
    ) -> Iterator[list[Any]]:
        stopped = requests.begin((request.session_hash, "edit"))
        (num, strengths, method, resample), chain = values[:4], values[4:]
        both = [text(each) for each in (first, second)[: EDITS[task].pictures]]
        settings = EditSettings(
            **chain_values(chain),
            task=task,
            labels=",".join(filter(None, both)),
            num=num,
            strengths=text(strengths),
            method=method,
            resample=resample,
        )
        region = _mask_of(brush, side) if task == "inpaint" else None
        for shown, batch in narrated(edit(studio, settings, given, region, stopped)):
            if batch is None:
                yield [shown, *[gr.skip()] * 2]
                continue
            out = new_folder(folder)
            batch.save(out)
            yield [shown, *downloads(files, out)]

    def placed(
        given: list[np.ndarray | None], place: int, picture: np.ndarray, label: str | None = None
    ) -> list[Any]:
        given = [picture if i == place else each for i, each in enumerate(given)]
        own = [gr.skip() if label is None or i != place else label for i in range(2)]
        background = gr.skip() if place else _enlarged(picture, canvas)
        return [given, _thumbnails(given), background, gr.skip(), *own]

    def refused(error: UserError) -> list[Any]:
        return [*[gr.skip()] * 3, markup.refused(sentence(error)), *[gr.skip()] * 2]

    def uploaded(given: list[np.ndarray | None], place: int, path: str) -> list[Any]:
        try:
            return placed(given, place, read_picture(path, studio))
        except UserError as error:
            return refused(error)

    def sketched(given: list[np.ndarray | None], place: int, drawing: Any) -> list[Any]:
        if drawing is None or drawing["composite"] is None:
            return refused(UserError("the sketch is empty"))
        return placed(given, place, fitted(drawing["composite"], studio))

    def taken(given: list[np.ndarray | None], place: int, index: int) -> list[Any]:
        try:
            return placed(given, place, *data_picture(int(index), studio))
        except UserError as error:
            return refused(error)

    def chosen(task: str) -> list[Any]:
        two = EDITS[task].pictures == 2
        return [
            gr.update(info=EDITS[task].about),
            gr.update(visible=two),
            gr.update(visible=two and bool(classes(studio))),
            gr.update(visible=two),
            *(gr.update(visible=task == "inpaint") for _ in range(2)),
            gr.update(visible=task == "vary"),
        ]

    where = [pictures, shown, mask, stage, *labels]
    upload.upload(uploaded, [pictures, place, upload], where, show_progress="hidden")
    use_sketch.click(sketched, [pictures, place, sketch], where, show_progress="hidden")
    use_data.click(taken, [pictures, place, index], where, show_progress="hidden")
    of_task = [task, place, labels[1], method, mask, resample, strengths]
    task.change(chosen, task, of_task, **AT_ONCE)
    inputs = [pictures, mask, task, *labels, num, strengths, method, resample, *chain]
    wire(requests, "edit", go, stop, [stage, *files], edited, inputs)


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


def _thumbnails(pictures: Sequence[np.ndarray | None]) -> str:
    names = "first", "second"
    shown = [
        markup.figure(picture, names[i])
        for i, picture in enumerate(pictures)
        if picture is not None
    ]
    return f'<div class="pictures">{"".join(shown)}</div>'
