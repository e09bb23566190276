"""`python -m cotune` is `cotune`."""

from cotune.cli import main

if __name__ == "__main__":
    main()
