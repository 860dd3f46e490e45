"""Which directories checkpoints are registered from, by URI and by who asks."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from engineshed.catalog.settings import CatalogSettings
from engineshed.catalog.source import Source, path_of, reach

# Opens the directory that a URI names; the flag says whether an operator asks, who may read
# everywhere.
OpenSource = Callable[[str, bool], Source]

# The scheme of the sample model that comes with the platform; callers cannot name it.
SAMPLE_SCHEME: Final = "engineshed-sample"

_SAMPLE: Final = Path(__file__).parent / "sample"


class Sources:
    """Opens directories, as far as the settings allow."""

    def __init__(self, settings: CatalogSettings) -> None:
        self._roots = settings.import_roots
        self._never = (settings.state_dir, settings.artifacts)

    def open(self, uri: str, anywhere: bool) -> Source:
        """Return the directory that a caller names.

        Raises:
            CheckpointInvalidError: it is no directory on this host.
            UriNotAllowedError: the caller may not read there.

        """
        allowed = reach(anywhere=anywhere, roots=self._roots, never=self._never)
        return Source.at(path_of(uri), allowed)

    def open_recorded(self, uri: str, anywhere: bool) -> Source:
        """Return the directory of a registration that was accepted; raises as `open` does."""
        if uri.startswith(f"{SAMPLE_SCHEME}:"):
            return self.open_sample()
        return self.open(uri, anywhere)

    def open_sample(self) -> Source:
        """Return the directory of the sample model; raises as `open` does."""
        return Source.at(str(_SAMPLE), reach(anywhere=True, roots=(), never=()))
