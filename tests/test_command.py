"""How a stage ends: at a signal at once, at a user's mistake with one line, at its own with a traceback."""

import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT


def start(main: str, setup: str = "from stages.console.command import run") -> subprocess.Popen:
    code = f"import os, sys\n{setup}\ndef main():\n    {main}\nrun(main)\n"
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-u", "-c", code], cwd=ROOT, **options)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_stage_inside_a_long_call_within_a_second(how):
    process = start("print('begun'); sum(range(10**12))")
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.2)
    process.send_signal(how)
    assert process.wait(1) == -how
    assert process.communicate() == ("", "")


@pytest.mark.parametrize(
    ("main", "message"),
    [
        ("raise errors.UserError('seed is odd')", "error: seed is odd\n"),
        ("open('missing/file')", "error: missing/file: No such file or directory\n"),
        ("raise OSError(28, 'x', 'a.npy')", "error: a.npy: No space left on device\n"),
        ("raise OSError('two\\n lines')", "error: input or output: two lines\n"),
    ],
)
def test_what_the_user_can_mend_is_one_line(main, message):
    process = start(main, "from stages.console import errors; from stages.console.command import run")
    assert process.communicate()[1] == message
    assert process.returncode == 1


@pytest.mark.parametrize("error", ["TypeError", "ValueError", "KeyError", "AssertionError", "MemoryError"])
def test_a_fault_of_the_program_shows_where_it_is(error):
    shown = start(f"raise {error}('ours')").communicate()[1]
    assert shown.startswith("Traceback")
    assert shown.splitlines()[-1].startswith(error)


def test_a_misspelt_key_is_refused_before_a_stage_begins(tmp_path):
    (tmp_path / "params.yaml").write_text("thread: 2\n")
    process = start("print('begun')", f"from stages.console.command import run\nos.chdir({str(tmp_path)!r})")
    shown = process.communicate()
    assert shown[0] == "" and re.match(r"error: params\.yaml: .*thread is unknown; [^\n]*\n$", shown[1])


def test_of_what_a_library_says_chatter_is_hidden_and_a_last_word_before_it_aborts_is_not():
    hidden = """
from stages.console import chatter
def run(main):
    with chatter.hidden():
        main()
"""
    lines = "I0000 00:00 on\\nWARNING: All log messages before absl::InitializeLog() is called\\n"
    process = start(f"os.write(2, b'{lines}F0000 no AVX\\n'); os.abort()", hidden)
    assert process.communicate()[1] == "F0000 no AVX\n"
    assert process.returncode == -signal.SIGABRT
    process = start(
        f"os.write(2, b'{lines}E0000 an error\\n')", hidden + "    os.write(2, b'I0000 afterwards\\n')"
    )
    assert process.communicate()[1] == "E0000 an error\nI0000 afterwards\n"
    assert process.returncode == 0
