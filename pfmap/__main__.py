"""`python -m pfmap`: the command line, for launchers that start modules, such as torchrun."""

from pfmap.cli.main import run

if __name__ == "__main__":
    run()
