"""A worker with real keys: the token of a page opens its connection, and a reload takes other keys while it serves."""

import time
from pathlib import Path

import msgspec
import pytest

from broker.config.errors import ConfigError
from broker.config.schema import AuthKey, ChannelPolicy, Config, Hook, Server
from broker.gateway.identities import Identities
from broker.native._counters import SIZE
from broker.native.counting import Count
from tests.integration.harness import request, running
from tests.unit.auth.making import EC_KEY, OTHER_EC_KEY, loaded, public_pem, token


async def test_a_reload_takes_the_keys_of_the_file_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    auth, _ = loaded(tmp_path, main=AuthKey())
    config = Config(server=Server(dev=True), auth=auth, channels={">": ChannelPolicy(subscribe="authenticated")})
    identities = Identities(config, Count(bytearray(8 * SIZE)))
    await identities.start()
    end = int(time.time()) + 600
    old, new = token(EC_KEY, exp=end), token(OTHER_EC_KEY, exp=end)
    async with running(
        tokens=identities.tokens, channels={">": {"subscribe": "authenticated"}}, auth_keys={}
    ) as broker:
        broker.worker._identities = identities
        client = await broker.open(f"broker.json.v1, news, bearer.{old}")
        hello = await client.event()
        assert (hello["type"], hello["user"]) == ("hello", "ann")
        (tmp_path / "main.key").write_text("")
        with pytest.raises(ConfigError, match="is empty"):
            await broker.worker.reload(config)
        assert (await (await broker.open(f"broker.json.v1, news, bearer.{old}")).event())["user"] == "ann"
        (tmp_path / "main.key").write_text(public_pem(OTHER_EC_KEY))
        await broker.worker.reload(config)
        assert (await (await broker.open(f"broker.json.v1, news, bearer.{new}")).event())["user"] == "ann"
        answer = await (await broker.connect()).ask(request(offer=f"broker.json.v1, news, bearer.{old}"))
        assert answer.status == 401
        assert old.encode() not in answer.body
        await broker.worker.reload(msgspec.structs.replace(config, auth=type(auth)()))
        assert identities.tokens is None


async def test_nobody_asks_a_hook_that_a_reload_has_stopped() -> None:
    before, after = (Config(server=Server(dev=True), hook=Hook(url=f"http://127.0.0.1:9/{name}")) for name in "ab")
    identities = Identities(before, Count(bytearray(8 * SIZE)))
    await identities.start()
    old = identities.hook
    assert old is not None
    asked_when_stopped = []
    async with running(hook=old) as broker:
        broker.worker._identities = identities
        stop = old.stop

        async def stopping() -> None:
            asked_when_stopped.append(broker.worker.gatekeeper.hook)
            await stop()

        old.stop = stopping  # type: ignore[method-assign]
        await broker.worker.reload(after)
        assert asked_when_stopped == [identities.hook]
        assert identities.hook is not old
    await identities.stop()
