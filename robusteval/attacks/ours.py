"""The project as a library of attacks."""

from robusteval.attacks.record import Library

ROBUSTEVAL = Library(
    name="robusteval",
    package="robusteval",
    install="pip install robusteval",
    accelerated=False,
)
