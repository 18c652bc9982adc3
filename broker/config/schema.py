"""Every setting of the broker: name with unit, default, bounds, and where the default comes from.

`load.py` fills these structs and reports what is wrong; everything else only reads them. config/broker.toml shows the
same keys and defaults to the operator (a test compares the two). Upper bounds keep a value within what native code
stores it in; they are not recommendations.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Payload = Literal["any", "json", "text", "binary"]
QueuePolicy = Literal["auto", "disconnect", "drop_oldest", "drop_newest", "latest", "catch_up"]
RefusalStyle = Literal["auto", "close", "http"]
ClientAddress = Literal["peer", "forwarded", "x-forwarded-for"]
Algorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]
Scope = Literal["publish", "read", "admin"]
Who = Literal["anyone", "authenticated", "claim", "server"]
LogFormat = Literal["auto", "console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Bytes = Annotated[int, Meta(ge=1, le=2**30)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
# Each worker holds the listeners of all.
Workers = Literal["auto"] | Annotated[int, Meta(ge=1, le=256)]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One value each for the whole worker; "per connection" unless it says otherwise."""

    # -- opening handshake
    # Request line and headers. HAProxy tune.bufsize and Node --max-http-header-size: 16 KiB.
    max_head_bytes: Annotated[int, Meta(ge=1024, le=2**20)] = 16_384
    # Header lines. Apache LimitRequestFields: 100.
    max_headers: Annotated[int, Meta(ge=8, le=1000)] = 100
    # From accept to the last byte of the head. `websockets` open_timeout: 10 s.
    handshake_seconds: Seconds = 10.0
    # Sec-WebSocket-Protocol, and the query. nginx large_client_header_buffers refuses a line beyond 8 KiB; half of it.
    max_offer_bytes: Annotated[int, Meta(ge=16, le=2**20)] = 4096
    # Subscriptions. Centrifugo client.channel_limit: 128.
    max_channels_per_connection: Annotated[int, Meta(ge=1, le=65_535)] = 128

    # -- messages from clients
    # Inclusive, over all fragments. Centrifugo websocket.message_size_limit: 64 KiB.
    max_message_bytes: Bytes = 65_536
    # Frames of one message, empty ones too. 64 bytes each at 64 KiB; without it, CVE-2026-48779 in `ws`.
    max_fragments: Annotated[int, Meta(ge=1, le=65_535)] = 1024
    # Frames of data, pings and pongs in the long run, and at once; 0 = no bound. Beyond: 4129. A page that sends with
    # each of 60 pictures a second stays far below; what a network held back for five seconds may come at once.
    messages_per_second: Annotated[int, Meta(ge=0, le=10_000_000)] = 1000
    message_burst: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 5000
    # The same for bytes, headers of frames included: 64 of the largest messages a second. The burst is more than Linux
    # keeps of a stalled connection (net.ipv4.tcp_rmem: 6 MiB).
    bytes_per_second: Annotated[int, Meta(ge=0, le=2**30)] = 4_194_304
    byte_burst: Bytes = 8_388_608
    # From the first byte of a message to its last. nginx client_body_timeout: 60 s between reads; here it is the total.
    message_seconds: Seconds = 30.0
    # Nesting of JSON that is published. Between Jackson (1000) and what a page's own code ever walks.
    max_json_depth: Annotated[int, Meta(ge=1, le=512)] = 64

    # -- one pass of reading (fairness between connections, not a limit for a client)
    # Four times the largest read that TCP usually has ready; also the size of the worker's one read buffer.
    read_pass_bytes: Annotated[int, Meta(ge=4096, le=2**24)] = 65_536
    # Tiny messages: 64 KiB hold 9000 of them.
    read_pass_messages: Count = 1024
    # Deliveries caused: one message to 18 000 subscribers is as much work as 18 000 messages to one.
    read_pass_offers: Count = 65_536

    # -- what waits for a client
    # Centrifugo client.queue_max_size: 1 MiB.
    send_queue_bytes: Bytes = 1_048_576
    # 1 MiB of the smallest messages (16 bytes of slot, 16 of frame). A bound of 1024, as others have, is 20 KB of tiny
    # messages: less than one kernel buffer, so that a burst would cut readers that are perfectly healthy.
    send_queue_messages: Annotated[int, Meta(ge=1, le=2**24)] = 32_768
    # All queues, frames and partial messages of one worker, physical bytes (a shared frame counts once). A quarter of
    # a 1 GiB container; beyond it the blocked connection that holds the oldest frame is cut.
    memory_bytes: Annotated[int, Meta(ge=2**20, le=2**40)] = 268_435_456
    # TCP_NOTSENT_LOWAT: what the kernel holds unsent for a stalled reader: 66 KB instead of 4.2 MB (measured).
    notsent_lowat_bytes: Annotated[int, Meta(ge=4096, le=2**24)] = 65_536

    # -- liveness
    # Below the 60 s of nginx proxy_read_timeout and of AWS load balancers, with room for a lost packet.
    # Centrifugo: 25 s.
    ping_seconds: Seconds = 25.0
    # Share of ping_seconds by which each connection differs, so that 100 000 of them do not ping at once.
    ping_jitter: Annotated[float, Meta(ge=0, le=0.5)] = 0.1
    # From the ping being written to any byte from the client. Centrifugo pong_timeout: 8 s; mobile radios wake slowly.
    pong_seconds: Seconds = 10.0
    # Without the kernel taking a single byte although some wait. nginx send_timeout: 60 s; half, as clients come back.
    write_seconds: Seconds = 30.0
    # From our Close to the client's. `websockets` close_timeout: 10 s; nothing is lost by cutting sooner.
    close_seconds: Seconds = 5.0
    # After half-closing, for the client to read what is on its way (RFC 6455 section 7.1.1).
    # nginx lingering_timeout: 5 s; a Close is small.
    linger_seconds: Seconds = 2.0

    # -- channels
    # A channel without subscribers is left at the engine after this long: a page that is reloaded is back sooner, and
    # joining again costs a round trip. Not below handshake_seconds: who is still connecting is no subscriber yet.
    interest_linger_seconds: Seconds = 15.0
    # Everything that all channels keep, with some 256 bytes for each message; beyond it the channel that was used
    # longest ago is forgotten. A sixteenth of a 1 GiB container.
    history_bytes: Annotated[int, Meta(ge=2**16, le=2**36)] = 67_108_864
    # Message ids remembered in all channels, each for 5 minutes: 200 a second. Some 300 bytes each.
    message_ids: Annotated[int, Meta(ge=1, le=2**24)] = 65_536
    # A snapshot that is older is not restored: its clients have been told long ago. Kubernetes gives a pod 30 s to end;
    # ten times that.
    snapshot_seconds: Seconds = 300.0

    # -- acceptance
    # Also bounded by net.core.somaxconn, which is 4096 since Linux 5.4.
    listen_backlog: Annotated[int, Meta(ge=1, le=65_535)] = 4096
    # Per worker; 0 = as many as the limit of file descriptors leaves. Above it: 503 with Retry-After.
    max_connections: Annotated[int, Meta(ge=0, le=2**24)] = 0
    # The same over all workers of this broker; 0 = as many as they take. For what is behind it: a licence, a database.
    max_connections_total: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    # Upgrades that one worker looks at in the long run, and at once; 0 = no bound. Above it: 503 with Retry-After,
    # before anybody's identity is asked for. As many as a drain sends away, drain.closes_per_second; the burst is what
    # the accept queue holds.
    upgrades_per_second: Annotated[int, Meta(ge=0, le=1_000_000)] = 2000
    upgrade_burst: Annotated[int, Meta(ge=1, le=2**24)] = 4096
    # Sessions of one address on one worker; 0 = no bound, because most brokers see one proxy, and a school or an office
    # is one address as well. Above it: 429. IPv6 counts by /64, which is what one subscriber of a provider has.
    max_connections_per_address: Annotated[int, Meta(ge=0, le=2**24)] = 0
    # An address whose handshakes were refused more often than this is answered 429 for the rest of its minute, whatever
    # it asks for; 0 = never. Off for the same reason.
    blocked_after_refusals_per_minute: Annotated[int, Meta(ge=0, le=2**20)] = 0
    # Refusals that a page can read (101, then Close), per address and minute; beyond that plain HTTP. One page that
    # retries every second.
    refusals_per_address_per_minute: Annotated[int, Meta(ge=0, le=2**20)] = 60
    # How long such a Close is held back, chosen evenly between the two: reconnecting libraries reset their back-off at
    # `open`, and would come back in a tight loop. reconnecting-websocket's first delay: 1 to 5 s.
    refusal_hold_min_seconds: Annotated[float, Meta(ge=0, le=60)] = 1.0
    refusal_hold_max_seconds: Annotated[float, Meta(ge=0, le=60)] = 3.0

    # -- presence (channels with `presence = true`)
    # From a member's last session being gone to its leave. A page reload takes less; AnyCable's presence TTL: 15 s.
    presence_leave_seconds: Seconds = 10.0
    # Joins and leaves are collected this long: what N members that come at once cost does not grow with N squared.
    presence_batch_seconds: Annotated[float, Meta(gt=0, le=60)] = 0.5
    # Named in one event, the others are counted. Pusher takes 100 members in a presence channel altogether.
    presence_event_members: Annotated[int, Meta(ge=0, le=2**20)] = 100
    # Named in the answer to a `presence` command, the others are counted.
    presence_reply_members: Annotated[int, Meta(ge=0, le=2**20)] = 1000
    # Members of one event or answer, encoded: whichever bound is met first. As large as one message of a client.
    presence_list_bytes: Annotated[int, Meta(ge=1024, le=2**24)] = 65_536
    # `info` of one member, encoded. soketi presence.maxMemberSizeInKb: 2; Pusher: 1 KB.
    presence_info_bytes: Annotated[int, Meta(ge=2, le=65_535)] = 1024
    # Sessions in channels with presence, for the whole engine; further ones are counted and not listed. 460 to 830
    # bytes each besides their info (measured; the more rooms, the more): less than a gigabyte when it is full.
    presence_members: Annotated[int, Meta(ge=0, le=2**30)] = 1_000_000

    # -- links between workers and the engine process; only with several workers
    # Publishes of one worker that may be under way; beyond it publishers are not read. 64 of the largest messages; a
    # Unix socket carries 1 GB/s (measured), so it is 4 ms of work.
    link_window_bytes: Annotated[int, Meta(ge=4096, le=2**30)] = 4_194_304
    # What the engine keeps for a worker that does not take it; beyond it messages are lost for that worker, and its
    # subscribers are told. NATS max_pending: 64 MiB; here it is the memory of one process for all workers.
    link_output_bytes: Annotated[int, Meta(ge=65_536, le=2**30)] = 16_777_216
    # A link with something under way that says nothing for so long is given up: a hung engine must not hold publishers.
    # As supervisor.stuck_seconds, which replaces the engine.
    link_silence_seconds: Seconds = 5.0


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the broker listens and whom it lets in."""

    # WebSocket listener, HOST:PORT. Loopback, so that nothing is open to a network by accident.
    listen: str = "127.0.0.1:8000"
    # Worker processes, or "auto": as many as there are processors for this broker (scheduler and control group).
    workers: Workers = 1
    # Anybody on this machine may subscribe and publish everything; demo page at /.
    dev: bool = False
    # With dev: listen beyond loopback all the same. Everything is then open to whoever reaches the port.
    dev_on_any_address: bool = False
    # Pages that may connect: scheme://host[:port], exact. "null" admits sandboxed pages and files, "*" every page.
    origins: list[str] = []
    # Clients that send no Origin: everything but browsers. False admits browsers only.
    allow_absent_origin: bool = True
    # How a browser is refused: "close" = 101 and a Close that the page can read, "http" = a status that it cannot
    # read, "auto" = close, until one address is refused too often.
    refusal: RefusalStyle = "auto"
    # A raw text message that is exactly "ping" is answered "pong" instead of being published: popular reconnecting
    # libraries send it as a heartbeat.
    text_ping: bool = True
    # Characters that channel names may hold besides A-Z a-z 0-9 _ . : @ + = ~ -
    extra_channel_characters: str = ""
    # Where the history goes when the process is told to end, and comes from at the next start; empty = nowhere.
    # systemd's StateDirectory=.
    state_directory: str = ""
    # Beyond loopback: take a channel pattern that lets clients without identity publish.
    anyone_may_publish_from_anywhere: bool = False
    # Addresses and networks (CIDR) of proxies that may say whose connection it is.
    trusted_proxies: list[str] = []
    # Where a client's address is read, if the peer is a trusted proxy: nowhere, Forwarded (RFC 7239), X-Forwarded-For.
    client_address: ClientAddress = "peer"
    # Every connection begins with a PROXY protocol v2 header (HAProxy send-proxy-v2), taken from trusted_proxies only.
    proxy_protocol: bool = False


class Supervisor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the supervisor of several workers judges its children."""

    # Silence of a child's event loop after which it is killed and replaced. Twice that bounds the replacement, as one
    # is judged at a time. gunicorn's timeout: 30 s; here a turn of the loop is bounded by milliseconds.
    stuck_seconds: Annotated[float, Meta(ge=0.5, le=3600)] = 5.0
    # From the start of a child to its readiness. gunicorn's timeout: 30 s.
    start_seconds: Seconds = 30.0
    # So many early deaths in a row of one child, each sooner than early_death_seconds after it was ready, are a crash
    # loop: the broker ends. systemd: DefaultStartLimitBurst 5 in DefaultStartLimitIntervalSec 10 s.
    most_early_deaths: Annotated[int, Meta(ge=1, le=1000)] = 5
    early_death_seconds: Seconds = 10.0


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key of the HTTP API: `ws-broker api-key` makes it and prints its hash."""

    # SHA-256 of the key, 64 hexadecimal digits: a key is 256 random bits, so that a slow hash would protect nothing.
    sha256: str = ""
    # What it may do: publish; read histories, presence and channels; admin: sessions and users.
    scopes: tuple[Scope, ...] = ("publish",)
    # Patterns of the channels it may do that with.
    channels: tuple[str, ...] = (">",)
    # 0 = no bound. Messages, not requests: a batch of 100 is 100.
    messages_per_second: Annotated[float, Meta(ge=0, le=10_000_000)] = 0.0


class Api(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP API for back ends."""

    # HOST:PORT; empty = no API. Loopback, so that nothing is open to a network by accident. Opened only if there are
    # keys. With server.dev: the port after server.listen, unless it is set.
    listen: str = "127.0.0.1:8001"
    # Host headers that are answered, as HOST or HOST:PORT, against DNS rebinding. Empty: with a loopback address the
    # names of this machine, else every one.
    hosts: list[str] = []
    # Request body. A batch of 100 messages of 40 KB; nginx client_max_body_size: 1 MiB.
    max_body_bytes: Bytes = 4_194_304
    # Messages of one batch. Centrifugo has no bound; Pusher: 10.
    max_batch_messages: Annotated[int, Meta(ge=1, le=65_536)] = 1000
    # From a request's first byte to its last. nginx client_body_timeout: 60 s between two reads; here it is the total.
    request_seconds: Seconds = 10.0
    # A connection without a request. nginx keepalive_timeout: 75 s.
    keep_alive_seconds: Seconds = 75.0
    # Connections of one worker; a back end's pool of 100, ten times.
    max_connections: Annotated[int, Meta(ge=1, le=2**16)] = 1024
    # Messages of one worker's API that wait for the engine (credit, acknowledgement); with this many, publishes are
    # answered 503. 128 MiB if each is as large as it may be. NATS JetStream's clients: 4000 publishes under way.
    max_waiting_publishes: Annotated[int, Meta(ge=1, le=2**20)] = 2048
    # By name, which the log and the errors show instead of the key.
    keys: dict[str, ApiKey] = {}


class AuthKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What tokens are verified with. Exactly one of `file`, `environment` and `jwks_url`."""

    # The one algorithm that is taken with this key (RFC 8725 section 3.1).
    algorithm: Algorithm = "ES256"
    # PEM or JWK of the public key; for HS256 the secret itself, at least 32 bytes (RFC 7518 section 3.2).
    file: str = ""
    # Name of the environment variable that holds the same.
    environment: str = ""
    # JSON Web Key Set (RFC 7517), fetched in the background.
    jwks_url: str = ""
    # Only for tokens that name this key. Empty: for tokens with any kid or none.
    kid: str = ""
    # Only for tokens of this issuer (`iss`), which then have to name it. Empty: whoever signed with it.
    issuer: str = ""
    # One of the token's audiences (`aud`) has to be this. Empty: tokens that name none.
    audience: str = ""


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who a client is, by a JSON Web Token."""

    # Keys by name, which the log and the errors show.
    keys: dict[str, AuthKey] = {}
    # Claim with the user's id, and with what others are shown with it.
    user_claim: str = "sub"
    info_claim: str = "info"
    # Cookie that holds the token; empty = none. It is looked at for allowed origins only.
    cookie: str = ""
    # Take the query parameter `token`: URLs end up in access logs, histories and Referer headers (RFC 9700 4.3.2).
    allow_tokens_in_urls_that_get_logged: bool = False
    # Clocks differ: for exp, nbf and iat. RFC 7519 section 4.1.4: "no more than a few minutes".
    leeway_seconds: Annotated[float, Meta(ge=0, le=600)] = 10.0
    # The event `expiring` before a connection's token expires. Centrifugo's clients refresh at the end of exp.
    expiring_seconds: Annotated[float, Meta(ge=0, le=3600)] = 60.0
    # Closes at expiry are spread over this long: tokens of many pages are made in one moment.
    expiry_spread_seconds: Annotated[float, Meta(ge=0, le=600)] = 5.0
    # A JSON connection that has neither an identity nor a subscription after this long is closed. NATS: 2 s.
    auth_seconds: Seconds = 10.0
    # Longest token. As limits.max_offer_bytes: half of a header line.
    max_token_bytes: Annotated[int, Meta(ge=128, le=65_536)] = 4096
    # Verified tokens remembered until they expire, by their SHA-256. Some 1 KB each.
    cached_tokens: Annotated[int, Meta(ge=0, le=2**22)] = 16_384
    # A key set is fetched again after this long, and when a token names an unknown key.
    jwks_refresh_seconds: Annotated[float, Meta(ge=10, le=86_400)] = 300.0
    jwks_timeout_seconds: Annotated[float, Meta(gt=0, le=60)] = 5.0
    # Between two fetches that unknown keys asked for: strangers must not drive them.
    jwks_cooldown_seconds: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    jwks_max_bytes: Bytes = 262_144


