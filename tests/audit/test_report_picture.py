"""A browser draws the report: nothing overflows at 1280 and 420 pixels, dark and light, and no script complains."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from sabotage import change_shard, fewer_masks, full_train
from tiny_dataset import make_dataset

from pipelines.audit import audit_dataset
from pipelines.report import render_report
from transforms.objectives.mlm import Mlm
from transforms.objectives.span_corruption import SpanCorruption

_BROWSER = next((b for b in ("chromium", "chromium-browser", "google-chrome", "chrome") if shutil.which(b)), None)
_SCHEME = {"dark": 0, "light": 1}

_PROBE = """
<script>
var errors = [];
window.addEventListener("error", e => errors.push(String(e.message)));
window.addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const wide = [...page.querySelectorAll("body *")].filter(e => !e.closest(".scroll, svg") &&
    e.getBoundingClientRect().right > root.clientWidth + 1);
  const found = {errors, width: root.clientWidth, scroll: root.scrollWidth, height: root.scrollHeight,
    wide: wide.slice(0, 5).map(e => e.tagName + "." + e.className + " " + e.textContent.slice(0, 40)),
    paper: page.defaultView.getComputedStyle(page.body).backgroundColor,
    charts: page.querySelectorAll("svg").length, empty: [...page.querySelectorAll("svg")].filter(
      s => s.getBoundingClientRect().height < 40).length};
  document.body.dataset.found = JSON.stringify(found);
});
</script>
"""


def draw(report: bytes, folder: Path, width: int, scheme: str) -> dict[str, object]:
    """What a browser makes of the report in a frame of this width, which media queries take for the screen."""
    page = folder / f"{width}-{scheme}.html"
    frame = (
        f'<iframe style="border:0;width:{width}px;height:4000px" srcdoc="{html.escape(report.decode())}"></iframe>'
    )
    page.write_text(f'<!doctype html><meta charset="utf-8">{_PROBE}<body style="margin:0">{frame}</body>')
    command = [
        str(_BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={_SCHEME[scheme]}",
        f"--window-size={max(width, 500)},4000", f"--screenshot={page.with_suffix('.png')}", "--dump-dom",
        page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    return dict(json.loads(html.unescape(found[1])))


@pytest.mark.skipif(_BROWSER is None, reason="no Chromium is installed, so nothing can draw the report")
@pytest.mark.parametrize("width", [1280, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_the_report_without_errors_or_overflow(tmp_path: Path, width: int, scheme: str) -> None:
    objective = Mlm() if scheme == "light" else SpanCorruption()
    spoil = change_shard(full_train, fewer_masks) if scheme == "light" else None
    dataset = make_dataset(tmp_path / "data", objective, spoil=spoil, blocks=1)
    found = draw(render_report(audit_dataset(dataset)), tmp_path, width, scheme)
    assert found["errors"] == []
    assert found["width"] == width
    assert found["scroll"] == width, found["wide"]
    assert found["wide"] == []
    assert found["charts"] == (10 if scheme == "light" else 9)
    assert found["empty"] == 0
    assert found["paper"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}[scheme]
    picture = (tmp_path / f"{width}-{scheme}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 30_000
