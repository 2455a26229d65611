"""The command line: parses, calls the library once, prints the result. click's and tqdm's only home."""
