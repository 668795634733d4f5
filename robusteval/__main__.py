"""``robusteval``, and ``python -m robusteval``."""

import sys


def main() -> None:
    """The command line; interrupted while it is still being loaded, it ends without a word."""
    try:
        from robusteval.spinning import settle

        settle()
        from robusteval.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from robusteval.stops import behind

        if behind(error) is None:
            raise
        sys.exit(130)


if __name__ == "__main__":
    main()
