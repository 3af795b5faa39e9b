"""The page of a run in a real browser, where there is one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

# A browser in a snap sees neither the temporary folder nor its own profile there.
BROWSER = next(
    (path for path in map(shutil.which, ("chromium", "google-chrome")) if path and "/snap" not in path), None
)


@pytest.mark.skipif(
    BROWSER is None,
    reason="needs a Chromium or Chrome on the PATH (Debian: apt install chromium); tests/unit/report checks the page's "
    "text, links and drawings without one",
)
def test_a_browser_shows_the_title_and_three_drawings(small_run: Path, content: dict[str, Any], tmp_path: Path) -> None:
    page = small_run / "report.html"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    done = subprocess.run(
        [str(BROWSER), *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert f"<title>{content['question']}</title>" in done.stdout
    assert done.stdout.count("<svg") == done.stdout.count("</svg>") == 3
    # What each system and model rests on, and the commands below each ranking.
    assert done.stdout.count("<details") == len(content["assumptions"]) + len(content["findings"])
