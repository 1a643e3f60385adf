"""What the documents say in numbers, made from the rows of benches/: see scripts/figures.py."""
