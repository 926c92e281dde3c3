"""A setting is defined in one place; everything else follows."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]

FIELD = """
    hue: Annotated[int, _Said("How purple the stems are.", 0, 9)] = 3


class ResolvedSettings("""

ASK = """
import json
import msgspec
from bridge.bundles.bundle import find_bundle
from bridge.bundles.manifest import resolve
from bridge.bundles.bundle import load_manifest
from bridge.errors import InputError
from bridge.request import Settings, settings_table
from bridge.separation import Report
from bridge.request import make_settings
from bridge.wire.codec import decode, encode
from bridge.wire.messages import AudioInfo, ModelRef
from bridge.wire.messages import Submit
from bridge.request import Prompt
from plugin_host import Separate
from presets import format_preset, parse_preset

try:
    make_settings(hue=10)
except InputError as error:
    refused = str(error)
submit = Submit(
    request=1, model=ModelRef("mini"), audio=AudioInfo("0" * 64, 8000, 1, 8000),
    prompts=(Prompt("drums", "drums"),), settings=make_settings(hue=5),
)
message, _ = decode(encode(submit))
preset = parse_preset('format = 1\\nhue = 7\\n[[prompts]]\\ntext = "drums"')
print(json.dumps({
    "refused": refused,
    "wire": message.settings.hue,
    "preset": preset.settings.hue,
    "written": "hue = 7" in format_preset(preset),
    "resolved": resolve(Settings(hue=4), load_manifest(find_bundle("mini"))).hue,
    "report": "hue" in Report.__struct_fields__,
    "effect": Separate("drums", hue=6).parameters["hue"],
    "table": "| `hue` | 0 to 9 | 3 | How purple the stems are. |" in settings_table(),
}))
"""


@pytest.fixture
def copy(tmp_path):
    """A copy of the program with one setting more."""
    for package in ("bridge", "plugin_host", "onnx_export", "presets"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    request = tmp_path / "bridge" / "request.py"
    text = request.read_text("utf-8")
    assert text.count("\n\nclass ResolvedSettings(") == 1
    request.write_text(text.replace("\n\nclass ResolvedSettings(", FIELD), "utf-8")
    return tmp_path


def run(copy, program, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(copy), "COLUMNS": "200"},
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_setting_added_in_one_place_is_found_everywhere(copy):
    assert json.loads(run(copy, ASK)) == {
        "refused": "hue is 10; expected 0 to 9",
        "wire": 5,
        "preset": 7,
        "written": True,
        "resolved": 4,
        "report": True,
        "effect": 6,
        "table": True,
    }
    program = "import sys; from plugin_host.cli import main; sys.exit(main())"
    for command in (("separate",), ("preset", "save"), ("session", "apply")):
        shown = run(copy, program, *command, "--help")
        assert "--hue" in shown
        assert "How purple the stems are. (default: 3)" in " ".join(shown.split())
