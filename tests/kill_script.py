"""Runs studies that test_study.py wants killed: imports once, then forks a child for each line.

A line of standard input is JSON: `run` (TOML text), `directory`, `point`, a value of
`ARCHIPELAGO_FAILPOINT` or empty. The child leads a session of its own. The answer is a line of
JSON: `session`, and `code`, negative where a signal ended the child.
"""

import json
import os
import sys
from pathlib import Path

from archipelago.config.load import loads
from archipelago.core.failpoint import VARIABLE
from archipelago.study.running.search import resume, search


def run(wanted):
    if wanted["point"]:
        os.environ[VARIABLE] = wanted["point"]
    directory = Path(wanted["directory"])
    study = resume(directory) if directory.exists() else search(loads(wanted["run"]), directory)
    study.result  # noqa: B018 - asking for the result runs the study


def main():
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.setsid()
            code = 1
            try:
                run(json.loads(line))
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        answer = {"session": child, "code": os.waitstatus_to_exitcode(status)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
