"""`predict`, whoever parsed its arguments. NumPy and onnxruntime are enough."""

import csv
import sys
from pathlib import Path

__all__ = ["predicted"]


def predicted(model: Path, rows: Path, out: Path | None) -> None:
    """Apply a shipped network to a file of rows; print the answers, or write them to `out`."""
    from archipelago.deploy.predict import predict

    answers = predict(model, rows)
    if answers.unused:
        print(f"not used: {', '.join(answers.unused)}", file=sys.stderr)
    if out is not None:
        answers.write(out)
        print(f"wrote {len(answers)} predictions to {out}")
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(answers.header)
    writer.writerows(answers.cells())
