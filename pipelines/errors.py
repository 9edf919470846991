"""The errors Marquee raises; everything foreign is translated into one of these at the edge.

    MarqueeError
    ├── SettingsError       a setting is missing, malformed or out of range
    ├── SourceError         the event stream cannot be read (broker, topic, file)
    ├── DataError           batches or a ratings file are not what they should be
    │   └── Locked          somebody else is writing there right now
    ├── ModelError          a model cannot be trained, read or evaluated
    ├── RegistryError       git or DVC refused
    ├── FleetError          a replica cannot be started, reached or removed
    ├── RouterError         NGINX refused a configuration or did not take it
    ├── MeasurementError    an instrument did not answer or answered nonsense
    ├── ReleaseError        a release is asked for something its state does not allow
    ├── NoReceipt           an answer's receipt is nowhere to be found
    ├── StackError          a part of the one-machine stack cannot be had or started
    ├── NothingNew          there is no new data: neither a success nor a failure
    └── Refused             data or a model was judged and turned down; the alert is out already

A message says what was observed, what was wanted, where to look and what to do next.
"""


class MarqueeError(Exception):
    """Base of all errors that a person is meant to read."""


class SettingsError(MarqueeError):
    """A setting is missing, malformed or out of range."""


class SourceError(MarqueeError):
    """The event stream cannot be read."""


class DataError(MarqueeError):
    """Batches or a ratings file are not what they should be."""


class Locked(DataError):  # noqa: N818 - reads as what it is
    """Another process holds the lock of this folder."""


class ModelError(MarqueeError):
    """A model cannot be trained, read or evaluated."""


class RegistryError(MarqueeError):
    """Git or DVC refused."""


class FleetError(MarqueeError):
    """A replica cannot be started, reached or removed."""


class RouterError(MarqueeError):
    """NGINX refused a configuration or did not take it."""


class MeasurementError(MarqueeError):
    """An instrument did not answer, or answered nonsense."""


class ReleaseError(MarqueeError):
    """A release is asked for something that its state does not allow."""


class StackError(MarqueeError):
    """A part of the one-machine stack cannot be had or started."""


class NoReceipt(MarqueeError):  # noqa: N818 - an answer, not a fault
    """There is no receipt for this request id in database, archive or spool."""


class NothingNew(MarqueeError):  # noqa: N818 - an answer, not a fault
    """No event has come since the last run."""


class TooEarly(NothingNew):
    """No version has been made yet, and too little has come to make one of."""


class Refused(MarqueeError):  # noqa: N818 - an answer, not a fault
    """Data or a model was judged and turned down; running the same step again changes nothing."""
