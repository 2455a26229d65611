"""Results and messages reach the terminal whatever it is like, and the noise of libraries does not."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import HANG, PFMAP, interruptible, wait_until
from conftest import Write, blobs

ROOT = Path(__file__).parents[2]

# Runs the command line with a command of its own, which loads no heavy library.
COMMAND = """
import os, signal, sys
import click
from pfmap.cli import main
from pfmap.cli.common import Command
from pfmap.cli.screen import say, show
from pfmap.core.errors import SourceError

@click.command(cls=Command)
@click.argument("name", default="")
def own(name):
    os.write(2, b"ERROR 1: from C, https://h/a.tif?sig=abc\\x1b[31m\\n")
    print("from Python", file=sys.stderr)
    {body}

main.LazyGroup.get_command = lambda *_: own
main.run(["own", *sys.argv[1:]])
"""


def command(body: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", COMMAND.format(body=body), *arguments]


def instead(body: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(body, *arguments), capture_output=True, text=True, check=False, cwd=ROOT, **options
    )


def redirected(how: str, body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    shell = ["bash", "-c", f'"$@" {how}', "bash", *command(body, *arguments)]
    return subprocess.run(shell, capture_output=True, text=True, check=False, cwd=ROOT)


def test_what_libraries_say_is_kept_to_itself() -> None:
    assert instead("pass").stderr == ""


def test_verbose_shows_what_libraries_say_without_secrets_and_codes() -> None:
    said = instead("pass", "--verbose").stderr
    assert said.splitlines() == [r"ERROR 1: from C, https://h/a.tif?<redacted>", "from Python"]


def test_verbose_passes_on_all_of_a_flood() -> None:
    said = instead("os.write(2, b'noise %d\\n' * 3000 % tuple(range(3000)))", "-v").stderr
    assert said.splitlines()[2:] == [f"noise {k}" for k in range(3000)]


@pytest.mark.parametrize("arguments", [(), ("-v",)])
def test_what_pfmap_logs_is_said_once(arguments: tuple[str, ...]) -> None:
    body = "import logging; logging.getLogger('pfmap.any').warning('beware of https://h/a?sig=abc')"
    lines = instead(body, *arguments).stderr.splitlines()
    assert [line for line in lines if "beware" in line] == ["beware of https://h/a?<redacted>"]


def test_who_reads_no_more_of_the_noise_changes_nothing() -> None:
    body = "os.write(2, b'noise\\n' * 100_000); print('more', file=sys.stderr); show({'a': 1}); sys.exit(3)"
    done = redirected("2> >(head -1 >&2)", body, "-v")
    assert (done.returncode, json.loads(done.stdout)) == (3, {"a": 1})


@pytest.mark.parametrize(
    ("body", "status", "last"),
    [
        ("raise ValueError('a bug at https://h/b.tif?sig=abc')", 1, "This is a bug in pfmap: please report"),
        ("os.abort()", -signal.SIGABRT, None),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV, None),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, None),
    ],
)
def test_a_crash_that_nobody_foresaw_loses_nothing(body: str, status: int, last: str | None) -> None:
    done = instead(body)
    assert done.returncode == status
    assert [line for line in done.stderr.splitlines() if "from" in line or not line] == [
        r"ERROR 1: from C, https://h/a.tif?<redacted>",
        "from Python",
    ]
    assert "sig=abc" not in done.stderr
    if last is not None:
        assert "ValueError: a bug at" in done.stderr
        assert last in done.stderr


@pytest.mark.parametrize(
    "error", ["OSError(5, 'Input/output error', 'a.tif')", "OSError(122, 'Disk quota exceeded')"]
)
def test_what_the_system_refuses_is_one_line(error: str) -> None:
    done = instead(f"raise {error}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.match(
        r"Error: \[Errno \d+\] (Input/output error|Disk quota exceeded).*the system refused", line
    )
    assert "Traceback" in instead(f"raise {error}", "-v").stderr


@pytest.mark.parametrize("how", [">/dev/full", ">&-"])
@pytest.mark.parametrize(
    ("body", "argument"),
    [("say('a')", ""), ("show({'a': 1})", ""), ("say(*['a' * 100] * 1000)", ""), ("pass", "--help")],
)
def test_a_full_or_closed_output_is_an_error_in_one_line(how: str, body: str, argument: str) -> None:
    done = redirected(how, body, argument)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: the result cannot be printed (")


@pytest.mark.parametrize("how", ["2>/dev/full", "2>&-"])
def test_a_full_or_closed_standard_error_changes_nothing(how: str) -> None:
    done = redirected(how, "say('noted', err=True); show({'a': 1})")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"a": 1})
    assert redirected(how, "raise SourceError('no')").returncode == 1


def test_what_is_closed_is_not_the_number_of_a_file_that_is_written() -> None:
    done = redirected("2>&- <&-", "say(str(os.open('/', os.O_RDONLY) > 2))")
    assert done.stdout == "True\n"


def test_who_reads_no_more_ends_it_quietly() -> None:
    done = redirected("| true; echo ${PIPESTATUS[0]} >&2", "say(*['a' * 100] * 10_000)")
    assert done.stderr == "141\n"


HOSTILE = "a\x1b]0;x\x07 \u202eb c\nd caf\udce9 \x9b31m.tif"
KINDS = ("SourceError(name)", "click.UsageError(name)", "OSError(5, 'no', name)", "ValueError(name)")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [*((kind, {}) for kind in KINDS), (KINDS[0], {"LC_ALL": "C"}), (KINDS[0], {"PYTHONIOENCODING": "ascii"})],
)
def test_hostile_names_are_shown_in_escapes(kind: str, settings: dict[str, str]) -> None:
    body = f"say(name); say(name, err=True); show([name], plain=True); raise {kind}"
    done = subprocess.run(
        command(body, HOSTILE), capture_output=True, check=False, cwd=ROOT, env=os.environ | settings
    )
    text = (done.stdout + done.stderr).decode()
    assert done.returncode in (1, 2)
    assert r"a\x1b]0;x\x07 \u202eb c\nd caf\xe9" in text
    assert ("Traceback" in text) == kind.startswith("ValueError")
    assert all(letter == "\n" or letter.isprintable() for letter in text)


def test_a_current_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    """torch would end the process from C, with a word about itself."""
    (tmp_path / "gone").mkdir()
    shell = 'cd "$1" && rmdir "$1" && shift && "$@"'
    arguments = [str(tmp_path / "gone"), PFMAP, "info", "scene.tif"]
    done = subprocess.run(["sh", "-c", shell, "sh", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: the current folder is gone: change to one that is there\n"


@pytest.mark.parametrize(("kind", "status"), [("", 1), ("S", 0)])
def test_too_few_files_that_may_be_open_are_said_or_raised(kind: str, status: int) -> None:
    """Else a virtual scene lacks sheets, or seems to change while it is mapped."""
    shell = ["bash", "-c", f'ulimit -{kind}n 30 && "$@"', "bash", *command("pass")]
    done = subprocess.run(shell, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == status
    assert ("30 files open, and needs up to 256: raise that limit (ulimit -n)" in done.stderr) == status


def test_what_cannot_be_stopped_leaves_no_draft(tmp_path: Path) -> None:
    body = """
    import threading
    from pathlib import Path
    from pfmap.cli.progress import run_with_progress
    from pfmap.core.files import private_folder
    def work(**_):
        with private_folder(Path(name)) as folder:
            (folder / "half").touch()
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait()
    run_with_progress(work, quiet=True)
    """
    done = instead(body.strip(), str(tmp_path))
    assert (done.returncode, done.stderr) == (143, "\nInterrupted.\n")
    assert list(tmp_path.iterdir()) == []


def test_only_the_screen_prints() -> None:
    """Everything goes through it: what is printed elsewhere is neither safe nor kept apart."""
    printing = re.compile(r"click\.s?echo|\bprint\(|\bsys\.std(out|err)\b")
    files = [path for path in (ROOT / "pfmap").rglob("*.py") if path.name != "screen.py"]
    assert [path.name for path in files if printing.search(path.read_text())] == []


def test_only_one_module_makes_tables_and_escapes() -> None:
    making = re.compile(r"csv\.(writer|DictWriter)|html\.escape|quoteattr")
    files = [path for path in (ROOT / "pfmap").rglob("*.py") if path.name != "errors.py"]
    assert [path.name for path in files if making.search(path.read_text())] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "status"),
    [([signal.SIGTERM], 143), ([signal.SIGHUP], 129), ([signal.SIGTERM, signal.SIGTERM], 143)],
)
def test_what_ends_a_run_leaves_no_half_file(
    signals: list[signal.Signals], status: int, small: str, write_scene: Write, tmp_path: Path
) -> None:
    scene = write_scene(blobs(3000, 3000))
    out = tmp_path / "out"
    command = interruptible(PFMAP, "predict", scene, "-m", small, "-o", out)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: out.is_dir() and any(out.iterdir()), process)
    for each in signals:
        process.send_signal(each)
    _, error = process.communicate(timeout=HANG)
    assert process.returncode == status
    assert "Interrupted" in error
    assert "Traceback" not in error
    assert [path for path in out.iterdir() if path.name != ".scene.pfmap"] == []
