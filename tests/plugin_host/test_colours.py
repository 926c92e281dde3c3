"""Tracks of stems are coloured by what sounds on them."""

import pytest
import soundfile
from test_reaper_tracks import item, track

from plugin_host.cli import main
from plugin_host.daw.apply import family_colour
from plugin_host.daw.rpp import parse
from tests.support.host_audio import RATE, music


def test_names_of_one_family_have_one_colour():
    vocals = family_colour("vox")
    assert family_colour("1", "lead vocals") == family_colour("Choir") == vocals
    assert family_colour("drums") == family_colour("part", "snare drum") != vocals
    assert family_colour("left", "something") == family_colour("right")
    # A name comes before a prompt.
    assert family_colour("bass", "no vocals") == family_colour("bass")


@pytest.mark.parametrize("colour", [True, False])
def test_stem_tracks_of_reaper_have_it_and_the_height_of_the_track(tmp_path, bundle, colour):
    soundfile.write(tmp_path / "a.wav", music(4, RATE).T, RATE)
    path = tmp_path / "a.rpp"
    made = track(item(COLOR="123"), lines="PEAKCOL 5\nTRACKHEIGHT 80 0 0")
    path.write_text(f"<REAPER_PROJECT 0.1\n{made}>\n")
    options = ["--track", "Gtr", "-p", "drums=half", "--model", str(bundle), "--in-process"]
    options += [] if colour else ["--no-color"]
    assert main(["session", "apply", str(path), *options]) == 0
    _, folder, drums, _ = parse(path.read_text()).chunks("REAPER_PROJECT")[0].chunks("TRACK")
    assert folder.fields("PEAKCOL") == ["5"]
    if colour:
        red, green, blue = family_colour("drums")
        assert drums.fields("PEAKCOL") == [str(0x1000000 | blue << 16 | green << 8 | red)]
        assert drums.fields("TRACKHEIGHT") == ["80", "0", "0"]
    else:
        assert drums.fields("PEAKCOL") is None
    assert (drums.chunks("ITEM")[0].fields("COLOR") is None) == colour
