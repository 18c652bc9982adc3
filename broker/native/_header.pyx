"""Header lines of an HTTP/1.1 request, and the grammar of the values that the WebSocket handshake rests on.

Owns RFC 9112 section 5 (field lines; no folding, no space before the colon) and the list, extension, host, key and version grammars
of RFC 9110, RFC 3986 and RFC 6455. `_request` calls it with bytes it owns. It reports what is there and whether that is well-formed;
which status follows is decided there.
"""

cdef void fill(bytes characters, int bit):
    cdef uint8_t character
    for character in characters:
        CLASS[character] |= bit


cdef bytes ALNUM = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
fill(ALNUM + b"!#$%&'*+-.^_`|~", TOKEN)
fill(b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100)), VALUE)
fill(bytes(range(0x21, 0x7F)), VISIBLE)
fill(ALNUM + b"-._~!$&'()*+,;=", REG_NAME)
fill(b"0123456789ABCDEFabcdef", HEX)
fill(b"0123456789", DIGIT)
fill(ALNUM + b"+/", BASE64)


# `text` is a token, so a control byte cannot pass for a letter or "-" here.
cdef inline bint same(const uint8_t *text, size_t size, const char *word, size_t word_size) noexcept nogil:
    cdef size_t i
    if size != word_size:
        return False
    for i in range(size):
        if text[i] | 0x20 != <uint8_t>word[i]:
            return False
    return True


cdef inline size_t skip_space(const uint8_t *text, size_t size, size_t at) noexcept nogil:
    while at < size and (text[at] == c" " or text[at] == c"\t"):
        at += 1
    return at


# Reads `#token` (with `slash`: `#( token [ "/" token ] )`), empty elements ignored as RFC 9110 section 5.6.1.2 demands.
# False = it is not such a list. `found` is set when an element is `word`, in any case; `count` grows by the elements.
cdef bint read_list(
    const uint8_t *text, size_t size, bint slash, const char *word, size_t word_size, bint *found, uint32_t *count
) noexcept nogil:
    cdef size_t at = 0
    cdef size_t start, end
    while True:
        at = skip_space(text, size, at)
        if at == size:
            return True
        if text[at] != c",":
            start = at
            at = end = run(text, size, at, TOKEN)
            if end == start:
                return False
            if slash and at < size and text[at] == c"/":
                at = run(text, size, at + 1, TOKEN)
                if at == end + 1:
                    return False
                end = at
            at = skip_space(text, size, at)
            if at < size and text[at] != c",":
                return False
            count[0] += 1
            if same(text + start, end - start, word, word_size):
                found[0] = True
        if at < size:
            at += 1


# extension-param's value: a token, or a quoted-string that is one when unquoted (RFC 6455 section 9.1). Returns its end, 0 = malformed.
cdef size_t read_parameter_value(const uint8_t *text, size_t size, size_t at) noexcept nogil:
    cdef size_t start = at
    if at == size or text[at] != c'"':
        at = run(text, size, at, TOKEN)
        return at if at > start else 0
    at += 1
    while at < size and text[at] != c'"':
        if text[at] == c"\\":
            at += 1
        if at == size or not CLASS[text[at]] & TOKEN:
            return 0
        at += 1
    return at + 1 if at < size and at > start + 1 else 0


# Reads `#( token *( ";" token [ "=" value ] ) )`; False = it is not such a list. Grammar only: no name means anything here.
cdef bint read_extensions(const uint8_t *text, size_t size, uint32_t *count) noexcept nogil:
    cdef size_t at = 0
    cdef size_t start
    while True:
        at = skip_space(text, size, at)
        if at == size:
            return True
        if text[at] == c",":
            at += 1
            continue
        start = at
        at = run(text, size, at, TOKEN)
        if at == start:
            return False
        count[0] += 1
        while True:
            at = skip_space(text, size, at)
            if at == size:
                return True
            if text[at] == c",":
                at += 1
                break
            if text[at] != c";":
                return False
            start = at = skip_space(text, size, at + 1)
            at = skip_space(text, size, run(text, size, at, TOKEN))
            if at == start:
                return False
            if at < size and text[at] == c"=":
                at = read_parameter_value(text, size, skip_space(text, size, at + 1))
                if at == 0:
                    return False


cdef inline void keep(Field *field, const uint8_t *text, size_t size) noexcept nogil:
    field.text = text
    field.size = size
    field.lines += 1