class Hook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who a client is, by asking the site: for sites with sessions instead of tokens."""

    # POST goes here at connect and for in-band subscribe; empty = no hook.
    url: str = ""
    # Until the answer is there; beyond it the client is refused (503).
    timeout_seconds: Annotated[float, Meta(gt=0, le=2)] = 2.0
    # Questions under way from one worker, and those that wait for their turn; more are refused (503).
    max_concurrent: Annotated[int, Meta(ge=1, le=4096)] = 64
    max_waiting: Annotated[int, Meta(ge=0, le=2**20)] = 4096
    # Cookies and headers of the request that the site is shown, by name. Nothing else of it is.
    cookies: list[str] = []
    headers: list[str] = []
    # A verdict is used again for the same question this long. 0 = never.
    cache_seconds: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    cached_verdicts: Annotated[int, Meta(ge=0, le=2**22)] = 16_384
    max_response_bytes: Bytes = 65_536
    # The site knows the broker by this: `Authorization: Bearer` with the content of the file or variable.
    secret_file: str = ""
    secret_environment: str = ""


class Drain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a worker ends, from SIGTERM to its exit. With server.dev delay and window are 0 unless they are set."""

    # Goes on accepting for so long, while whoever distributes clients learns that it ends. 0: nobody does, or it is
    # waited for elsewhere (Kubernetes: a preStop of some seconds).
    delay_seconds: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    # Over which the closes (1012) are spread. NATS lame duck: 2 min after 10 s, at least 30 s; Kubernetes grants 30 s
    # by default for everything. 0: everybody at once, with 1001.
    window_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 10.0
    # Per worker; more connections lengthen the window. Telling one costs this worker 8 us (measured): the bound is for
    # those who take the clients in, with their TLS, tokens and joins, and who serve others meanwhile.
    closes_per_second: Annotated[int, Meta(ge=1, le=2**20)] = 2000
    # Each client is told to wait for a random part of it. RFC 6455 section 7.2.3 suggests up to 5 s for clients that
    # all lost the server at one moment; these did not, and a page that waits misses messages.
    reconnect_seconds: Annotated[float, Meta(ge=0, le=3600)] = 2.0


