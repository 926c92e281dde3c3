"""`Separate`, `Chain` and `Split` with real plug-ins and a model of formulas."""

import numpy as np
import pedalboard
import pytest
from pedalboard_native._internal import AddLatency

from bridge import Engine, InputError, Prompt, Span
from plugin_host import Chain, Separate, Split
from plugin_host.effects.presets import load_plugin
from presets import Effect, Preset, PresetStem
from tests.support.host_audio import RATE, music

ZAMAXIMX2 = "/usr/lib/vst3/ZaMaximX2.vst3"
BLOCKS = (64, 480, 1000, 8192)


@pytest.fixture(scope="module")
def engine(bundle):
    with Engine(bundle, threads=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def zamaximx2():
    """A real VST3 with 480 samples of latency, set so low that it acts."""
    plugin = load_plugin(Effect(ZAMAXIMX2))
    plugin.threshold_db = -20
    plugin.output_ceiling_db = -6
    return plugin


@pytest.fixture(scope="module")
def song():
    return music(1.7)


def stream(effect, audio, block):
    parts = [
        effect.process(audio[:, start : start + block], RATE, reset=False)
        for start in range(0, audio.shape[1], block)
    ]
    parts.append(effect.flush())
    assert effect.latency_samples == 0
    return np.concatenate(parts, axis=1)


def level_db(audio):
    return 20 * np.log10(np.abs(audio).max() + 1e-30)


# Separate


def test_keep_chooses_target_residual_or_remix(engine, song):
    def kept(**options):
        return Separate("half", separator=engine, reconstruct="null", **options)(song, RATE)

    target, residual = kept(), kept(keep="residual")
    assert level_db(target + residual - song) < -100
    assert np.abs(target - song / 2).max() > 1e-3
    assert level_db(kept(gain_db=6.0) - 10 ** (6 / 20) * target) < -100
    assert level_db(kept(keep="residual", gain_db=-6.0) - 10 ** (-6 / 20) * residual) < -100
    assert level_db(kept(keep="remix") - song) < -100
    louder = kept(keep="remix", gain_db=6.0)
    assert level_db(louder - (10 ** (6 / 20) * target + residual)) < -100


def test_wet_and_bypass(engine, song):
    effect = Separate("half", separator=engine)
    wet = effect(song, RATE)
    effect.wet = 0.25
    assert level_db(effect(song, RATE) - (0.25 * wet + 0.75 * song)) < -100
    effect.bypass = True
    assert np.array_equal(effect(song, RATE), song)
    effect.bypass, effect.wet = False, 0.0
    assert np.array_equal(effect(song, RATE), song)


@pytest.mark.parametrize("shape", ["flat", "channels_first", "samples_first"])
def test_the_layout_of_the_input_comes_back(engine, song, shape):
    effect = Separate("half", separator=engine)
    given = {"flat": song[0], "channels_first": song, "samples_first": song.T}[shape]
    assert effect(given, RATE).shape == given.shape


def test_parameters_are_readable_and_settable_by_name(engine, song):
    effect = Separate("half", separator=engine, seed=3, spans=[Span(0.0, 1.0)])
    assert effect.seed == 3
    assert effect.parameters["spans"] == (Span(0.0, 1.0),)
    effect.prompt, effect.spans = "nothing", ()
    assert level_db(effect(song, RATE)) < -60
    with pytest.raises(AttributeError, match="did you mean 'gain_db'"):
        effect.gain = 3
    with pytest.raises(AttributeError, match="no parameter 'treshold'"):
        _ = effect.treshold


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("keep", "stem", "expected one of target, residual, remix"),
        ("gain_db", 200, "expected -120 to 60"),
        ("wet", 1.1, "expected 0 to 1"),
        ("segment_s", 0, "at least 0.1 s"),
        ("steps", 0, "steps is 0"),
        ("seed", -1, "seed is -1"),
        ("prompt", "", "empty"),
        ("spans", [Span(2, 1)], "ends before it starts"),
        ("reconstruct", "best", "expected raw, null, mask"),
    ],
)
def test_a_wrong_value_is_refused_and_the_old_one_stays(engine, name, value, expected):
    effect = Separate("half", separator=engine)
    before = effect.parameters
    with pytest.raises(InputError, match=expected):
        setattr(effect, name, value)
    assert effect.parameters == before


