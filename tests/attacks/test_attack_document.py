"""What the drawbridge's own document allows, and what it does not, sent to a real drawbridge.

Whatever comes, it answers as the document says, and never with a failure of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from garrison.testing.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypothesis.strategies import SearchStrategy

load_all_checks()
# That what it answers is stated: the status, the media type, the headers and the body's form.
CHECKED = CHECKS.get_by_names(
    [
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "allow_header_conformance",
    ]
)
# A user, a repository, a tag and a node that are there: random names lead nowhere.
THERE = {"user": "demo", "repo": "chat", "tag": "1.0.0", "path": "sub/data"}
# What the document says is the body's length is for the transport to say.
OF_TRANSPORT = {"content-length", "transfer-encoding", "connection", "host", "expect"}
PATIENCE = 60


class Target:
    """A drawbridge, and a user of it."""

    def __init__(self, stack: Stack) -> None:
        self.url = f"https://{stack.registry}"
        self.session = requests.Session()
        # Neither a proxy nor CAs of the environment.
        self.session.trust_env = False
        self.session.verify = str(stack.registry_ca)
        tokens = stack.directory / "home/.config/garrison/tokens.json"
        self.token = json.loads(tokens.read_text())[stack.registry]
        self.process = stack.processes[0]
        self.schema: Any = schemathesis.openapi.from_dict(
            self.session.get(f"{self.url}/openapi.json", timeout=PATIENCE).json()
        )
        self.statuses: Counter[int] = Counter()

    def try_case(self, case: Any, *, known: set[str], is_user: bool) -> None:
        """Send a request, and check the answer.

        Args:
            case: the request.
            known: which of its names are those of what is there.
            is_user: whether the user's token comes with it.
        """
        for name in known & set(case.path_parameters or ()):
            case.path_parameters[name] = THERE[name]
        headers = {k: v for k, v in (case.headers or {}).items() if k.lower() not in OF_TRANSPORT}
        case.headers = headers | ({"Authorization": f"Bearer {self.token}"} if is_user else {})
        try:
            answer = case.call(
                base_url=self.url,
                session=self.session,
                verify=self.session.verify,
                timeout=PATIENCE,
            )
        except (requests.exceptions.InvalidHeader, UnicodeEncodeError):
            # The client's library does not send that; the test of raw sockets does.
            return
        self.statuses[answer.status_code] += 1
        # The one failure there may be: the original's answer to an API that is newer.
        assert answer.status_code < 500 or answer.status_code == 501, answer.text
        case.validate_response(answer, checks=CHECKED)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    directory = tmp_path_factory.mktemp("document")
    (directory / "home").mkdir()
    for path, content in {"main.wasm": b"\0asm", "Enarx.toml": b"", "sub/data": b"data"}.items():
        file = directory / "package" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    with Stack(directory) as stack:
        process = stack.start(
            "the drawbridge", "drawbridge", "serve", "--insecure-dev", "--port", "0",
            "--store", str(directory / "drawbridge"),
        )  # fmt: skip
        url = process.expect("listening on https://").rpartition(" ")[2]
        stack.registry = f"localhost:{url.rpartition(':')[2]}"
        stack.login()
        stack.register_repo("chat")
        stack.publish(directory / "package", "chat:1.0.0")
        target = Target(stack)
        yield target
        target.session.close()
        # It lives to the end, and nothing surprised it.
        assert process.stop() == 0
        assert not [line for line in process.lines if "Traceback" in line]


def _cases(target: Target) -> SearchStrategy[Any]:
    modes = [GenerationMode.NEGATIVE, GenerationMode.NEGATIVE, GenerationMode.POSITIVE]
    return st.one_of(*(target.schema.as_strategy(generation_mode=mode) for mode in modes))


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(200, id="few"),
        pytest.param(10_000, id="many", marks=pytest.mark.slow),
    ],
)
def test_whatever_the_document_allows_or_not(target: Target, count: int) -> None:
    before = target.statuses.total()

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=_cases(target),
        known=st.sets(st.sampled_from(sorted(THERE))) | st.just(set(THERE)),
        is_user=st.booleans(),
    )
    def run(case: Any, known: set[str], is_user: bool) -> None:
        target.try_case(case, known=known, is_user=is_user)

    run()
    # Some are refused by the client's library.
    assert target.statuses.total() - before > 0.8 * count
    # It is no test of one refusal.
    assert {200, 400, 401} <= set(target.statuses)
