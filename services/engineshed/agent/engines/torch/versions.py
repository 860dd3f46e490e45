"""The versions that decide what the torch back end builds, without importing what they are of."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

_PACKAGES: Final = (
    "engineshed",
    "llguidance",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)


class MissingPackageError(Exception):
    """A package that the back end needs is not installed."""


def versions() -> dict[str, str]:
    """Return the version of each package that takes part in a build.

    Raises:
        MissingPackageError: with the package's name.

    """
    try:
        found = {package: version(package) for package in _PACKAGES}
    except PackageNotFoundError as error:
        raise MissingPackageError(str(error.name)) from error
    return found | {"python": platform.python_version()}
