"""A worker of a Ray cluster.  Imports no Ray: what makes it an actor is said where it is made."""

import pickle
from typing import Any

import torch

from robusteval.errors import RobustevalError
from robusteval.evidence.files import Files
from robusteval.plan.context import Access
from robusteval.run.executors.messages import (
    Message,
    access_of,
    error_message,
    found_message,
)
from robusteval.run.executors.service import Service


class RayActor:
    """Opens the run with its first job, in the thread that does all of them."""

    def __init__(self, files: Files, given: bytes) -> None:
        self.files, self.given = files, given
        self.service: Service | None = None
        self.at = 0.0

    def do(self, message: Message) -> Message:
        """Does one job; what became of it, or what ends the run."""
        try:
            service = self._opened()
            self.at = 0.0
            job = service.job(message)
            return found_message(service.do(job, message["budget"], self._within))
        except RobustevalError as error:
            return error_message(error)

    def share(self) -> float:
        """How much of its job is done."""
        return self.at

    share.__ray_concurrency_group__ = "watch"  # type: ignore[attr-defined]  # while ``do`` runs

    def _within(self, share: float) -> None:
        self.at = share

    def _opened(self) -> Service:
        if self.service is None:
            torch.set_num_interop_threads(1)
            given: dict[str, Any] = pickle.loads(self.given)  # noqa: S301 - the driver's own words
            access = access_of(given["access"]) if given["access"] else Access()
            service = Service(self.files, access, given["model"], given["data"])
            self.service = service.__enter__()
        return self.service
