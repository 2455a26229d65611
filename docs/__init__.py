"""The documentation, and the script that writes the page of all commands."""