@pytest.mark.parametrize("keep", ["target", "residual", "remix"])
def test_the_state_is_a_preset(engine, song, keep):
    effect = Separate(
        "half", keep, gain_db=-3, spans=[Span(0.2, 0.9, "-")], wet=0.7, segment_s=0.5, seed=4,
        model="tiny", separator=engine,
    )  # fmt: skip
    twin = Separate.from_preset(effect.to_preset(), separator=engine)
    assert twin.parameters == effect.parameters
    assert np.array_equal(twin(song, RATE), effect(song, RATE))


def test_a_preset_with_more_than_one_prompt_is_no_separate():
    preset = Preset(stems=(PresetStem("a"), PresetStem("b")))
    with pytest.raises(InputError, match="one prompt, got 2"):
        Separate.from_preset(preset)


@pytest.mark.parametrize("segment_s", [None, 0.5])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_stream_of_separate_equals_the_whole_buffer(engine, song, segment_s, block):
    effect = Separate("half", separator=engine, segment_s=segment_s, spans=[Span(0.4, 0.8)])
    assert np.array_equal(stream(effect, song, block), effect(song, RATE))


def test_segments_join_without_a_seam(engine, song):
    # Every segment of the model of formulas lands on half of the mixture, whatever its noise.
    whole = Separate("half", separator=engine, reconstruct="raw")(song, RATE)
    parts = Separate("half", separator=engine, reconstruct="raw", segment_s=0.4)(song, RATE)
    inside = slice(2000, -2000)
    assert level_db((parts - whole)[:, inside]) < level_db(whole) - 40


def test_segments_flow_and_latency_is_what_is_held(engine, song):
    effect = Separate("half", separator=engine, segment_s=0.3)
    given = 0
    for start in range(0, song.shape[1], 1000):
        given += effect.process(song[:, start : start + 1000], RATE, reset=False).shape[1]
        assert effect.latency_samples == min(start + 1000, song.shape[1]) - given
    effect.flush()
    assert effect.latency_samples == 0
    assert effect.flush().shape == (0,)


def test_a_stream_does_not_change_its_format(engine, song):
    effect = Separate("half", separator=engine)
    effect.process(song[:, :1000], RATE, reset=False)
    with pytest.raises(InputError, match="flush"):
        effect.process(song[:1, :1000], RATE, reset=False)
    with pytest.raises(InputError, match="at 48000"):
        effect.process(song[:, :1000], 48000, reset=False)
    effect.reset()
    assert effect.process(song[:1, :1000], 48000, reset=False).shape == (1, 0)
    effect.reset()


@pytest.mark.parametrize(
    ("audio", "rate"),
    [(np.zeros(100, np.int16), RATE), (np.zeros(100), 44100.5), (np.full(100, np.nan), RATE)],
)
def test_whole_buffers_that_cannot_be_processed_are_refused(engine, audio, rate):
    with pytest.raises(InputError):
        Separate("half", separator=engine)(audio, rate)


# Chain


def test_an_empty_chain_gives_back_its_input(song):
    assert np.array_equal(Chain([])(song, RATE), song)
    assert np.array_equal(stream(Chain([Chain([])]), song, 1000), song)


@pytest.mark.needs("zam-plugins")
def test_native_plug_ins_do_what_pedalboard_does(song, zamaximx2):
    plugins = [pedalboard.Compressor(threshold_db=-30, ratio=4), zamaximx2, pedalboard.Gain(-3)]
    chain = Chain([plugins[0], Chain(plugins[1:])])
    expected = pedalboard.Pedalboard(plugins)(song, RATE)
    assert np.array_equal(chain(song, RATE), expected)
    assert np.abs(expected - song).max() > 0.01


@pytest.mark.parametrize("latency", [0, 1, 480, 8192, 10000])
def test_latency_is_taken_out_and_the_length_kept(song, latency):
    chain = Chain([AddLatency(latency), AddLatency(7)])
    assert np.array_equal(chain(song, RATE), song)
    assert np.array_equal(chain(song[:, :100], RATE), song[:, :100])
    assert np.array_equal(stream(chain, song, 1000), song)


