"""The lowest floor: words every other folder speaks. Imports nothing of ours."""
