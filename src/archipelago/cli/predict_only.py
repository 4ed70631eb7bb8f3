"""`archipelago` on a machine that only applies models: NumPy, onnxruntime, the standard library."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from archipelago.cli.faults import spoken
from archipelago.cli.predicting import predicted

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `predict`; any other verb says what it would need."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="archipelago")
    verbs = parser.add_subparsers(metavar="predict", required=True)
    predict = verbs.add_parser("predict", help="Apply a shipped network to a file of rows.")
    predict.add_argument("model", type=Path, metavar="MODEL", help="ONNX file of a run.")
    predict.add_argument("rows", type=Path, metavar="ROWS", help="CSV, Parquet or NPZ of raw rows.")
    predict.add_argument(
        "--out", type=Path, metavar="FILE", help="CSV to write; default: the screen."
    )
    if words and not words[0].startswith("-") and words[0] != "predict":
        parser.error("only `predict` runs here; for the other verbs: pip install archipelago-nas")
    given = parser.parse_args(words)
    with spoken():
        predicted(given.model, given.rows, given.out)
