"""Pictures and sentences as the HTML that the page shows. Everything in it is inline."""

import base64
import html

import numpy as np

from ddpm_jax.demo.studio import Frame
from ddpm_jax.visualization.images import png_bytes

EMPTY = '<div class="stage"><p class="quiet">What is drawn appears here.</p></div>'


def figure(picture: np.ndarray, caption: str = "") -> str:
    """A picture, uint8 [H, W, C], with a caption, which is HTML."""
    source = base64.b64encode(png_bytes(picture)).decode()
    image = f'<img alt="" src="data:image/png;base64,{source}">'
    return f"<figure>{f'<figcaption>{caption}</figcaption>' if caption else ''}{image}</figure>"


def moving(frame: Frame, note: str = "") -> str:
    """x_t beside the predicted x_0, and how far the chain is; with a `note` once it has ended."""
    pair = (
        figure(frame.x_t, "x<sub>t</sub>"),
        figure(frame.pred_xstart, "predicted x<sub>0</sub>"),
    )
    wide = frame.x_t.shape[1] > 1.5 * frame.x_t.shape[0]  # then one above the other
    bar = f'<div class="bar"><div style="width: {frame.done:.1%}"></div></div>'
    line = f"{html.escape(note)} t = {frame.timestep}"
    stage = (
        f'<div class="pair{" wide" * wide}">{"".join(pair)}</div>{bar}<p role="status">{line}</p>'
    )
    return f'<div class="stage" data-t="{frame.timestep}">{stage}</div>'


def result(picture: np.ndarray, note: str) -> str:
    """What was drawn."""
    line = f'<p role="status">{html.escape(note)}</p>'
    return f'<div class="stage result">{figure(picture)}{line}</div>'


def waiting(note: str) -> str:
    """What is going on before there is anything to see."""
    return f'<div class="stage"><p class="quiet" role="status">{html.escape(note)}</p></div>'


def refused(sentence: str) -> str:
    """Why there is nothing to see."""
    return f'<div class="stage"><p class="error" role="alert">{html.escape(sentence)}</p></div>'


def framed(page: str) -> str:
    """A whole page inside this one; its scripts cannot reach out of it."""
    source = html.escape(page, quote=True)
    return (
        f'<iframe title="report" class="report" sandbox="allow-scripts" srcdoc="{source}"></iframe>'
    )
