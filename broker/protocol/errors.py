"""Every error word a client can be told in an `error` event, in `channels[].error` or in a problem document.

Used by the offer grammar, the commands and the gateway. A word is stable and safe as a metric label; a text is
fixed and never contains what a client sent. docs/protocol.md lists the same words (a test compares them).
"""

ERRORS: dict[str, str] = {
    # the offer, and channels named in band
    "malformed_offer": "the offer is not a list of tokens (RFC 6455 section 11.3.4)",
    "offer_too_big": "the offer is longer than this server takes",
    "nothing_to_answer": "offer a format or a channel beside the token",
    "unknown_format": "none of the formats is spoken here",
    "bad_credential": "the offer holds more than one token, or an empty one",
    "token_in_query": "a token does not belong in a URL",
    "bad_channel": "not a channel name",
    "bad_option": "not an option of a channel",
    "duplicate_channel": "the channel is named twice",
    "too_many_channels": "more channels than one connection may have",
    # commands
    "bad_json": "a command is one JSON object",
    "bad_command": "the command has a wrong or missing field",
    "unknown_type": "no command has this type",
    "not_supported": "this server does not offer the command",
    "no_history": "the channel keeps no messages",
    "not_subscribed": "the connection is not subscribed to this channel",
    "already_subscribed": "the connection is subscribed to this channel already",
    "bad_payload": "the payload cannot be delivered in every format",
    "wrong_payload_kind": "the channel does not take this kind of payload",
    # permission and state
    "not_authenticated": "a valid token is needed",
    "token_expired": "the token has expired; fetch a new one",
    "other_identity": "the token is another user's; connect anew to be somebody else",
    "not_permitted": "not allowed for this connection",
    "rate_limited": "too much in too short a time",
    "engine_unavailable": "nothing was published; try again later",
    "overloaded": "the server cannot decide that now; try again later",
    "outcome_unknown": "nobody knows whether it was published",
    "internal_error": "the server made a mistake",
}
