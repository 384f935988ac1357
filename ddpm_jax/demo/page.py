"""The studio as a Gradio page."""

from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr

from ddpm_jax.config import Config, data_shape
from ddpm_jax.demo import markup
from ddpm_jax.demo.controls import AT_ONCE
from ddpm_jax.demo.draw_tab import draw_tab
from ddpm_jax.demo.edit_tab import edit_tab
from ddpm_jax.demo.narration import sentence
from ddpm_jax.demo.report import render_report
from ddpm_jax.demo.requests import Requests
from ddpm_jax.demo.settings import DrawSettings
from ddpm_jax.demo.studio import Studio
from ddpm_jax.errors import UserError

FONTS = {
    "font": ["system-ui", "sans-serif"],  # of the machine: others would be fetched
    "font_mono": ["ui-monospace", "monospace"],
}
# Plain names of the controls, without a coloured ground.
PLAIN = {
    f"block_{kind}_{part}{dark}": value
    for kind in ("title", "label")
    for part, value in (("background_fill", "none"), ("text_color", "*body_text_color"))
    for dark in ("", "_dark")
} | {"block_title_padding": "0", "block_title_text_weight": "500"}


def build(studio: Studio, start: DrawSettings, folder: Path) -> gr.Blocks:
    """The page; `start` is what its controls say at first, and downloads go into `folder`."""
    requests, config = Requests(studio.limits.waiting), studio.run.config
    with gr.Blocks(title="Studio", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(f"## {studio.run.workdir.resolve().name}\n{described(config)}")
        with gr.Tab("Draw"):
            draw_tab(page, studio, start, folder, requests)
        if len(data_shape(config)) == 3:  # points are not edited
            with gr.Tab("Edit"):
                edit_tab(studio, folder, requests)
        with gr.Tab("Look") as look:
            gr.Markdown(
                "The run's curves, its grids by step, and its settings, as the log has them."
            )
            again = gr.Button("Read the log again", size="sm")
            report = gr.HTML()
            for event in (look.select, again.click):
                event(lambda: _report(studio), None, report, **AT_ONCE)
        page.unload(_leaving(requests))
    # Requests are counted before they get here; this holds for what a page would not send.
    page.queue(max_size=8 * studio.limits.waiting, default_concurrency_limit=4)
    return page


def described(config: Config) -> str:
    """What the run draws, in a line."""
    height, *others = data_shape(config)
    size = f"{height}×{others[0]}" if len(others) == 2 else "points of the plane"  # noqa: RUF001
    classes = f", {config.model.num_classes} classes" if config.model.num_classes else ""
    return f"{config.data.name}, {size}{classes}"


def launch(page: gr.Blocks, studio: Studio, host: str, port: int) -> str:
    """Serves the page from a thread, and returns its address."""
    css = resources.files("ddpm_jax.demo").joinpath("page.css").read_text()
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=False,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        max_file_size=studio.limits.upload_bytes,
        theme=gr.themes.Soft(primary_hue="teal", **FONTS).set(**PLAIN),
        css=css,
    )
    return address


def _leaving(requests: Requests) -> Any:
    def leave(request: gr.Request) -> None:
        for kind in ("draw", "edit"):
            requests.end((request.session_hash, kind))

    return leave


def _report(studio: Studio) -> str:
    try:
        return markup.framed(render_report([studio.run.workdir]))
    except (UserError, OSError) as error:
        return markup.refused(sentence(UserError(str(error))))
