"""Fields that forms have in common."""

from airflow.sdk import Param


def why() -> Param:
    """Return the field for a reason; in the browser the buttons stay grey while it is empty."""
    return Param(
        "", type="string", maxLength=500, description="Why: one sentence for the others, then choose"
    )


def number(description: str) -> Param:
    """Return the field for the number of a version or a release, which may stay empty."""
    return Param(None, type=["null", "integer"], minimum=1, description=description)


def hours() -> Param:
    """Return the field for how long something is extended."""
    return Param(1, type="number", exclusiveMinimum=0, maximum=168, description="Hours to extend by")
