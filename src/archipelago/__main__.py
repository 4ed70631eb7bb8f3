"""`python -m archipelago` is `archipelago`."""

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Where typer is absent, as on a device, `predict` still works."""
    try:
        from archipelago.cli.app import main as run
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        from archipelago.cli.predict_only import main as run
    run(arguments)


if __name__ == "__main__":
    main()
