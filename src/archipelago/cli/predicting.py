"""`predict`, whoever parsed its arguments. NumPy and onnxruntime are enough."""

import csv
import sys
from pathlib import Path

from archipelago.cli.printing import say

__all__ = ["predicted"]


def predicted(model: Path, rows: Path, out: Path | None) -> None:
    """Apply a shipped network to a file of rows; print the answers, or write them to `out`."""
    from archipelago.core.display import listed, printable
    from archipelago.core.errors import ConfigError
    from archipelago.deploy.predict import predict

    for what, path in (("rows", rows), ("model", model)):
        if out is not None and out.resolve() == path.resolve():
            raise ConfigError(
                f"the answers would overwrite the {what}",
                got=str(out),
                where="--out",
                fix="name another file, e.g. --out answers.csv",
            )
    answers = predict(model, rows)
    if answers.unused:
        say(f"not used: {listed(answers.unused)}", file=sys.stderr)
    if out is not None:
        answers.write(out)
        say(f"wrote {len(answers)} predictions to {out}")
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    cells = (answers.header, *answers.cells())
    if sys.stdout.isatty():
        # A file gets names as they are; a screen would obey what is in them.
        cells = ([printable(str(cell)) for cell in row] for row in cells)
    writer.writerows(cells)
