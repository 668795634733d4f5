"""The command line within this process."""

from typer.testing import CliRunner, Result

from robusteval.cli import app, expand_lists

RUNNER = CliRunner()


def cli(*arguments: str) -> Result:
    return RUNNER.invoke(app, expand_lists(list(arguments)), catch_exceptions=False)


def refused(result: Result, *said: str, code: int = 2) -> None:
    """Exit code, one line on stderr, no traceback."""
    assert result.exit_code == code, result.output
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("robusteval: ")
    for part in said:
        assert part in result.stderr
