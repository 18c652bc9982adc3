"""What the OpenAPI document says is what the API does: schemathesis, which knows it alone, asks a real socket."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.integration.calling import KEY, serving_api

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 25
OPERATIONS = 13

pytestmark = pytest.mark.blocks_loop


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    found: list[str] = []
    ready, loops = threading.Event(), []
    over = asyncio.Event()

    async def serve() -> None:
        async with serving_api(alone=False) as broker:
            found.append(f"http://127.0.0.1:{broker.api_port}")
            loops.append(asyncio.get_running_loop())
            ready.set()
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    yield found[0]
    loops[0].call_soon_threadsafe(over.set)
    thread.join(10)


def test_every_answer_is_one_that_the_document_announces(address: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    document = schemathesis.openapi.from_url(f"{address}/v1/openapi.json")
    operations = [found.ok() for found in document.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) == OPERATIONS
    for operation in operations:

        @seed(1)
        @settings(
            max_examples=EXAMPLES,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy())
        def ask(case: Any) -> None:
            case.call_and_validate(base_url=address, headers=headers, checks=CHECKS)

        ask()
