"""How the gate says no."""


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """The request is answered by the gate itself."""

    def __init__(self, status: int, message: str) -> None:
        """Refuse with an HTTP status and what was observed and is allowed."""
        super().__init__(message)
        self.status = status


def refused(observed: str, allowed: str) -> Refusal:
    """Return the refusal of what was understood and is not allowed."""
    return Refusal(403, f"gate: {observed}; allowed: {allowed}")


def malformed(observed: str) -> Refusal:
    """Return the refusal of what cannot be understood in one way only."""
    return Refusal(400, f"gate: {observed}; wanted is one plain HTTP/1.1 request a connection")


def away(error: Exception) -> Refusal:
    """Return what is answered while Docker does not."""
    return Refusal(
        502, f"gate: Docker does not answer ({type(error).__name__}: {error}); see that dockerd runs"
    )
