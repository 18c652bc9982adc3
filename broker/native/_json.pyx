"""JSON on the publish edge: checks that a text can be delivered in every format, and writes string literals and base64.

The hub and the gateway call it with the bytes of a message. It builds no object and keeps nothing: what passes goes out as it came
in. Stricter than RFC 8259 where some reader would fail: lone surrogates, integers and floats that no 64-bit number holds, deep
nesting. It does not look at member names, so a name that comes twice passes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

# Why a text is refused: JsonProblem -> (word, fixed text).
PROBLEMS = {
    JSON_SYNTAX: ("json_syntax", "not one JSON value"),
    JSON_DEPTH: ("json_depth", "the JSON is nested too deeply"),
    JSON_SURROGATE: ("json_surrogate", "a surrogate escape without its partner stands for no character"),
    JSON_NUMBER: ("json_number", "a number is too large for 64 bits"),
    JSON_UTF8: ("json_utf8", "the JSON is not UTF-8"),
}

cdef enum:
    DEPTH_MAX = 64

# What the checker expects next.
cdef enum Expected:
    VALUE
    VALUE_OR_END        # just after "["
    NAME
    NAME_OR_END         # just after "{"
    COMMA_OR_END        # after a value; after the outermost one: nothing

# From here a decimal rounds to infinity in binary64: half way between the largest number and the next that would follow it (a tie
# goes to the even one, which is infinity). 309 digits; compared digit by digit, because strtod needs a terminated copy and a locale.
cdef bytes OVERFLOW = str(2**1024 - 2**970).encode()
cdef const char *OVERFLOW_DIGITS = PyBytes_AS_STRING(OVERFLOW)
cdef enum:
    OVERFLOW_EXPONENT = 308

cdef uint8_t ESCAPE[256]        # 0 = as it is, 1 = \u00XX, otherwise the letter of the short form; filled once at import


cdef void fill(bytes characters, bytes letters):
    cdef int i
    for i in range(0x20):
        ESCAPE[i] = 1
    for i in range(len(characters)):
        ESCAPE[<uint8_t>characters[i]] = letters[i]


fill(b'"\\\b\f\n\r\t', b'"\\bfnrt')

cdef const uint8_t *HEX_DIGITS = b"0123456789abcdef"
cdef const uint8_t *BASE64_DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


# ---- strings ------------------------------------------------------------------------------------------------------------------

cdef extern from *:
    """
    /* Eight bytes with the first one lowest. */
    static inline uint64_t load_eight(const uint8_t *data)
    {
        uint64_t word;
        memcpy(&word, data, sizeof word);
    #if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
    #endif
        return word;
    }
    """
    uint64_t load_eight(const uint8_t *data) noexcept nogil
    size_t lowest_bit "__builtin_ctzll"(uint64_t word) noexcept nogil


# The top bit of each of eight bytes that is a control character, a quote or a backslash. A borrow goes upwards from such a byte only,
# so marks above the lowest one may be false; the lowest is true, and there is none without one.
cdef inline uint64_t marks(uint64_t word) noexcept nogil:
    cdef uint64_t ones = 0x0101010101010101
    cdef uint64_t quote = word ^ (ones * 0x22)
    cdef uint64_t backslash = word ^ (ones * 0x5C)
    return (
        ((word - ones * 0x20) & ~word) | ((quote - ones) & ~quote) | ((backslash - ones) & ~backslash)
    ) & <uint64_t>0x8080808080808080


# The first byte from `at` on that is not plain ASCII inside a string: a mark, or part of a longer UTF-8 sequence.
cdef inline size_t skip_plain_ascii(const uint8_t *data, size_t size, size_t at) noexcept nogil:
    cdef uint64_t word, marked
    while size - at >= 8:
        word = load_eight(data + at)
        marked = marks(word) | (word & <uint64_t>0x8080808080808080)
        if marked:
            return at + lowest_bit(marked) // 8
        at += 8
    while at < size and data[at] < 0x80 and not ESCAPE[data[at]]:
        at += 1
    return at


cdef inline bint continues(uint8_t byte) noexcept nogil:
    return byte & 0xC0 == 0x80


# Length of the UTF-8 sequence at data[0] >= 0x80 (RFC 3629 section 4: no overlong form, no surrogate, nothing above U+10FFFF); 0 = none.
cdef size_t utf8_length(const uint8_t *data, size_t size) noexcept nogil:
    cdef uint8_t lead = data[0]
    if lead < 0xC2 or lead > 0xF4:
        return 0
    if size < 2 or not continues(data[1]):
        return 0
    if lead < 0xE0:
        return 2
    if size < 3 or not continues(data[2]):
        return 0
    if lead < 0xF0:
        return 0 if (lead == 0xE0 and data[1] < 0xA0) or (lead == 0xED and data[1] > 0x9F) else 3
    if size < 4 or not continues(data[3]):
        return 0
    return 0 if (lead == 0xF0 and data[1] < 0x90) or (lead == 0xF4 and data[1] > 0x8F) else 4


# The code unit of a \uXXXX at data[at], -1 = it is none. `at` may be anywhere up to size.
cdef int code_unit(const uint8_t *data, size_t size, size_t at) noexcept nogil:
    cdef int unit = 0
    cdef int i
    cdef uint8_t digit
    if size - at < 6 or data[at] != c"\\" or data[at + 1] != c"u":
        return -1
    for i in range(2, 6):
        digit = data[at + i]
        unit <<= 4
        if c"0" <= digit <= c"9":
            unit |= digit - c"0"
        elif c"a" <= digit | 0x20 <= c"f":
            unit |= (digit | 0x20) - c"a" + 10
        else:
            return -1
    return unit


# Reads the escape at data[at[0]], the backslash, and moves past it.
cdef int read_escape(const uint8_t *data, size_t size, size_t *at) noexcept nogil:
    cdef size_t start = at[0]
    cdef int unit, partner
    if size - start < 2:
        return JSON_SYNTAX
    if data[start + 1] != c"u":
        at[0] += 2
        return JSON_OK if data[start + 1] in (c'"', c"\\", c"/", c"b", c"f", c"n", c"r", c"t") else JSON_SYNTAX
    unit = code_unit(data, size, start)
    if unit < 0:
        return JSON_SYNTAX
    at[0] += 6
    if unit < 0xD800 or unit > 0xDFFF:
        return JSON_OK
    partner = code_unit(data, size, start + 6)
    if unit > 0xDBFF or partner < 0xDC00 or partner > 0xDFFF:
        return JSON_SURROGATE
    at[0] += 6
    return JSON_OK


# Reads a string from behind its opening quote to behind its closing one. At a fault `at` is where it begins.
cdef int read_string(const uint8_t *data, size_t size, size_t *at) noexcept nogil:
    cdef size_t here = at[0]
    cdef size_t length
    cdef int problem = JSON_OK
    while problem == JSON_OK:
        at[0] = here = skip_plain_ascii(data, size, here)
        if here == size or data[here] < 0x20:
            return JSON_SYNTAX
        if data[here] == c'"':
            at[0] = here + 1
            return JSON_OK
        if data[here] == c"\\":
            problem = read_escape(data, size, &here)
            continue
        while here < size and data[here] >= 0x80:
            length = utf8_length(data + here, size - here)
            if length == 0:
                at[0] = here
                return JSON_UTF8
            here += length
    return problem


# ---- numbers ------------------------------------------------------------------------------------------------------------------

cdef inline size_t skip_digits(const uint8_t *data, size_t size, size_t at) noexcept nogil:
    while at < size and c"0" <= data[at] <= c"9":
        at += 1
    return at


# Whether an integer of these digits (no leading zero) is within -2**63 .. 2**64 - 1.
cdef bint integer_fits(const uint8_t *digits, size_t count, bint negative) noexcept nogil:
    cdef const char *limit = "9223372036854775808" if negative else "18446744073709551615"
    cdef size_t limit_count = 19 if negative else 20
    return count < limit_count or (count == limit_count and memcmp(digits, limit, count) <= 0)


# Whether the decimal fraction digits[:count] (one "." may be among them, the first `whole` are before it) times 10**exponent is finite.
cdef bint float_fits(const uint8_t *digits, size_t count, size_t whole, int64_t exponent) noexcept nogil:
    cdef size_t at = 0
    cdef int compared = 0
    cdef uint8_t digit
    while at < count and (digits[at] == c"0" or digits[at] == c"."):
        at += 1
    if at == count:
        return True  # zero
    # Now 10**exponent <= value < 10**(exponent + 1).
    exponent += <int64_t>whole - 1 - <int64_t>at if at < whole else <int64_t>whole - <int64_t>at
    if exponent != OVERFLOW_EXPONENT:
        return exponent < OVERFLOW_EXPONENT
    while compared <= OVERFLOW_EXPONENT:
        digit = c"0"  # behind the last one
        if at < count and digits[at] == c".":
            at += 1
        if at < count:
            digit = digits[at]
            at += 1
        if digit != <uint8_t>OVERFLOW_DIGITS[compared]:
            return digit < <uint8_t>OVERFLOW_DIGITS[compared]
        compared += 1
    return False


# Reads a number at data[at[0]], "-" or a digit, and moves past it. Out of range: `at` stays at its first byte.
cdef int read_number(const uint8_t *data, size_t size, size_t *at) noexcept nogil:
    cdef size_t start = at[0]
    cdef size_t first, end, mantissa_end, here
    cdef bint negative = data[start] == c"-"
    cdef bint exponent_negative = False
    cdef bint is_float = False
    cdef int64_t exponent = 0
    first = start + 1 if negative else start
    end = here = skip_digits(data, size, first)
    at[0] = here
    if end == first:
        return JSON_SYNTAX
    if data[first] == c"0" and end - first > 1:
        at[0] = first + 1
        return JSON_SYNTAX
    if here < size and data[here] == c".":
        is_float = True
        here = skip_digits(data, size, end + 1)
        at[0] = here
        if here == end + 1:
            return JSON_SYNTAX
    mantissa_end = here
    if here < size and data[here] | 0x20 == c"e":
        is_float = True
        here += 1
        if here < size and (data[here] == c"+" or data[here] == c"-"):
            exponent_negative = data[here] == c"-"
            here += 1
        at[0] = here
        if here == size or not c"0" <= data[here] <= c"9":
            return JSON_SYNTAX
        while here < size and c"0" <= data[here] <= c"9":
            if exponent < <int64_t>1 << 50:  # far beyond what the digits of any text in memory can make up for
                exponent = exponent * 10 + data[here] - c"0"
            here += 1
    at[0] = here
    if exponent_negative:
        exponent = -exponent
    if is_float:
        if float_fits(data + first, mantissa_end - first, end - first, exponent):
            return JSON_OK
    elif integer_fits(data + first, end - first, negative):
        return JSON_OK
    at[0] = start
    return JSON_NUMBER


# ---- the checker --------------------------------------------------------------------------------------------------------------

cdef inline size_t skip_space(const uint8_t *data, size_t size, size_t at) noexcept nogil:
    while at < size and (data[at] == c" " or data[at] == c"\n" or data[at] == c"\r" or data[at] == c"\t"):
        at += 1
    return at


cdef inline int read_word(const uint8_t *data, size_t size, size_t *at, const char *word, size_t length) noexcept nogil:
    if size - at[0] < length or memcmp(data + at[0], word, length) != 0:
        return JSON_SYNTAX
    at[0] += length
    return JSON_OK


# A value that is neither array nor object, at data[at[0]].
cdef int read_scalar(const uint8_t *data, size_t size, size_t *at) noexcept nogil:
    cdef uint8_t byte = data[at[0]]
    if byte == c'"':
        at[0] += 1
        return read_string(data, size, at)
    if byte == c"-" or c"0" <= byte <= c"9":
        return read_number(data, size, at)
    if byte == c"t":
        return read_word(data, size, at, "true", 4)
    if byte == c"f":
        return read_word(data, size, at, "false", 5)
    if byte == c"n":
        return read_word(data, size, at, "null", 4)
    return JSON_SYNTAX


# A member's name and its colon, at data[at[0]].
cdef int read_name(const uint8_t *data, size_t size, size_t *at) noexcept nogil:
    cdef int problem
    if data[at[0]] != c'"':
        return JSON_SYNTAX
    at[0] += 1
    problem = read_string(data, size, at)
    if problem != JSON_OK:
        return problem
    at[0] = skip_space(data, size, at[0])
    return read_word(data, size, at, ":", 1)


cdef int json_check(const uint8_t *data, size_t size, int max_depth, size_t *where) noexcept nogil:
    cdef size_t at = 0
    cdef uint64_t objects = 0       # one bit per open level, the innermost lowest: 1 = object, 0 = array
    cdef int depth = 0
    cdef Expected expected = VALUE
    cdef uint8_t byte
    cdef int problem = JSON_OK
    if max_depth > DEPTH_MAX:
        max_depth = DEPTH_MAX
    while problem == JSON_OK:
        at = where[0] = skip_space(data, size, at)
        if at == size:
            return JSON_OK if depth == 0 and expected == COMMA_OR_END else JSON_SYNTAX
        byte = data[at]
        if expected != VALUE and expected != NAME and depth != 0 and byte == (c"}" if objects & 1 else c"]"):
            objects >>= 1
            depth -= 1
            at += 1
            expected = COMMA_OR_END
        elif expected == COMMA_OR_END:
            if depth == 0 or byte != c",":
                return JSON_SYNTAX
            at += 1
            expected = NAME if objects & 1 else VALUE
        elif expected == NAME or expected == NAME_OR_END:
            problem = read_name(data, size, &at)
            expected = VALUE
        elif byte == c"[" or byte == c"{":
            if depth >= max_depth:
                return JSON_DEPTH
            depth += 1
            objects = objects << 1 | (byte == c"{")
            at += 1
            expected = NAME_OR_END if byte == c"{" else VALUE_OR_END
        else:
            problem = read_scalar(data, size, &at)
            expected = COMMA_OR_END
    where[0] = at
    return problem


# ---- writers ------------------------------------------------------------------------------------------------------------------

cdef size_t json_string_size(const uint8_t *text, size_t size) noexcept nogil:
    cdef size_t total = size + 2
    cdef size_t at = 0
    cdef uint64_t word
    while at < size:
        if size - at >= 8:
            memcpy(&word, text + at, 8)
            if not marks(word):
                at += 8
                continue
        if ESCAPE[text[at]]:
            total += 5 if ESCAPE[text[at]] == 1 else 1
        at += 1
    return total


cdef uint8_t *json_string_write(uint8_t *out, const uint8_t *text, size_t size) noexcept nogil:
    cdef size_t at = 0
    cdef uint64_t word
    cdef uint8_t byte
    out[0] = c'"'
    out += 1
    while at < size:
        if size - at >= 8:
            memcpy(&word, text + at, 8)
            if not marks(word):
                memcpy(out, &word, 8)
                out += 8
                at += 8
                continue
        byte = text[at]
        at += 1
        if not ESCAPE[byte]:
            out[0] = byte
            out += 1
            continue
        out[0] = c"\\"
        if ESCAPE[byte] != 1:
            out[1] = ESCAPE[byte]
            out += 2
        else:
            memcpy(out + 1, b"u00", 3)
            out[4] = HEX_DIGITS[byte >> 4]
            out[5] = HEX_DIGITS[byte & 15]
            out += 6
    out[0] = c'"'
    return out + 1


cdef size_t base64_size(size_t size) noexcept nogil:
    return (size + 2) // 3 * 4


cdef uint8_t *base64_write(uint8_t *out, const uint8_t *data, size_t size) noexcept nogil:
    cdef uint32_t three
    while size >= 3:
        three = <uint32_t>data[0] << 16 | <uint32_t>data[1] << 8 | data[2]
        out[0] = BASE64_DIGITS[three >> 18]
        out[1] = BASE64_DIGITS[three >> 12 & 63]
        out[2] = BASE64_DIGITS[three >> 6 & 63]
        out[3] = BASE64_DIGITS[three & 63]
        out += 4
        data += 3
        size -= 3
    if size == 0:
        return out
    three = <uint32_t>data[0] << 16 | (<uint32_t>data[1] << 8 if size == 2 else 0)
    out[0] = BASE64_DIGITS[three >> 18]
    out[1] = BASE64_DIGITS[three >> 12 & 63]
    out[2] = BASE64_DIGITS[three >> 6 & 63] if size == 2 else c"="
    out[3] = c"="
    return out + 4


# ---- for Python ---------------------------------------------------------------------------------------------------------------

def check(data: bytes, max_depth: int = 64) -> tuple[str, int] | None:
    """None when `data` is one JSON value that can be delivered, else (word of PROBLEMS, offset of the fault)."""
    cdef bytes owned = data
    cdef size_t where = 0
    cdef int problem = json_check(<const uint8_t *>PyBytes_AS_STRING(owned), PyBytes_GET_SIZE(owned), max_depth, &where)
    return None if problem == JSON_OK else (PROBLEMS[problem][0], where)


def quote(text: bytes) -> bytes:
    """The JSON string literal for UTF-8 `text`."""
    cdef bytes owned = text
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(owned)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, json_string_size(start, PyBytes_GET_SIZE(owned)))
    json_string_write(<uint8_t *>PyBytes_AS_STRING(out), start, PyBytes_GET_SIZE(owned))
    return out


def base64(data: bytes) -> bytes:
    """Standard base64 with padding."""
    cdef bytes owned = data
    cdef bytes out = PyBytes_FromStringAndSize(NULL, base64_size(PyBytes_GET_SIZE(owned)))
    base64_write(<uint8_t *>PyBytes_AS_STRING(out), <const uint8_t *>PyBytes_AS_STRING(owned), PyBytes_GET_SIZE(owned))
    return out
