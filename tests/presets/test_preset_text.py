import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.request import Settings
from presets import Effect, Preset, PresetError, PresetStem, ResidualStem
from presets.preset import PresetSpan, check_preset, format_preset, parse_preset

words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(
    lambda text: text.strip()
)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=64)
effects = st.builds(
    Effect,
    plugin=words,
    name=st.none() | words,
    parameters=st.dictionaries(words, numbers | st.booleans() | words, max_size=3),
    state=st.none() | st.text(string.ascii_letters, max_size=20),
    bypass=st.booleans(),
)
spans = st.tuples(st.floats(0, 1e4), st.floats(1e-3, 1e3), st.sampled_from(["+", "-"])).map(
    lambda s: PresetSpan(s[0], s[0] + s[1], s[2])
)
stems = st.builds(
    PresetStem,
    text=words,
    spans=st.lists(spans, max_size=3).map(tuple),
    chain=st.lists(effects, max_size=2).map(tuple),
    gain_db=st.floats(-60, 20),
    mute=st.booleans(),
)


@st.composite
def presets(draw):
    named = tuple(
        PresetStem(s.text, f"stem {i}", s.spans, s.chain, s.gain_db, s.mute)
        for i, s in enumerate(draw(st.lists(stems, max_size=4)))
    )
    return Preset(
        description=draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=40)),
        model=draw(st.none() | words),
        model_sha256=draw(st.none() | st.text("0123456789abcdef", min_size=64, max_size=64)),
        provider=draw(st.none() | words),
        seed=draw(st.integers(0, 2**64 - 1)),
        steps=draw(st.none() | st.integers(1, 1000)),
        solver=draw(st.none() | st.sampled_from(["euler", "midpoint", "ab2", "unipc", "cubic"])),
        grid=draw(st.none() | st.sampled_from(["uniform", "sway", "pruned", "cosine"])),
        window_s=draw(st.none() | st.floats(5, 60)),
        overlap_s=draw(st.none() | st.floats(0, 4.9)),
        reconstruct=draw(st.none() | st.sampled_from(["raw", "null", "mask", "wiener"])),
        predict_spans=draw(st.booleans()),
        candidates=draw(st.integers(1, 64)),
        judge=draw(st.booleans()),
        watermark=draw(st.none() | st.integers(0, 65535)),
        listen=draw(st.none() | st.sampled_from(["channels", "mean"])),
        rerun=draw(st.sampled_from(["add", "update"])),
        stems=named,
        residual=ResidualStem(chain=tuple(draw(st.lists(effects, max_size=1)))),
    )


@pytest.mark.slow
@given(presets())
@settings(max_examples=150)
def test_what_is_written_reads_back_equal(preset):
    assert parse_preset(format_preset(preset)) == check_preset(preset)


@given(presets())
@settings(max_examples=30)
def test_writing_is_stable(preset):
    once = format_preset(preset)
    assert format_preset(parse_preset(once)) == once


@given(st.text(max_size=200))
def test_any_text_is_refused_in_one_line(text):
    with pytest.raises(PresetError) as caught:
        parse_preset(f"format = 1\nunknown = 1\n{text}", source="x.toml")
    assert str(caught.value).startswith("x.toml: ")
    assert "\n" not in str(caught.value)


def test_a_hand_written_file():
    preset = parse_preset(
        """
        # my vocals
        format = 1
        seed = 7
        [[prompts]]
        text = "lead vocals"
        name = "vox"
        spans = [{ start_s = 1, end_s = 2.5 }, { start_s = 4, end_s = 5, polarity = "-" }]
        [[prompts.chain]]
        plugin = "Compressor"
        parameters = { threshold_db = -18 }
        """
    )
    assert preset.prompts[0].stem == "vox"
    assert [span.polarity for span in preset.prompts[0].spans] == ["+", "-"]
    assert preset.stems[0].chain[0].parameters == {"threshold_db": -18}
    assert preset.settings == Settings(seed=7)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("format = 1\nsede = 3", "x: top level: .*unknown field `sede`"),
        ("format = 1\n[[prompts]]\ntext = 'a'\ntxt = 1", r"x: prompts\[0\]: .*unknown.*`txt`"),
        (
            "format = 1\n[[prompts]]\ntext = 'a'\n[[prompts.chain]]\nplugin = 3",
            r"x: prompts\[0\]\.chain\[0\]\.plugin: Expected `str`, got `int`",
        ),
        ("format = 1\nseed = -1", "x: seed is -1"),
        ("format = 1\nsteps = 0", "x: steps is 0"),
        ("format = 1\nsolver = 'rk4'", "x: solver: .*rk4"),
        ("format = 1\nwatermark = 65536", "x: watermark is 65536"),
        ("format = 1\nwindow_s = 1.0\noverlap_s = 1.0", "x: overlap_s is 1"),
        ("format = 1\n[[prompts]]\ntext = ' '", r"prompts\[0\]\.text is empty"),
        ("format = 1\n[[prompts]]\ntext = 'a'\nname = 'a/b'", r"prompts\[0\]\.name"),
        ("format = 1\nprompts = [{text = 'a'}, {text = 'A'}]", r"prompts\[1\]\.name: 'a' is taken"),
        (
            "format = 1\n[[prompts]]\ntext = 'a'\nspans = [{start_s = 2, end_s = 1}]",
            r"prompts\[0\]\.spans\[0\]: 2 to 1 s",
        ),
        ("seed = 1", "x: format: expected a whole number such as 1, got None"),
        ("format = 99", "x: format: 99 is newer"),
        ("format = 0", "x: format: 0 is too old"),
        ("format = [", "x: not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(text, expected):
    with pytest.raises(PresetError, match=expected):
        parse_preset(text, source="x")


def test_a_preset_can_hold_every_setting():
    assert set(Settings.__struct_fields__) <= set(Preset.__struct_fields__)


@pytest.mark.parametrize(
    ("found", "told"), [("0", "too old"), ("2", "newer"), ("true", "whole"), ('"1"', "whole")]
)
def test_other_formats_are_refused(found, told):
    with pytest.raises(PresetError, match=f"format: .*{told}"):
        parse_preset(f'format = {found}\n[[prompts]]\ntext = "drums"')


def test_a_mark_that_windows_writes_before_a_text_is_no_part_of_it():
    text = "format = 1\r\n[[prompts]]\r\ntext = 'drums'\r\n"
    assert parse_preset("\ufeff" + text) == parse_preset(text)
