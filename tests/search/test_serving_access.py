"""Who may use the server: host names, pages of other sites, the token, the headers of answers."""

import pytest

from clipkit.errors import ConfigError
from clipkit.search.serving import ServeOptions
from clipkit.search.serving.middleware.access import host_name

TOKEN = "correct-horse-battery-staple+/=%26"
STATUS = "/api/status"
OWN = {"Origin": "http://localhost:8000"}


@pytest.fixture(scope="module")
def closed(start):
    """A server with a token, behind a proxy of another name."""
    return start(ServeOptions(token=TOKEN, allowed_hosts=("Search.Example.org",)))


@pytest.fixture(autouse=True)
def _without_cookies(request):
    yield
    for name in ("client", "closed"):
        if name in request.fixturenames:
            request.getfixturevalue(name).cookies.clear()


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000", "192.168.1.7:80", "10.0.0.1"],
)
def test_names_of_this_machine_and_addresses_are_accepted(client, host):
    assert client.get(STATUS, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "localhost.evil.example", "localhost@evil.example", "127.0.0.1.nip.io",
        "", "a b", "localhost:0x50", "localhost/evil", "[::1", "search.example.org",
    ],
)  # fmt: skip
def test_other_names_are_refused(client, host):
    """The requests of a page whose name resolves to this machine have that name."""
    answer = client.get(STATUS, headers={"Host": host})
    assert answer.status_code == 421
    assert answer.json()["error"].startswith("Host: expected localhost")


def test_allowed_names_are_accepted(closed):
    headers = {"Host": "search.example.org", "Authorization": f"Bearer {TOKEN}"}
    assert closed.get(STATUS, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://localhost"},
        {"Origin": "http://127.0.0.1:8000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_requests_of_pages_of_other_sites_are_refused(client, headers):
    query = {"parts": [{"text": "a"}]}
    assert client.post("/api/search", json=query, headers=headers).status_code == 403
    assert client.get("/api/images/0/file", headers=headers).status_code == 403


def test_requests_of_the_own_page_are_accepted(client, closed):
    same = {**OWN, "Sec-Fetch-Site": "same-origin"}
    query = {"parts": [{"text": "a"}]}
    assert client.post("/api/search", json=query, headers=same).status_code == 200
    proxied = {"Origin": "https://search.example.org", "Authorization": f"Bearer {TOKEN}"}
    assert closed.post("/api/search", json=query, headers=proxied).status_code == 200


def test_a_link_on_another_site_opens_the_page_only(client):
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=link).status_code == 200
    assert client.post("/", headers=link).status_code == 403


def test_no_answer_allows_other_origins(client):
    preflight = {**OWN, "Access-Control-Request-Method": "POST"}
    answer = client.options("/api/search", headers=preflight)
    assert answer.status_code == 405
    names = {*answer.headers, *client.get(STATUS, headers=OWN).headers}
    assert not {name for name in names if name.startswith("access-control-")}


@pytest.mark.parametrize("path", ["/", STATUS, "/nothing", "/static/app.js", "/api/images/0/file"])
def test_all_answers_have_the_headers_that_browsers_obey(client, closed, path):
    for each in (client, closed):
        headers = each.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "unsafe" not in headers["content-security-policy"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers


def test_without_the_token_nothing_is_shown(closed):
    for path in (STATUS, "/api/openapi.json", "/api/images/0/file", "/nothing"):
        answer = closed.get(path)
        assert (answer.status_code, list(answer.json())) == (401, ["error"])
        assert answer.headers["www-authenticate"] == "Bearer"
    assert closed.post("/api/uploads", content=b"a").status_code == 401
    page = closed.get("/")
    assert page.status_code == 401
    assert 'name="token"' in page.text
    assert closed.get("/static/app.css").status_code == 200  # of the page that asks for the token


@pytest.mark.parametrize(
    "value",
    ["Bearer wrong", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer", "", f"Bearer {TOKEN}é"],
)
def test_another_token_is_refused(closed, value):
    headers = {"Authorization": value.encode("utf-8")}
    assert closed.get(STATUS, headers=headers).status_code == 401


def test_the_token_as_a_header(closed):
    assert closed.get(STATUS, headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200


def test_the_address_with_the_token_sets_a_cookie_and_leaves_the_address_bar(closed):
    answer = closed.get("/", params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie
    assert TOKEN not in cookie
    assert answer.headers["cache-control"] == "no-store"
    assert closed.get("/").status_code == 200
    assert closed.get(STATUS).status_code == 200


def test_behind_tls_the_cookie_is_secure(closed):
    answer = closed.get("https://localhost/", params={"token": TOKEN})
    assert "Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize("token", ["wrong", "", TOKEN[:-1]])
def test_an_address_with_another_token_sets_no_cookie(closed, token):
    answer = closed.get("/", params={"token": token})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("cookie", ["a", "=;=", "clipkit=1", "\xff\xfe"])
def test_damaged_cookies_are_no_token(closed, cookie):
    headers = {"Cookie": cookie.encode("latin-1")}
    assert closed.get(STATUS, headers=headers).status_code == 401


def test_the_cookie_of_one_server_is_none_of_another(closed, start):
    other_token = "another-token-of-another-server"
    other = start(ServeOptions(token=other_token))
    other.get("/", params={"token": other_token})
    mine = closed.get("/", params={"token": TOKEN}).headers["set-cookie"].partition(";")[0]
    assert other.get(STATUS).status_code == 200
    assert other.get(STATUS, headers={"Cookie": mine}).status_code == 401


@pytest.mark.parametrize(
    "token", ["", "short", "with a space inside of it", "ünsafe-ünsafe-ünsafe"]
)
def test_weak_tokens_are_refused(token):
    with pytest.raises(ConfigError, match="expected at least 16 printable ASCII characters"):
        ServeOptions(token=token)


def test_a_server_for_other_machines_needs_a_token():
    for options in ({"allowed_hosts": ("a.example",)}, {"host": "::1", "allowed_hosts": ("a",)}):
        with pytest.raises(ConfigError, match=r"--allowed-host: a.* needs a token"):
            ServeOptions(**options)
    with pytest.raises(ConfigError, match="needs a token"):
        ServeOptions(host="0.0.0.0")
    ServeOptions(host="0.0.0.0", token="a" * 16)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("a.b:1", "a.b"),
        ("A", "a"),
        ("[::1]:1", "::1"),
        ("a:b", None),
        ("a:99999", None),
        ("", None),
    ],
)
def test_host_names(header, name):
    assert host_name(header) == name
