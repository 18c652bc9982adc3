"""One certificate, and one broker for each way of saying whose connection it is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.process.command import Served, serving
from tests.process.guarded import Site, new_site

from .certificate import certificate_in
from .proxies import Upstream

ORIGIN = "https://pages.example"
SETTINGS = f"""
[server]
origins = ["{ORIGIN}"]
trusted_proxies = ["127.0.0.1"]
[limits]
refusal_hold_min_seconds = 0.0
refusal_hold_max_seconds = 0.1
refusals_per_address_per_minute = 1000
[drain]
window_seconds = 0.5
[auth]
cookie = "token"
allow_tokens_in_urls_that_get_logged = true
[channels."public.>"]
subscribe = "anyone"
publish = "anyone"
[channels."room.*"]
subscribe = "authenticated"
"""
ANYWHERE = Upstream(0, 0)
BY_HEADER = {"WSBROKER_SERVER_CLIENT_ADDRESS": "x-forwarded-for"}
BY_PROXY_PROTOCOL = {"WSBROKER_SERVER_PROXY_PROTOCOL": "true"}


class Behind(NamedTuple):
    """A broker that proxies stand before, and its site."""

    broker: Served
    site: Site

    @property
    def upstream(self) -> Upstream:
        return Upstream(self.broker.port, int(self.broker.admin_url.rpartition(":")[2]))

    def sessions(self) -> list[dict[str, Any]]:
        """As its operator sees them."""
        key = (self.site.folder / "operator.key").read_text().strip()
        answer = httpx.get(f"{self.broker.api_url}/v1/sessions", headers={"Authorization": f"Bearer {key}"})
        found: list[dict[str, Any]] = answer.raise_for_status().json()["sessions"]
        return found


@pytest.fixture(scope="package")
def certificate() -> Iterator[Path]:
    with certificate_in() as folder:
        yield folder


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = new_site(tmp_path_factory.mktemp("site"), SETTINGS)
    site.api_key("operator", "--scope", "admin")
    return site


@contextmanager
def behind(site: Site, says: Mapping[str, str], *flags: str, upstream: Upstream = ANYWHERE) -> Iterator[Behind]:
    """`says`: how it is told whose connection it is. `upstream`: the ports of one that was there before."""
    arguments = ["--config", str(site.config), "--admin-listen", f"127.0.0.1:{upstream.admin}", *flags]
    with serving(*arguments, listen=f"127.0.0.1:{upstream.broker}", dev=False, extra=says) as broker:
        yield Behind(broker, site)


@pytest.fixture(scope="package")
def by_header(site: Site) -> Iterator[Behind]:
    with behind(site, BY_HEADER) as found:
        yield found


@pytest.fixture(scope="package")
def by_proxy_protocol(site: Site) -> Iterator[Behind]:
    with behind(site, BY_PROXY_PROTOCOL) as found:
        yield found