def test_a_real_plug_in_around_separate_stays_aligned(engine, song):
    # At this ceiling the limiters only delay, by 480 samples each.
    before, after = (load_plugin(Effect(ZAMAXIMX2)) for _ in range(2))
    before.output_ceiling_db = after.output_ceiling_db = 0
    before.threshold_db = after.threshold_db = 0
    out = Chain([before, Separate("half", separator=engine), after])(song, RATE)
    alone = Separate("half", separator=engine)(song, RATE)
    lags = np.arange(-1000, 1001)
    centre = slice(1000, -1000)
    match = [float(np.vdot(out[0][centre], np.roll(alone[0], lag)[centre])) for lag in lags]
    assert lags[int(np.argmax(match))] == 0
    assert out.shape == song.shape


def test_a_plug_in_cannot_stand_in_two_places():
    gain = pedalboard.Gain(-1)
    for twice in ([gain, gain], [gain, Chain([gain])], [gain, Split({"half": gain})]):
        with pytest.raises(InputError, match="twice"):
            Chain(twice)


@pytest.mark.needs("zam-plugins")
@pytest.mark.parametrize("segment_s", [None, 0.5])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_stream_with_a_real_plug_in_equals_the_whole_buffer(
    engine, song, zamaximx2, segment_s, block
):
    separate = Separate("half", separator=engine, segment_s=segment_s)
    after = load_plugin(Effect(ZAMAXIMX2))
    chain = Chain([zamaximx2, separate, after, pedalboard.Delay(0.05)])
    whole = chain(song, RATE)
    assert np.array_equal(stream(chain, song, block), whole)
    assert chain.dry_reason is None


@pytest.mark.parametrize("effect", ["Gain", 3, object()])
def test_what_is_no_effect_is_refused(effect):
    with pytest.raises(InputError, match="effect 1 is"):
        Chain([effect])


def test_python_subclasses_that_pedalboard_would_ignore_are_refused():
    class Louder(pedalboard.Gain):
        def process(self, audio, *_, **__):
            return 2 * audio

    with pytest.raises(InputError, match="expected a pedalboard plug-in"):
        Chain([Louder()])


@pytest.mark.needs("zam-plugins")
def test_a_mono_plug_in_on_stereo_is_told(song):
    chain = Chain([load_plugin(Effect("/usr/lib/vst3/ZamComp.vst3"))])
    with pytest.raises(InputError, match="refuses 2 channels"):
        chain(song, RATE)


def test_plug_ins_do_not_change_the_arithmetic_of_the_thread(song):
    smallest = np.array([5e-324])
    assert (smallest * 1.0)[0] > 0.0
    plugin = load_plugin(Effect(ZAMAXIMX2))
    assert (smallest * 1.0)[0] > 0.0
    Chain([plugin])(song, RATE)
    assert (smallest * 1.0)[0] > 0.0


# Split


@pytest.mark.parametrize("residual", [{}, {"residual": []}, {"residual": Chain([])}])
def test_a_split_with_empty_chains_nulls_against_its_input(engine, song, residual):
    split = Split({"half": Chain([]), Prompt("nothing", "none"): [], **residual}, separator=engine)
    assert level_db(split(song, RATE) - song) < -100


def test_each_stem_goes_through_its_chain(engine, song):
    stems = engine.separate(song, RATE, [Prompt("half"), Prompt("nothing", "none")])
    split = Split(
        {
            "half": pedalboard.Gain(-6),
            Prompt("nothing", "none"): None,
            "residual": [AddLatency(90)],
        },
        separator=engine,
    )
    expected = 10 ** (-6 / 20) * stems.stems["half"] + stems.residual
    assert level_db(split(song, RATE) - expected) < -100


@pytest.mark.needs("zam-plugins")
@pytest.mark.parametrize("block", [480, 8192])
def test_a_stream_of_a_split_equals_the_whole_buffer(engine, song, zamaximx2, block):
    split = Split(
        {"half": [zamaximx2], "residual": [AddLatency(1000), pedalboard.Reverb()]},
        separator=engine,
        segment_s=0.5,
    )
    chain = Chain([pedalboard.Gain(-1), split])
    assert np.array_equal(stream(chain, song, block), chain(song, RATE))


def test_a_split_refuses_what_separate_refuses(engine):
    with pytest.raises(InputError, match="no prompts"):
        Split({"residual": []}, separator=engine)
    with pytest.raises(InputError, match="steps is 0"):
        Split({"half": []}, separator=engine, steps=0)
