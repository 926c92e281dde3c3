import subprocess
import sys

import pytest

from plugin_host import cli
from plugin_host.cli import COMMANDS, main


def test_the_overview_lists_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert command.name in out
        assert command.summary.split()[0] in out


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_every_command_exists_and_explains_itself(name, capsys):
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"stembridge {name}" in out


def test_the_overview_imports_no_command():
    code = (
        "import sys; from plugin_host.cli import main; main(['--help'])\n"
        "heavy = {'numpy', 'soundfile', 'matplotlib', 'onnxruntime', 'pedalboard', 'zmq'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "loaded: []" in run.stdout


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("stembridge")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["seperate", "x.wav"], "No such command 'seperate'. Did you mean 'separate'"),
        (["separate"], "INPUT"),
        (["preset", "shw"], "Did you mean 'show'?"),
        (["--verbose"], "No such option"),
    ],
)
def test_typing_errors_get_a_hint_in_one_line(arguments, expected, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1


def test_an_error_of_ours_is_told_apart(monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("boom")

    monkeypatch.setattr(cli, "build_app", broken)
    assert main(["demo"]) == 1
    err = capsys.readouterr().err
    assert "internal error: RuntimeError: boom" in err
    assert "Traceback" not in err


def test_a_reader_that_goes_away_is_no_error():
    code = "import sys; from plugin_host.cli import main; sys.exit(main())"
    run = subprocess.Popen(
        [sys.executable, "-c", code, "preset", "show", "band"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    run.stdout.close()
    err = run.stderr.read()
    run.stderr.close()
    assert run.wait() in (0, 1)
    assert "Traceback" not in err
