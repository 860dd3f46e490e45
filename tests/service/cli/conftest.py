"""What `shed` talks to."""

from collections.abc import Iterator
from threading import Thread

import pytest
from tests.service.cli.stand_in import Platform


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Platform() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
