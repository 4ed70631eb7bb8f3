"""`python -m archipelago` is `archipelago`."""

from archipelago.cli.app import main

if __name__ == "__main__":
    main()
