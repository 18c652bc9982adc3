"""PROXY headers: any bytes get one verdict, the same however they arrive; what is taken is what was written."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from broker.native._proxy import parse
from tests.unit.native.proxy_headers import SIGNATURE, proxied

ANY = st.one_of(
    st.binary(max_size=64),
    st.binary(max_size=300).map(lambda rest: SIGNATURE + rest),
    st.binary(max_size=300).map(lambda rest: SIGNATURE + b"\x21" + rest),
)


@given(ANY)
def test_the_verdict_is_the_same_however_the_bytes_arrive(data: bytes) -> None:
    whole, client = parse(data)
    ends = [parse(data[:size])[0] for size in range(len(data) + 1)]
    decided = [end for end in ends if end]
    assert set(decided) == ({whole} if whole else set())
    assert all(decided == ends[len(ends) - len(decided) :] for _ in ends[:1]), "a verdict is never taken back"
    assert whole <= len(data)
    assert client is None or whole > 0


@given(st.ip_addresses(), st.binary(max_size=500), st.binary(max_size=50))
def test_whoever_the_proxy_named_is_who_comes_in(
    client: ipaddress.IPv4Address | ipaddress.IPv6Address, tlvs: bytes, after: bytes
) -> None:
    header = proxied(str(client), tlvs)
    end, found = parse(header + after)
    assert end == len(header)
    assert found is not None
    assert ipaddress.ip_address(found) == client
