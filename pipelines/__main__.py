"""`wattier`, and `python -P -m pipelines`. Only an import and a call: Beam pickles `__main__` by value."""

from pipelines.cli import main

if __name__ == "__main__":
    main()