class Admin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The port for operators: /metrics, /livez, /readyz. It shows numbers, never a channel or a user."""

    # HOST:PORT; empty = no such port. Loopback, so that nothing is open to a network by accident. With server.dev:
    # another port if this one is taken.
    listen: str = "127.0.0.1:9000"
    # Two scrapers, a kubelet and a person, many times over; each is one request that is answered at once.
    max_connections: Annotated[int, Meta(ge=1, le=65_536)] = 64


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said on standard error."""

    # "console" for people, "json" one object a line; "auto": console on a terminal, else json.
    format: LogFormat = "auto"
    # --verbose is "debug".
    level: LogLevel = "info"
    # One line for each session that opens or ends and for each request of the API.
    access: bool = False
    # Lines of one kind and one process; more are counted, and the count is said. journald lets 10 000 in 30 s pass.
    lines_per_second: Annotated[int, Meta(ge=1, le=100_000)] = 20


class ChannelPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for the channels of one pattern; the defaults also hold for channels that no pattern matches."""

    # Who may subscribe: anyone; authenticated: any user; claim: whose token or hook lists the channel in `subscribe`;
    # server: nobody by themselves, the API subscribes them.
    subscribe: Who = "claim"
    # Who may publish over a WebSocket, likewise, by `publish`; server: the API only.
    publish: Who = "server"
    # Publishes of one connection in one channel. 0 = no bound. Beyond it they are refused with rate_limited.
    messages_per_second: Annotated[float, Meta(ge=0, le=1_000_000)] = 0.0
    # What may be published. "json" is checked once and delivered as `data`; "any" keeps what came as it came.
    payload: Payload = "any"
    # Victim when a connection's send queue is full and the connection is blocked. "latest" keeps one unsent message;
    # "catch_up" takes back what is queued and reads on from the history. "auto": that with history, else disconnect.
    queue: QueuePolicy = "auto"
    # What is kept for those who come back: so many messages (0 = none), so old at most, so many payload bytes at most.
    # Five minutes: longer than a tunnel, a reload and a deploy. 1 MiB: what a send queue holds as well.
    history_count: Annotated[int, Meta(ge=0, le=2**20)] = 0
    history_seconds: Seconds = 300.0
    history_bytes: Annotated[int, Meta(ge=1, le=2**32)] = 1_048_576
    # Whether subscribers are members that others see: command `presence`, events `join` and `leave`.
    presence: bool = False
    # Raw subscribers of a channel that lost messages on their way to this worker (its engine died, or it stood still):
    # they cannot be told, so they are closed with 1012; "ignore" where a silent hole does no harm, as for a clock.
    raw_gap: Literal["close", "ignore"] = "close"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A complete configuration. `channels` is keyed by pattern; the most specific one wins."""

    server: Server = Server()
    supervisor: Supervisor = Supervisor()
    limits: Limits = Limits()
    drain: Drain = Drain()
    api: Api = Api()
    auth: Auth = Auth()
    hook: Hook = Hook()
    admin: Admin = Admin()
    log: Log = Log()
    channels: dict[str, ChannelPolicy] = {}
