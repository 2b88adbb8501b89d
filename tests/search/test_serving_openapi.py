"""Requests that follow and break the OpenAPI description: no failure, and answers as described.

``CLIPKIT_FUZZ=50`` makes fifty times as many requests, at random.
"""

import os

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, strategies
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from clipkit.search.serving import create_app
from clipkit.search.serving.images.image_types import IMAGE_TYPES, SOUND_TYPES
from tests.helpers.factories import image_bytes
from tests.helpers.served import running
from tests.helpers.sounds import sound_bytes

FACTOR = int(os.environ.get("CLIPKIT_FUZZ", "0"))
IMAGES = strategies.one_of(
    strategies.binary(max_size=200),
    strategies.sampled_from([image_bytes(format=each.name) for each in IMAGE_TYPES]),
)
for each in IMAGE_TYPES:
    schemathesis.openapi.media_type(each.media_type, IMAGES)
SOUNDS = strategies.one_of(strategies.binary(max_size=200), strategies.just(sound_bytes()))
for each in SOUND_TYPES:
    schemathesis.openapi.media_type(each.media_type, SOUNDS)


@pytest.fixture(scope="module")
def address(served):
    with running(create_app(served)) as address:
        yield address


@pytest.fixture(scope="module")
def schema(address):
    return schemathesis.openapi.from_url(f"{address}/api/openapi.json")


OPERATIONS = (
    "GET /api/status", "POST /api/uploads", "POST /api/search", "POST /api/labels",
    "GET /api/images/{row}", "GET /api/images/{row}/thumbnail", "GET /api/images/{row}/file",
    "GET /api/images/{row}/sound", "GET /api/columns/{name}", "GET /api/map",
)  # fmt: skip
ANY_REQUEST = ("GET /api/status", "POST /api/uploads")
"""Operations without parameters, or with any bytes as a body: no request is against them."""


def test_all_operations_are_tried(schema):
    found = {result.ok().label for result in schema.get_all_operations()}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((name, GenerationMode.POSITIVE) for name in OPERATIONS),
        *((name, GenerationMode.NEGATIVE) for name in OPERATIONS if name not in ANY_REQUEST),
    ],
)
def test_answers_conform_to_the_description(schema, name, mode):
    """Of requests that follow the description, and of requests that break it."""
    method, path = name.split()
    strategy = schema[path][method].as_strategy(generation_mode=mode)

    @hypothesis.given(strategy)
    @hypothesis.settings(
        max_examples=8 * max(1, FACTOR),
        derandomize=not FACTOR,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case):
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    check()
