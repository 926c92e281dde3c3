"""What leaves the panel: stems as files, presets, a stem that is dragged out; and the queue."""

import pytest
import soundfile
from playwright.sync_api import expect

from plugin_host.cli import main
from tests.support.host_audio import music
from tests.support.sidecars import wait_until

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.slow]


def test_stems_are_written_beside_the_song_as_separate_writes_them(
    panel, open_page, song, bundle, tmp_path
):
    page = open_page(panel)
    spans = [{"start_s": 0.5, "end_s": 1.0}]
    panel.do("edit", {"do": "set-spans", "id": "p1", "spans": spans})
    panel.do("seed", {"seed": 5})
    page.keyboard.press("Control+s")
    expect(page.locator("#save-stems")).to_be_disabled()
    page.keyboard.press("Escape")
    page.locator("#separate").click()
    page.wait_for_selector(".take.done")
    page.keyboard.press("Control+s")
    page.locator("#save-stems").click()
    page.wait_for_selector("#told:has-text('3 files written')")
    arguments = ["separate", str(song), "-p", "half", "-p", "nothing", "--span", "half@0.5:1"]
    arguments += ["--seed", "5", "--model", str(bundle), "--in-process"]
    assert main([*arguments, "-o", str(tmp_path / "by command")]) == 0
    ours = song.parent / "stembridge-out" / "song"
    theirs = tmp_path / "by command" / "song"
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())
    for path in theirs.iterdir():
        assert (ours / path.name).read_bytes() == path.read_bytes()
    # Another take does not replace them unless that is said.
    panel.do("seed", {"seed": 6})
    panel.do("run", {"whole": True})
    panel.finished()
    refused = panel.ask("stems", {})
    assert refused.status == 400
    assert "--overwrite" in refused.json["error"]
    panel.do("stems", {"overwrite": True})


def test_a_preset_is_saved_and_read_back(panel, open_page, song):
    page = open_page(panel)
    spans = [{"start_s": 0.25, "end_s": 0.75, "polarity": "-"}]
    panel.do("edit", {"do": "set-spans", "id": "p2", "spans": spans})
    panel.do("edit", {"do": "change-prompt", "id": "p1", "name": "vox"})
    strip = {"gain_db": -4.5, "mute": True, "pan": 0.0, "solo": False}
    panel.do("mix", {"key": "p1", "strip": strip})
    panel.do("seed", {"seed": 11})
    page.keyboard.press("Control+s")
    page.fill("#preset-name", "mine")
    page.fill("#preset-description", "for the chorus")
    page.select_option("#preset-where", "project")
    page.locator("#save-preset button").click()
    page.wait_for_selector("#told:has-text('Preset mine saved')")
    shown = panel.run("preset", "show", "mine", "--project", song)
    assert shown.returncode == 0, shown.stderr
    for line in ('name = "vox"', "gain_db = -4.5", "mute = true", "seed = 11", "end_s = 0.75"):
        assert line in shown.stdout
    assert 'description = "for the chorus"' in shown.stdout
    # Everything gone, and brought back from it.
    before = panel.state()
    for key in ("p1", "p2"):
        panel.do("edit", {"do": "remove-prompt", "id": key})
    panel.do("seed", {"seed": 0})
    page.select_option("#load-preset", "mine")
    wait_until(lambda: len(panel.state()["prompts"]) == 2)
    after = panel.state()
    assert after["seed"] == 11
    for one, other in zip(before["prompts"], after["prompts"], strict=True):
        assert [one[key] for key in ("text", "name", "spans")] == [
            other[key] for key in ("text", "name", "spans")
        ]
    assert after["strips"][after["prompts"][0]["id"]] == strip
    # And the other way round: one that is there is not replaced unless that is said.
    refused = panel.ask("preset", {"name": "mine", "project": True})
    assert refused.status == 400
    assert panel.ask("preset", {"name": "mine", "project": True, "overwrite": True}).status == 200


def test_a_stem_is_dragged_out_as_a_file(panel, open_page):
    panel.do("run", {"whole": True})
    panel.finished()
    page = open_page(panel)
    link = page.locator('.lane[data-key="p1"] a')
    link.wait_for()
    told = link.evaluate(
        """(link) => {
          const data = new DataTransfer();
          link.dispatchEvent(new DragEvent('dragstart', {dataTransfer: data, bubbles: true}));
          return data.getData('DownloadURL');
        }"""
    )
    kind, name, address = told.split(":", 2)
    assert (kind, name) == ("audio/wav", "song half.wav")
    assert address.startswith(panel.address)
    answer = panel.ask(address.removeprefix(panel.address))
    assert answer.body[:4] == b"RIFF"
    assert 'filename="song half.wav"' in answer.headers["content-disposition"]


def test_the_queue_shows_and_cancels_jobs_of_others(panel, open_page, bundle, tmp_path):
    soundfile.write(tmp_path / "long.wav", music(120, 16000).T, 16000)
    page = open_page(panel)
    other = panel.start(
        *("separate", tmp_path / "long.wav", "-p", "half", "--model", bundle),
        *("--steps", "1000", "-o", tmp_path / "out"),
    )
    page.locator("#queue summary").click()
    row = page.locator("#queue li:has-text('solve')")
    row.wait_for()
    expect(row).to_contain_text("half · 2:00.0")
    row.locator("button").click()
    _, err = other.communicate()
    assert other.returncode != 0
    assert "interrupted" in err
    page.wait_for_selector("#queue li:has-text('Nothing to do.')")
