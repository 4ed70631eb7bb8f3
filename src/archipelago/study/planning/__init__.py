"""What a study will cost, and a first run file, before anything is trained."""
