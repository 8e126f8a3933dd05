"""``python -m luthier`` is ``luthier``."""

from luthier.cli.main import main

if __name__ == "__main__":
    main()
