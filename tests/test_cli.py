"""The command line as a user meets it: exit status, messages, no traceback."""

import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from archipelago.cli.app import main
from archipelago.cli.faults import spoken
from archipelago.cli.progress import Progress, amount, clock, line
from archipelago.cli.show import run_lines
from archipelago.journal.runs import RunLine


def run(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "archipelago", *arguments], capture_output=True, text=True, cwd=cwd
    )


def status(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def test_help_takes_about_a_second_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom archipelago.cli.app import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'pydantic', 'sklearn', 'onnx'} & {*sys.modules}))"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert time.monotonic() - start < 1.5
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert "check" in done.stdout


def test_a_known_error_is_one_message_and_status_2(tmp_path: Path) -> None:
    done = run("check", "absent.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: absent.toml: no such file\n  fix: archipelago new digits run.toml\n"
    )


def test_all_faults_of_a_file_are_named_in_one_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(
        'stratgy = 1\nseed = "x"\nconstraints = ["parms < 3"]\n'
        '[client]\nkind = "local"\nstpes = 3\n[cohort]\nfraction = 7\n'
    )
    assert status("check", str(bad)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"error: 5 faults in {bad}"
    assert sorted(lines[1:]) == sorted(
        [
            "  stratgy: no such setting. Did you mean 'strategy'?",
            "  seed: must be a whole number, got 'x'.",
            "  constraints: no such choice, got 'parms'. Did you mean 'params'?",
            "  client: 'local' has no option 'stpes'. Choose one of batch, clip, epochs, "
            "learning_rate, momentum, optimizer, path, patience, proximal, schedule, "
            "weight_decay.",
            "  cohort.fraction: must lie in (0, 1], got 7.0.",
        ]
    )


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "the file is empty"),
        (b"x = ", "is not TOML: invalid value"),
        (b"\xff\xfe", "is not text in UTF-8"),
        (b"#" * 1_000_001, "too long for a run file"),
    ],
)
def test_a_file_that_is_no_run_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, text: str
) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(data)
    assert status("check", str(path)) == 2
    assert f"error: {path}: {text}" in capsys.readouterr().err


def test_a_directory_is_no_run_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("check", str(tmp_path)) == 2
    assert "cannot be read: Is a directory" in capsys.readouterr().err


def test_names_from_files_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("check", "\x1b[2Jx") == 2
    assert capsys.readouterr().err.startswith(r"error: \x1b[2Jx: no such file")


def test_new_copies_a_preset_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine.toml"
    assert status("new", "quick", str(target)) == 0
    assert capsys.readouterr().out == f"wrote {target}; next: archipelago plan {target}\n"
    assert "archipelago search quick.toml" in target.read_text()
    assert status("new", "quick", str(target)) == 2
    assert "this file exists" in capsys.readouterr().err
    assert status("new", "quik") == 2
    assert "did you mean 'quick'?" in capsys.readouterr().err
    assert status("new") == 0
    assert "quick" in capsys.readouterr().out


def test_parts_are_listed_with_options_and_as_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("parts", "client") == 0
    out = capsys.readouterr().out
    assert '[client] kind = "local" (default)' in out
    assert "learning_rate  = 0.05" in out
    assert "[server]" not in out
    assert status("parts", "clent") == 2
    assert "did you mean 'client'?" in capsys.readouterr().err
    assert status("parts", "--schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Archipelago run file"


def test_doctor_tries_the_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("doctor", str(tmp_path)) == 0
    out = capsys.readouterr().out
    for name in ("torch build", "cores", "memory", "atomic rename"):
        assert f"ok  {name}" in out
    assert status("doctor", str(tmp_path / "absent")) == 1
    assert "NO " in capsys.readouterr().out


def test_runs_says_what_lies_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("runs", str(tmp_path)) == 0
    assert capsys.readouterr().out == f"{tmp_path}: no runs here\n"
    assert status("runs", str(tmp_path / "absent")) == 2
    assert "fix: archipelago runs DIR" in capsys.readouterr().err


ROUND = {
    "phase": "search",
    "round": 2,
    "rounds": 8,
    "generation": 1,
    "branches": 3,
    "clients": 12,
    "bytes": 1_234_567,
    "best": 0.91,
    "seconds": 75.0,
}


def test_one_line_says_a_round() -> None:
    assert line("round", ROUND) == (
        "search round 2/8 | generation 1 | branches 3 | clients 12 | 1.23 MB | best 0.9100 | 1m15s"
    )
    assert line("unheard-of", {}) is None
    done = {"phase": "search", "number": 0, "status": "done", "score": -910.63, "direction": -1}
    assert line("outcome", done) == "#0 done: 910.6"
    assert "best 910.6" in (line("round", {**ROUND, "best": -910.63, "direction": -1}) or "")
    run = RunLine(directory=Path("r"), name="r", status="stopped", best=-910.63, metric="rmse")
    assert "910.6 rmse" in "\n".join(run_lines([run]))


def test_the_board_keeps_up() -> None:
    progress = Progress()
    progress.update(
        "started", {"directory": "runs/x", "trials": 4, "clients": 9, "resumed": False}, 0
    )
    assert progress.left is None
    progress.update("round", {**ROUND, "trials": 0}, 10)
    done = {
        "phase": "search",
        "number": 0,
        "status": "done",
        "score": 0.95,
        "params": 900,
        "macs": 12_000,
    }
    progress.update("outcome", done, 20)
    failed = {
        "phase": "search",
        "number": 1,
        "status": "failed",
        "score": None,
        "reason": "loss is NaN",
    }
    progress.update("outcome", failed, 30)
    progress.update("round", {**ROUND, "trials": 2, "best": 0.95}, 30)
    elsewhere = {"phase": "hand-made", "number": 0, "status": "done", "score": 0.99}
    progress.update("outcome", elsewhere, 30)
    assert (progress.done, progress.failed, progress.best, progress.best_number) == (2, 1, 0.95, 0)
    assert progress.share == 0.5
    assert progress.left == 20.0
    assert progress.lines[-1] == "#1 failed: loss is NaN"


def test_amounts_and_durations_are_short() -> None:
    assert [amount(x) for x in (0, 12.3, 1500, 2e9)] == ["0", "12.3", "1.5k", "2G"]
    assert [clock(x) for x in (0.4, 59.7, 3600, float("inf"))] == ["0s", "1m00s", "1h00m", "?"]


def test_a_warning_for_users_is_one_line_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    with spoken():
        for _ in range(2):
            warnings.warn("a worker was lost (SIGKILL \x1b[2J); its task runs again", stacklevel=1)
    line = "warning: a worker was lost (SIGKILL \\x1b[2J); its task runs again\n"
    assert capsys.readouterr().err == 2 * line
    with pytest.raises(DeprecationWarning), spoken():
        warnings.warn("old", DeprecationWarning, stacklevel=1)