cdef void take(Fields *fields, const uint8_t *name, size_t length, const uint8_t *text, size_t size) noexcept nogil:
    cdef bint unused = False
    cdef uint32_t elements = 0
    if length == 4 and same(name, length, "host", 4):
        keep(&fields.host, text, size)
    elif length == 6 and same(name, length, "origin", 6):
        keep(&fields.origin, text, size)
    elif length == 7 and same(name, length, "upgrade", 7):
        if not read_list(text, size, True, "websocket", 9, &fields.websocket, &elements):
            fields.hop_broken = True
    elif length == 10 and same(name, length, "connection", 10):
        if not read_list(text, size, False, "upgrade", 7, &fields.upgrade, &elements):
            fields.hop_broken = True
    elif length == 14 and same(name, length, "content-length", 14):
        keep(&fields.length, text, size)
    elif length == 17 and same(name, length, "transfer-encoding", 17):
        keep(&fields.encoding, text, size)
    elif length == 17 and same(name, length, "sec-websocket-key", 17):
        keep(&fields.key, text, size)
    elif length == 21 and same(name, length, "sec-websocket-version", 21):
        keep(&fields.version, text, size)
    elif length == 22 and same(name, length, "sec-websocket-protocol", 22):
        if size != 0:  # an empty header counts as absent
            keep(&fields.offer, text, size)
            if not read_list(text, size, False, "", 0, &unused, &fields.offered):
                fields.offer_broken = True
    elif length == 24 and same(name, length, "sec-websocket-extensions", 24):
        fields.extension_lines += 1
        if not read_extensions(text, size, &fields.extensions):
            fields.extensions_broken = True


cdef int read_headers(const uint8_t *text, size_t size, uint32_t max_headers, Fields *fields) noexcept nogil:
    cdef size_t at = 0
    cdef size_t name, length, start, end
    cdef uint32_t count = 0
    while at < size:
        count += 1
        if count > max_headers:
            return 431
        name = at
        at = run(text, size, at, TOKEN)
        length = at - name
        # An obs-fold line has no name; white space before the colon has let requests be smuggled (RFC 9112 section 5.1).
        if length == 0 or at == size or text[at] != c":":
            return 400
        start = skip_space(text, size, at + 1)
        end = at = run(text, size, start, VALUE)
        if size - at < 2 or text[at] != c"\r" or text[at + 1] != c"\n":
            return 400
        at += 2
        while end > start and (text[end - 1] == c" " or text[end - 1] == c"\t"):
            end -= 1
        take(fields, text + name, length, text + start, end - start)
    return 0


# ---- values -------------------------------------------------------------------------------------------------------------------

# uri-host [ ":" port ], RFC 3986 section 3.2.2. Of IP literals only IPv6, by its characters.
cdef bint host_ok(const Field *host) noexcept nogil:
    cdef const uint8_t *text = host.text
    cdef size_t size = host.size
    cdef size_t at = 0
    cdef size_t start
    if size != 0 and text[0] == c"[":
        at = 1
        while at < size and (CLASS[text[at]] & HEX or text[at] == c":" or text[at] == c"."):
            at += 1
        if at < 3 or at == size or text[at] != c"]":
            return False
        at += 1
    else:
        while at < size:
            if text[at] == c"%":
                if size - at < 3 or not CLASS[text[at + 1]] & CLASS[text[at + 2]] & HEX:
                    return False
                at += 3
            elif CLASS[text[at]] & REG_NAME:
                at += 1
            else:
                break
        if at == 0:
            return False
    if at == size:
        return True
    if text[at] != c":":
        return False
    start = at + 1
    at = run(text, size, start, DIGIT)
    return at == size and size - start <= 5


# base64 of exactly 16 bytes: 22 characters, of the last only two bits in use, and "==".
cdef bint key_ok(const Field *key) noexcept nogil:
    cdef uint8_t last
    if key.size != 24 or run(key.text, 22, 0, BASE64) != 22 or key.text[22] != c"=" or key.text[23] != c"=":
        return False
    last = key.text[21]
    return last == c"A" or last == c"Q" or last == c"g" or last == c"w"


# 13, another version (426), or 0 = not the grammar of RFC 6455 section 4.3: a number up to 255 without leading zeros.
cdef int version_of(const Field *version) noexcept nogil:
    cdef size_t size = version.size
    cdef size_t i
    cdef int number = 0
    if size == 0 or size > 3 or run(version.text, size, 0, DIGIT) != size or (size > 1 and version.text[0] == c"0"):
        return 0
    for i in range(size):
        number = number * 10 + version.text[i] - c"0"
    if number > 255:
        return 0
    return number if number != 0 else 1  # version 0 is well-formed, and not ours


cdef bint has_content(const Field *length) noexcept nogil:
    cdef size_t i
    for i in range(length.size):
        if length.text[i] != c"0":
            return True
    return False
